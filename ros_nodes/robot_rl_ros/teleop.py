"""The teleop node: a person acts, with the axes and buttons of `joy_node`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sensor_msgs.msg import Joy

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardConfig
from robot_rl_ros import messages
from robot_rl_ros.acting import ActingNode, Action
from robot_rl_ros.bundle import robot_of
from robot_rl_ros.deadman import JOY, Press, Switch
from robot_rl_ros.managed import run
from robot_rl_ros.observing import Observation
from sim.tasks import TASKS

FRESH_S = 0.3
"""Older words of a joystick are none."""


class TeleopNode(ActingNode):
    """Parameters, besides those of `ActingNode`: `task` (whose workspace and instruction hold), `bundle`
    (directory of a bundle for the arm that is driven; empty: the WidowX 250 S), `axes` (of dx, dy, dz,
    droll, dpitch, dyaw; -1: none), `scale` (of a full deflection, in action units), `deadman_button` (the arm
    moves only while it is held), `estop_button`, `gripper_button` (opens and closes in turns).

    What a person does is recorded as an intervention.
    """

    intervention = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("teleop", **kwargs)
        task = self.text("task", "widowx/push").removeprefix("widowx/")
        if task not in TASKS:
            raise ConfigError(f"task is {task!r}; expected one of {', '.join(sorted(TASKS))}")
        self.axes = [int(axis) for axis in self.declare_parameter("axes", [1, 0, 4, -1, -1, 3]).value or []]
        if len(self.axes) != 6:
            raise ConfigError(f"axes is {self.axes}; expected six numbers, of dx .. dyaw")
        self.scale = self.number("scale", 0.5)
        self._switch = Switch(self)
        self._gripper = Press(int(self.number("gripper_button", 0)))
        self._deflection = np.zeros(6, np.float32)
        self._open = 1.0
        self._held = False
        self._heard = -np.inf
        self.create_subscription(Joy, JOY, self._on_joy, messages.SENSOR_QOS)
        robot = robot_of(self.text("bundle"))
        names = GuardConfig.of_robot(robot).names
        self.prepare(names, robot, TASKS[task].workspace, TASKS[task].instructions[0])
        self.autostart()

    def _on_joy(self, message: Joy) -> None:
        self._heard = time.monotonic()
        self._held = self._switch.take(message)
        if self._gripper.begins(message):
            self._open = 1.0 - self._open
        values = [message.axes[axis] if 0 <= axis < len(message.axes) else 0.0 for axis in self.axes]
        self._deflection = np.clip(np.nan_to_num(np.array(values, np.float32)), -1, 1)

    def decide(self, observation: Observation) -> Action | None:
        if not self._held or time.monotonic() - self._heard > FRESH_S:
            return None
        action = np.zeros(len(schema.ACTION_NAMES), np.float32)
        action[:6] = self.scale * self._deflection
        action[6] = self._open
        return action


def main() -> None:
    run(TeleopNode)


if __name__ == "__main__":
    main()
