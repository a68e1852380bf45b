"""The replay node: a recorded episode's executed actions again, open loop, through the safety node."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from robot_rl.data import schema
from robot_rl.data.formats import open_dataset
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import GuardConfig
from robot_rl_ros import messages
from robot_rl_ros.acting import ActingNode, Action
from robot_rl_ros.managed import run
from robot_rl_ros.observing import Observation
from sim.tasks import TASKS

SLOWEST = 0.05


class ReplayNode(ActingNode):
    """Parameters, besides those of `ActingNode`: `dataset` (required), `episode` (its number), `speed` (1,
    1/2, 1/3 ...), `single_step` (an action only when `replay/step` is called), `max_start_m` (how far the
    tool may be from where the episode began) [m].

    The arm is the one that the episode was recorded with.
    `replay/enable` starts from the first action, or stops. `replay/drift` says, at every action, how far the
    tool is from where it was recorded.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("replay", **kwargs)
        path, number = self.text("dataset"), int(self.number("episode", 0))
        episodes = open_dataset(path)
        if not 0 <= number < len(episodes):
            raise ConfigError(f"episode is {number}; {path} holds 0 .. {len(episodes) - 1}")
        self.episode = episodes[number]
        facts = self.episode.metadata
        family, _, task = facts.task.partition("/")
        if (
            family != "widowx"
            or task not in TASKS
            or self.episode.action.shape[1] != len(schema.ACTION_NAMES)
        ):
            raise DataError(
                f"episode is of {facts.task!r}; expected one of widowx/{', '.join(sorted(TASKS))}"
            )
        speed = self.number("speed", 1.0)
        if not SLOWEST <= speed <= 1 or abs(1 / speed - round(1 / speed)) > 1e-6:
            raise ConfigError(f"speed is {speed:g}; expected 1, 1/2, 1/3 .. {SLOWEST:g}")
        self._finer *= round(1 / speed)
        self.single_step = bool(self.declare_parameter("single_step", False).value)
        self.max_start_m = self.number("max_start_m", 0.03)
        self.drift_m: list[float] = []
        self._next = len(self.episode)
        self._granted = 0
        self._drifts = self.create_publisher(JointState, "~/drift", messages.EVENT_QOS)
        self.create_service(Trigger, "~/step", self._on_step)
        names = GuardConfig.of_robot(facts.robot).names
        self.prepare(names, facts.robot, TASKS[task].workspace, facts.instruction)
        self.autostart()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._next = len(self.episode)
        return super().on_deactivate(state)

    def begin(self) -> str:
        assert self.observer.state is not None
        away = self._away(np.array(self.observer.state.position), 0)
        if away > self.max_start_m:
            where = "from where the episode began"
            return f"the tool is {away:.3f} m {where}; expected at most {self.max_start_m:g}"
        self._next = self._granted = 0
        self.drift_m = []
        return ""

    def _away(self, joints: Any, step: int) -> float:
        """Distance of the tool from where it was recorded before action `step` [m]."""
        recorded = self.episode.observations[schema.STATE][step]
        return float(np.linalg.norm(self.controller.state(joints)[:3] - recorded[:3]))

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._granted += 1
        response.success = self._next < len(self.episode)
        response.message = f"action {self._next} of {len(self.episode)}"
        return response

    def decide(self, observation: Observation) -> Action | None:
        step = self._next
        if len(self.drift_m) == step:
            self.drift_m.append(self._away(observation.joints, step))
            numbers = {"step": step, "drift_m": self.drift_m[-1]}
            self._drifts.publish(messages.numbers_message(numbers, messages.stamp_of(observation.stamp)))
            if step == len(self.episode):
                self.get_logger().info(f"replayed {step} actions, drift {max(self.drift_m):.4f} m at most")
        if step == len(self.episode) or (self.single_step and self._granted <= step):
            return None
        self._next += 1
        action: Action = self.episode.action[step]
        return action


def main() -> None:
    run(ReplayNode)


if __name__ == "__main__":
    main()
