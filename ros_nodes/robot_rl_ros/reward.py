"""The reward node: how probably the instruction is fulfilled in what the camera sees, and what comes next."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from reward_vlm import Debounce, RewardWrapperConfig, SuccessClassifier
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from robot_rl_ros import messages
from robot_rl_ros.managed import ManagedNode, run
from robot_rl_ros.observing import SAME_S


class RewardNode(ManagedNode):
    """Parameters: `model` (directory of the reward model, required), `camera`, `rate_hz` (pictures judged a
    second of their own stamps), `instructions` (two or more: when one is fulfilled, the acting node is told
    the next; empty: none is), `acting` (the name of that node).

    Until it knows what the arm is to do it says nothing.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("reward", **kwargs)
        path = self.text("model")
        if not path:
            raise ConfigError("reward model is empty; expected the directory of a reward model")
        self.judge = SuccessClassifier.load(path)
        torch.set_num_threads(1)
        self.reward = RewardWrapperConfig()
        self.period_s = 1 / self.number("rate_hz", schema.CONTROL_HZ)
        self.instructions = [
            str(each) for each in self.declare_parameter("instructions", [""]).value or [] if each
        ]
        for instruction in self.instructions:
            SuccessClassifier.load(path, instruction=instruction)
        camera = self.text("camera", schema.DEFAULT_CAMERA)
        self._acting = AsyncParameterClient(self, self.text("acting", "policy"))
        self._debounce = Debounce(self.judge.debounce, 1)
        self._instruction = ""
        self._judged = -np.inf
        self._fulfilled = False
        self._judgements = self.create_publisher(JointState, messages.JUDGEMENT, messages.EVENT_QOS)
        self.create_subscription(String, messages.INSTRUCTION, self._on_instruction, messages.LATCHED_QOS)
        self.create_subscription(Image, messages.camera_topic(camera), self._on_picture, messages.HISTORY_QOS)
        self.autostart()

    def _on_instruction(self, message: String) -> None:
        """Also the beginning of an episode: what was seen before does not count."""
        self._instruction = message.data
        self._debounce.reset()
        self._judged, self._fulfilled = -np.inf, False

    def _on_picture(self, message: Image) -> None:
        stamp, picture = messages.seconds(message.header.stamp), messages.picture_from(message)
        early = self._judged <= stamp < self._judged + self.period_s - SAME_S
        if early or picture is None or not self._instruction or not self.active:
            return
        self._judged = stamp
        try:
            probability = float(self.judge.success_probability(picture[None], self._instruction)[0])
        except DataError as error:
            self.get_logger().error(str(error), throttle_duration_sec=10.0)
            return
        success = bool(self._debounce.update(np.array([probability >= self.judge.threshold]))[0])
        reward = self.reward.success_reward if success else self.reward.step_reward
        numbers = {"probability": probability, "success": success, "reward": reward}
        self._judgements.publish(messages.numbers_message(numbers, message.header.stamp))
        if success and not self._fulfilled and self._instruction in self.instructions:
            self._fulfilled = True
            where = self.instructions.index(self._instruction) + 1
            following = self.instructions[where % len(self.instructions)]
            self._acting.set_parameters([Parameter("instruction", value=following)])


def main() -> None:
    run(RewardNode)


if __name__ == "__main__":
    main()
