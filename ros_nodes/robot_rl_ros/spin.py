"""How every node's process starts and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from robot_rl.errors import RobotRLError


def run(make: Callable[[], Node]) -> None:
    """Spin the node until it is told to stop; a user's error is one line and exit status 2."""
    rclpy.init()
    node = None
    try:
        node = make()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RobotRLError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    finally:
        if node is not None:
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
