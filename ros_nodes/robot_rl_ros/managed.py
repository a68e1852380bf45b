"""How every node's process starts, is managed and ends."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.utilities import try_shutdown

from robot_rl.errors import ConfigError, RobotRLError

PARENT_VARIABLE = "ROBOT_RL_BRINGUP_PID"
"""Set for the processes of a bring-up: they end when that process is gone, however it ended."""


class ManagedNode(LifecycleNode):
    """A node with ROS 2 lifecycle states; it works only while it is active.

    With the parameter `autostart`, true by default, it configures and activates itself. A node loads what
    it needs when it is made, so that what is wrong ends its process with one line.
    """

    active = False

    def autostart(self) -> None:
        """Go to the state that the parameter asks for; the last thing that a constructor does."""
        if self.declare_parameter("autostart", True).value:
            self.trigger_configure()
            self.trigger_activate()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        # From active this is called without `on_deactivate`.
        self.active = False
        return super().on_shutdown(state)

    def number(self, name: str, default: float) -> float:
        """Declare a parameter that is a number; a whole one is taken as well."""
        descriptor = ParameterDescriptor(dynamic_typing=True)
        value = self.declare_parameter(name, default, descriptor).value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"parameter {name} of {self.get_name()} is {value!r}; expected a number")
        return float(value)

    def text(self, name: str, default: str = "") -> str:
        """Declare a parameter that is a string."""
        return str(self.declare_parameter(name, default).value)


def end_with_parent(node: Node) -> None:
    """Shut down when the process that brought the graph up is gone."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        # By no clock that may stand still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(1.0, lambda: None if os.getppid() == int(parent) else try_shutdown(), clock=steady)


def run(make: Callable[[], Any]) -> None:
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
