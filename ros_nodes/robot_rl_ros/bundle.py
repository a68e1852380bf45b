"""What a policy bundle says, for the nodes that do not run its policy: read and checked without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from robot_rl.data import schema
from robot_rl.data.artifact import load_artifact
from robot_rl.errors import ConfigError, unknown
from robot_rl.safety import ActionGuardConfig, GuardConfig
from sim.arm import Workspace
from sim.arm_model import ROBOTS, WIDOWX_250S
from sim.tasks import TASKS

LEAST_RATE_HZ, MOST_RATE_HZ = 50.0, 200.0


class BundleFacts(NamedTuple):
    """A bundle without its network."""

    path: Path
    task: str
    robot: str
    instruction: str
    control_hz: float
    guard: GuardConfig | None
    action_guard: ActionGuardConfig
    image_shape: tuple[int, int] | None
    workspace: Workspace
    max_steps: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the joints that are driven (J,)."""
        return (self.guard or GuardConfig.of_robot(self.robot)).names


def bundle_facts(path: str | Path, task: str | None = None) -> BundleFacts:
    """Read a bundle after checking every hash.

    Args:
        path: the bundle's directory.
        task: what it must be for.

    Raises:
        DataError: missing, damaged or of another task. ConfigError: not of a WidowX task at 5 Hz, or an
            unknown arm.
    """
    artifact = load_artifact(path, "policy_bundle", {"task": task} if task else None)
    facts, safety = artifact.metadata, artifact.json("safety.json")
    family, _, name = facts["task"].partition("/")
    if family != "widowx" or name not in TASKS or facts["control_hz"] != schema.CONTROL_HZ:
        raise ConfigError(
            f"bundle {path} is for {facts['task']!r} at {facts['control_hz']} Hz; the nodes drive the WidowX "
            f"tasks {', '.join(sorted(TASKS))} at {schema.CONTROL_HZ} Hz"
        )
    if facts["robot"] not in ROBOTS:
        raise unknown(f"robot of bundle {path}", facts["robot"], ROBOTS)
    shape, limits = artifact.json("config.json")["image_shape"], safety["action_guard"]
    return BundleFacts(
        Path(path),
        facts["task"],
        facts["robot"],
        facts["instruction"],
        float(facts["control_hz"]),
        GuardConfig(**safety["guard"]) if safety["guard"] else None,
        ActionGuardConfig(limits["max_change"], tuple(limits["absolute"])),
        (int(shape[0]), int(shape[1])) if shape else None,
        TASKS[name].workspace,
        TASKS[name].max_steps,
    )


def robot_of(bundle: str) -> str:
    """The arm that `bundle` is for (empty: the WidowX 250 S).

    Raises:
        DataError: the bundle is missing or damaged. ConfigError: not one that the nodes drive.
    """
    return bundle_facts(bundle).robot if bundle else WIDOWX_250S.name


def guard_config(bundle: str, rate_hz: float = 0.0, **ages: float) -> GuardConfig:
    """The limits of `bundle` (empty: the WidowX 250 S), at another rate and with other ages where not 0.

    Raises:
        DataError: the bundle is missing or damaged. ConfigError: no joint limits, or a figure is wrong.
    """
    config = GuardConfig.widowx_250s()
    if bundle:
        limits = bundle_facts(bundle).guard
        if limits is None:
            raise ConfigError(f"bundle {bundle} has no joint limits: export it for a robot that has them")
        config = limits
    changes: dict[str, Any] = {name: age for name, age in ages.items() if age}
    if rate_hz:
        if not LEAST_RATE_HZ <= rate_hz <= MOST_RATE_HZ:
            raise ConfigError(f"rate_hz is {rate_hz:g}; expected {LEAST_RATE_HZ:g} .. {MOST_RATE_HZ:g}")
        changes["period_s"] = 1 / rate_hz
        if config.passivity is not None:
            changes["passivity"] = dataclasses.replace(config.passivity, period_s=1 / rate_hz)
    return dataclasses.replace(config, **changes)
