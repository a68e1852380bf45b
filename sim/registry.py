"""Every simulated task by name, and the one function that makes its environment."""

from __future__ import annotations

from typing import Any

import gymnasium

from robot_rl.errors import unknown
from sim.tasks import TASKS
from sim.widowx import make_env

ALIASES = {"robot_rl/WidowXPotLid-v0": "pot_lid_on"}
"""Further Gymnasium ids of tasks."""


def gymnasium_id(name: str) -> str:
    """`pick_place` -> `robot_rl/WidowXPickPlace-v0`."""
    return f"robot_rl/WidowX{name.title().replace('_', '')}-v0"


def tasks() -> list[str]:
    """The names of the project's own tasks. `metaworld/<env_name>` and `robosuite/<Env>` work as well."""
    return sorted(f"widowx/{name}" for name in TASKS)


def make(task: str, **options: Any) -> gymnasium.Env:
    """The environment of `task`, for example `widowx/push` or `metaworld/drawer-open-v3`.

    Args:
        task: a name of `tasks()`, or `metaworld/<env_name>`, or `robosuite/<Env>`.
        options: of `sim.widowx.WidowXConfig`, or of the adapter.

    Raises:
        ConfigError: unknown task or option; the message names the nearest ones.
        MissingExtraError: the adapter's package is not installed.
    """
    family, _, name = task.partition("/")
    if family == "metaworld":
        from sim.adapters import metaworld

        return metaworld.make(name, **options)
    if family == "robosuite":
        from sim.adapters import robosuite

        return robosuite.make(name, **options)
    if family != "widowx" or name not in TASKS:
        raise unknown("task", task, [*tasks(), "metaworld/<env_name>", "robosuite/<Env>"])
    return make_env(name, **options)


def register() -> None:
    """Make the tasks known to `gymnasium.make`. Safe to call again."""
    for identifier, name in {**{gymnasium_id(name): name for name in TASKS}, **ALIASES}.items():
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, entry_point="sim.widowx:make_env", kwargs={"task": name})
