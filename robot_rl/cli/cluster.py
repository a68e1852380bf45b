"""`robot-rl train stage=world_model` under torchrun: one process leads and writes, the others follow."""

from __future__ import annotations

from typing import Any

from robot_rl.cli.config import resolve
from robot_rl.cli.context import Context, choose_device
from robot_rl.cli.imagination import world_model_episodes, world_model_learner
from robot_rl.cli.stages import STAGES, run_stage
from robot_rl.errors import ConfigError
from world_model.parallel import Group


def train_together(arguments: dict[str, str], overrides: list[str]) -> dict[str, Any] | None:
    """The stage's result in the process that leads, None in the others.

    Raises:
        ConfigError: another stage than the world model, or no run directory that all processes know.
    """
    if arguments.get("stage") != "world_model":
        raise ConfigError(
            f"stage={arguments.get('stage')} in several processes; expected stage=world_model, the only one "
            "that is trained so"
        )
    where = arguments.get("resume", arguments.get("run"))
    if where is None:
        raise ConfigError("several processes need run=, the same directory for all of them")
    device = "cpu" if "resume" in arguments else str(resolve(overrides).device)
    group = Group.join(choose_device(device))
    try:
        if group.rank == 0:
            context = Context.open(arguments, overrides)
            world_model_episodes(context)  # recorded here, read by the others
        group.wait()
        if group.rank > 0:
            context = Context.open({"resume": where}, [])
        context.group = group
        if group.rank == 0:
            return run_stage(context, STAGES["world_model"])
        follow(context)
        return None
    finally:
        group.leave()


def follow(context: Context) -> None:
    """Take part in every update of the process that leads, and write nothing."""
    if context.run.done("world_model") is not None:
        return
    learner = world_model_learner(context, world_model_episodes(context)[0], context.group)
    state = context.run.load_state("world_model")
    if state is not None:
        learner.load_state_dict(state["learner"])
    while learner.updates < learner.total_updates:
        learner.update()
