"""How every node's process starts and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import try_shutdown

from robot_rl.errors import RobotRLError

PARENT_VARIABLE = "ROBOT_RL_BRINGUP_PID"
"""Set for the processes of a bring-up: they end when that process is gone, however it ended."""


def end_with_parent(node: Node) -> None:
    """Shut down when the process that brought the graph up is gone."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        node.create_timer(1.0, lambda: None if os.getppid() == int(parent) else try_shutdown())


def run(make: Callable[[], Node]) -> None:
    """Spin the node until it is told to stop; a user's error is one line and exit status 2."""
    rclpy.init()
    node = None
    try:
        node = make()
        end_with_parent(node)
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RobotRLError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    finally:
        if node is not None:
            node.destroy_node()
        try_shutdown()
