"""Policy bundles: all that a robot needs to act, in one checked directory.

bundle/
  manifest.json        kind `policy_bundle`, task, robot, SHA-256 of every file
  model.safetensors    weights          config.json   the network
  statistics.json      normalisation    schema.json   names, scaling and rates
  safety.json          limits of the command guard and of the action guard
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robot_rl.agents.policy import ActorPolicy
from robot_rl.data import schema
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import ActionGuardConfig, GuardConfig

KIND = "policy_bundle"


@dataclass(frozen=True)
class PolicyBundle:
    """A policy with the facts it was trained under.

    Attributes:
        policy: weights, network and statistics.
        task, robot, instruction, control_hz: what it was trained for.
        guard: joint limits of the robot; None where the joints are not ours to guard.
        action_guard: limits of normalised actions.
        metadata: everything the manifest says, versions and origin included.
    """

    policy: ActorPolicy
    task: str
    robot: str
    instruction: str
    control_hz: float
    guard: GuardConfig | None
    action_guard: ActionGuardConfig
    metadata: Mapping[str, Any]


def action_schema() -> dict[str, Any]:
    """The meaning of the numbers in and out of a policy, as this version of the stack has it."""
    return {
        "state": schema.STATE,
        "image": schema.IMAGE,
        "action": list(schema.ACTION_NAMES),
        "delta_position_m": schema.DELTA_POSITION_M,
        "delta_rotation_rad": schema.DELTA_ROTATION_RAD,
        "setpoint_hz": schema.SETPOINT_HZ,
    }


def export_bundle(
    policy: str | Path,
    out: str | Path,
    *,
    task: str,
    robot: str,
    instruction: str,
    control_hz: float = schema.CONTROL_HZ,
    guard: GuardConfig | None = None,
    action_guard: ActionGuardConfig | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the policy artifact at `policy` as a bundle at `out`.

    Args:
        policy: directory that `ActorPolicy.save` wrote.
        out: the bundle's directory; an older bundle there is replaced once the new one is complete.
        task, robot, instruction, control_hz: what the policy was trained for.
        guard: joint limits; needed to bring the policy up on an arm.
        action_guard: limits of normalised actions (the defaults).
        metadata: further JSON-able facts (run, stage, versions ...).

    Raises:
        DataError: `policy` is missing, damaged or of another task, or `out` cannot be written.
        ConfigError: no instruction, or a rate that does not divide the setpoint rate.
    """
    if not instruction.strip():
        raise ConfigError("bundle instruction is empty; expected what the policy is to do, in words")
    if not control_hz > 0 or schema.SETPOINT_HZ % control_hz:
        raise ConfigError(
            f"bundle control_hz is {control_hz}; expected a rate that divides {schema.SETPOINT_HZ} Hz"
        )
    source = load_artifact(policy, "policy")
    made_for = source.metadata.get("task", task)
    if made_for != task:
        raise DataError(
            f"policy {policy} is for task {made_for!r}; expected {task!r}: give the policy of {task}"
        )
    files: dict[str, Any] = {name: source.bytes(name) for name in source.files}
    files["schema.json"] = action_schema()
    files["safety.json"] = {
        "guard": guard.to_dict() if guard else None,
        "action_guard": asdict(action_guard or ActionGuardConfig()),
    }
    facts = {"task": task, "robot": robot, "instruction": instruction, "control_hz": control_hz}
    save_artifact(out, KIND, files, {**source.metadata, **(metadata or {}), **facts})


def load_bundle(path: str | Path, expect: Mapping[str, Any] | None = None) -> PolicyBundle:
    """Read a bundle after checking every hash; nothing is unpickled.

    Args:
        path: the bundle's directory.
        expect: facts of the manifest (`task`, `robot` ...) that it must have.

    Raises:
        DataError: missing, damaged, changed, made for something else, or its numbers mean something else
            than this version's; the message names the file or the fact.
    """
    artifact = load_artifact(path, KIND, expect)
    recorded = artifact.json("schema.json")
    for name, value in action_schema().items():
        if recorded.get(name) != value:
            raise DataError(
                f"bundle {path} has schema {name} {recorded.get(name)!r}; this version has {value!r}: "
                "use the version that made the bundle, or export it again"
            )
    safety, facts = artifact.json("safety.json"), artifact.metadata
    limits = safety["action_guard"]
    return PolicyBundle(
        policy=ActorPolicy.from_artifact(artifact).eval(),
        task=facts["task"],
        robot=facts["robot"],
        instruction=facts["instruction"],
        control_hz=float(facts["control_hz"]),
        guard=GuardConfig(**safety["guard"]) if safety["guard"] else None,
        action_guard=ActionGuardConfig(limits["max_change"], tuple(limits["absolute"])),
        metadata=facts,
    )
