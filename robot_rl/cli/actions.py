"""`label-actions`: actions for recorded videos that have none, by inverse dynamics (VPT, SS-ORL)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from robot_rl.agents.inverse_dynamics import (
    InverseDynamics,
    InverseDynamicsConfig,
    InverseDynamicsLearner,
    label_actions,
)
from robot_rl.agents.policy import PolicyConfig
from robot_rl.cli.progress import TerminalProgress
from robot_rl.cli.verbs import whole_number
from robot_rl.data import Episode, schema
from robot_rl.data.episode import ACTION_FREE
from robot_rl.data.formats import open_dataset
from robot_rl.data.statistics import Statistics
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError
from robot_rl.trainers.loop import train
from robot_rl.trainers.run import Run, command_line


def label(arguments: dict[str, str], overrides: list[str]) -> int:
    """Train on the episodes with actions, write all to `out` with actions in every one.

    Raises:
        DataError: nothing to label, nothing to learn from, or `out` is in use.
        ConfigError: a call with other arguments was interrupted on its way to the same `out`.
    """
    episodes = open_dataset(arguments["dataset"])
    if "action_free" in arguments:
        episodes += [_without_actions(episode) for episode in open_dataset(arguments["action_free"])]
    known = [episode for episode in episodes if not episode.action_free]
    if len(known) == len(episodes):
        raise DataError(
            "every episode has its actions: mark those without by "
            f"metadata extra {ACTION_FREE!r}: true, or name them by action_free="
        )
    if not known:
        raise DataError(f"{arguments['dataset']} holds no episode with actions; expected some to learn from")
    out = Path(arguments["out"])
    if out.exists():
        raise DataError(f"{out} exists; remove it, or choose another out=")
    defaults = InverseDynamicsConfig()
    config = dataclasses.replace(
        defaults,
        updates=whole_number(arguments, "updates", defaults.updates),
        seed=whole_number(arguments, "seed", defaults.seed, least=0),
    )
    first = known[0]
    pictures = first.observations.get(schema.IMAGE)
    model = InverseDynamics(
        PolicyConfig(
            state_dim=first.observations[schema.STATE].shape[1],
            action_dim=first.action.shape[1],
            image_shape=None if pictures is None else (pictures.shape[1], pictures.shape[2]),
            seed=config.seed,
        ),
        Statistics.from_episodes(known),
    )
    learner = InverseDynamicsLearner(model, episodes, config)
    folder = out.with_name(out.name + ".training")  # where Ctrl-C leaves the state, and a second call resumes
    call = json.dumps({"arguments": arguments, "inverse_dynamics": dataclasses.asdict(config)}, indent=2)
    run = Run.again(folder, call, command_line(), "remove it, or choose another out=")  # JSON is YAML
    train(learner, run, "inverse_dynamics", progress=TerminalProgress())
    run.close()
    EpisodeStore(out, create=True).extend(label_actions(model, episodes))
    shutil.rmtree(folder)
    print(f"{len(episodes) - len(known)} of {len(episodes)} episodes labelled: {out}")
    return 0


def _without_actions(episode: Episode) -> Episode:
    extra = {**episode.metadata.extra, ACTION_FREE: True}
    return dataclasses.replace(episode, metadata=dataclasses.replace(episode.metadata, extra=extra))
