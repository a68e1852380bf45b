"""The policy node: the policies of one or more bundles, chosen by the instruction. See `acting`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from robot_rl.agents.policy import PolicyRunner
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError, RobotRLError, unknown
from robot_rl.trainers.bundle import load_bundle
from robot_rl_ros.acting import ActingNode, Action
from robot_rl_ros.bundle import BundleFacts, bundle_facts
from robot_rl_ros.managed import run
from robot_rl_ros.observing import Observation


class Skill(NamedTuple):
    """What one bundle can do."""

    runner: PolicyRunner
    facts: BundleFacts
    manifest: bytes
    """As it was when the bundle was loaded."""


def load_skill(path: str, stochastic: bool, seed: int) -> Skill:
    """The bundle at `path`, checked, for a WidowX task.

    Raises:
        DataError: missing or damaged. ConfigError: of another robot or rate.
    """
    file = Path(path) / "manifest.json"
    manifest = file.read_bytes() if file.is_file() else b""
    facts, policy = bundle_facts(path), load_bundle(path).policy
    return Skill(PolicyRunner(policy, not stochastic, seed), facts, manifest)


class PolicyNode(ActingNode):
    """Parameters, besides those of `ActingNode`: `bundle` (directory, required), `more_bundles` (further
    ones, of tasks in the same scene), `instruction` (which of them acts; empty: the first one's; may be set
    at any time, by `policy/set_parameters`, and holds from the next action on), `seed` (of a stochastic
    policy's noise), `stochastic`.

    A bundle that was replaced on the disk is loaded when the next episode begins.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("policy", **kwargs)
        self.seed = int(self.number("seed", 0))
        self.stochastic = bool(self.declare_parameter("stochastic", False).value)
        paths = [self.text("bundle")]
        paths += [str(path) for path in self.declare_parameter("more_bundles", [""]).value or [] if path]
        skills = [load_skill(path, self.stochastic, self.seed) for path in paths]
        self.skills = {skill.facts.instruction: skill for skill in skills}
        self.first = skills[0].facts
        for skill in skills:
            self._check(skill)
        instruction = self.text("instruction") or self.first.instruction
        if instruction not in self.skills:
            raise unknown("instruction", instruction, self.skills)
        torch.set_num_threads(1)
        first = self.first
        self.prepare(first.names, first.robot, first.workspace, instruction, first.image_shape)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.autostart()

    def _check(self, skill: Skill) -> None:
        """What all bundles share.

        Raises:
            ConfigError: this one differs from the first.
        """
        for what in ("robot", "names", "image_shape"):
            found, expected = getattr(skill.facts, what), getattr(self.first, what)
            if found != expected:
                raise ConfigError(
                    f"bundle {skill.facts.path} has {what} {found!r}; expected {expected!r}, as the first"
                )

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "instruction":
                if parameter.value not in self.skills:
                    error = unknown("instruction", str(parameter.value), self.skills)
                    return SetParametersResult(successful=False, reason=str(error))
                self._told(str(parameter.value))
                self.announce()
        return SetParametersResult(successful=True)

    def _told(self, instruction: str) -> None:
        self.instruction = instruction
        skill = self.skills[instruction]
        self.take_up(skill.facts.robot, skill.facts.workspace, skill.facts.action_guard)
        skill.runner.reset(np.ones(1, bool), np.array([self.seed + self._episodes]))

    def begin(self) -> str:
        skill = self.skills[self.instruction]
        try:
            file = skill.facts.path / "manifest.json"
            if file.is_file() and file.read_bytes() != skill.manifest:
                newer = load_skill(str(skill.facts.path), self.stochastic, self.seed)
                if newer.facts.instruction != self.instruction:
                    raise DataError(f"bundle {skill.facts.path} is now for {newer.facts.instruction!r}")
                self._check(newer)
                self.skills[self.instruction] = newer
                self.get_logger().info(f"loaded {skill.facts.path} again: it was replaced")
        except (RobotRLError, OSError) as error:
            return str(error)
        self._told(self.instruction)
        return ""

    def decide(self, observation: Observation) -> Action:
        seen: dict[str, Any] = {schema.STATE: self.controller.state(observation.joints)[None]}
        for camera, picture in observation.pictures.items():
            seen[schema.image_key(camera)] = np.ascontiguousarray(picture)[None]
        action: Action = self.skills[self.instruction].runner.act(seen)[0]
        return action


def main() -> None:
    run(PolicyNode)


if __name__ == "__main__":
    main()
