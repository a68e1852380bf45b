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
from robot_rl.safety import GuardConfig
from robot_rl.trainers.bundle import PolicyBundle, load_bundle
from robot_rl_ros.acting import ActingNode, Action
from robot_rl_ros.bundle import bundle_facts
from robot_rl_ros.managed import run
from robot_rl_ros.observing import Observation
from sim.arm import Workspace


class Skill(NamedTuple):
    """What one bundle can do."""

    bundle: PolicyBundle
    runner: PolicyRunner
    workspace: Workspace
    path: Path
    manifest: bytes
    """As it was when the bundle was loaded."""


def load_skill(path: str, stochastic: bool, seed: int) -> Skill:
    """The bundle at `path`, checked, for a WidowX task.

    Raises:
        DataError: missing or damaged. ConfigError: of another robot or rate.
    """
    file = Path(path) / "manifest.json"
    manifest = file.read_bytes() if file.is_file() else b""
    workspace = bundle_facts(path).workspace
    bundle = load_bundle(path)
    return Skill(bundle, PolicyRunner(bundle.policy, not stochastic, seed), workspace, Path(path), manifest)


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
        self.skills = {skill.bundle.instruction: skill for skill in skills}
        first = skills[0].bundle
        shape = first.policy.config.image_shape
        for skill in skills:
            if skill.bundle.policy.config.image_shape != shape:
                found = skill.bundle.policy.config.image_shape
                raise ConfigError(
                    f"bundle {skill.path} sees pictures of {found}; expected {shape} as the first"
                )
        instruction = self.text("instruction") or first.instruction
        if instruction not in self.skills:
            raise unknown("instruction", instruction, self.skills)
        torch.set_num_threads(1)
        names = (first.guard or GuardConfig.widowx_250s()).names
        self.prepare(names, skills[0].workspace, instruction, shape)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.autostart()

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
        self.take_up(skill.workspace, skill.bundle.action_guard)
        skill.runner.reset(np.ones(1, bool), np.array([self.seed + self._episodes]))

    def begin(self) -> str:
        skill = self.skills[self.instruction]
        try:
            file = skill.path / "manifest.json"
            if file.is_file() and file.read_bytes() != skill.manifest:
                newer = load_skill(str(skill.path), self.stochastic, self.seed)
                if newer.bundle.instruction != self.instruction:
                    raise DataError(f"bundle {skill.path} is now for {newer.bundle.instruction!r}")
                self.skills[self.instruction] = newer
                self.get_logger().info(f"loaded {skill.path} again: it was replaced")
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
