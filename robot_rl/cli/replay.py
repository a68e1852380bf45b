"""`robot-rl replay`: a recorded episode beside a policy's actions, or acted again in the simulator."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from robot_rl.agents.bc import predict
from robot_rl.cli.config import resolve
from robot_rl.cli.simulation import Simulation
from robot_rl.cli.verbs import load_actor, whole_number
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.formats import open_dataset
from robot_rl.data.video import side_by_side, write_video
from robot_rl.errors import ConfigError, DataError

mpl.use("Agg")


def replay(arguments: dict[str, str], overrides: list[str]) -> int:
    """Read the episode, replay it, write a picture and a video."""
    episodes = open_dataset(arguments["dataset"])
    number = whole_number(arguments, "episode", 0, least=0)
    if number >= len(episodes):
        raise ConfigError(f"episode={number}; {arguments['dataset']} holds 0 .. {len(episodes) - 1}")
    episode = episodes[number]
    out = Path(arguments.get("out", "replay"))
    out.mkdir(parents=True, exist_ok=True)
    facts = episode.metadata
    outcome = "success" if episode.succeeded else "no recorded success"
    print(f"episode {number} of {facts.task}: {facts.instruction!r}, {len(episode)} steps, {outcome}")
    if "checkpoint" in arguments:
        beside_policy(episode, arguments["checkpoint"], out / f"episode_{number}")
    else:
        in_simulator(episode, overrides, out / f"episode_{number}")
    return 0


def beside_policy(episode: Episode, checkpoint: str, out: Path) -> None:
    """The policy's action on every recorded observation against the recorded one."""
    predicted = predict(load_actor(checkpoint, None), episode)
    if predicted.shape != episode.action.shape:
        raise DataError(
            f"policy {checkpoint} gives {predicted.shape[1]} numbers an action; the episode has "
            f"{episode.action.shape[1]}: give a policy of the same robot"
        )
    error = np.square(predicted - episode.action).mean(0)
    names = action_names(episode.action.shape[1])
    print("mean squared error: " + "  ".join(f"{n} {e:.4f}" for n, e in zip(names, error, strict=True)))
    print(f"over all dimensions: {error.mean():.4f}")
    draw(out.with_suffix(".png"), names, {"recorded": episode.action, "policy": predicted}, "action")
    if schema.IMAGE in episode.observations:
        write_video(
            out.with_suffix(".mp4"),
            episode.observations[schema.IMAGE],
            fps=int(episode.metadata.control_hz),
            scale=4,
        )
    print(f"wrote {out.with_suffix('.png')}")


def in_simulator(episode: Episode, overrides: list[str], out: Path) -> None:
    """The executed actions again, open loop and through the guard, from the recorded seed."""
    facts = episode.metadata
    config = resolve([*overrides, f"task={facts.task}"])
    if facts.seed < 0:
        raise DataError(
            "the episode has no seed, so its scene cannot be made again; give checkpoint= instead"
        )
    env = Simulation(config).vector_env(1, max_steps=len(episode) + 1, hold_steps=len(episode) + 1)
    try:
        observations, _ = env.reset(seed=[facts.seed])
        seen = [{key: value[0].copy() for key, value in observations.items()}]
        success = False
        for action in episode.action:
            observations, _, _, _, info = env.step(action[None])
            seen.append({key: value[0].copy() for key, value in observations.items()})
            success |= bool(info["success"][0])
    finally:
        env.close()
    states = np.stack([each[schema.STATE] for each in seen])
    recorded = episode.observations[schema.STATE]
    drift = np.linalg.norm(states[:, :3] - recorded[:, :3], axis=1)
    print(
        f"replayed open loop: {'success' if success else 'no success'}; end-effector drift "
        f"{1000 * drift.mean():.2f} mm mean, {1000 * drift.max():.2f} mm at most"
    )
    names = [f"state {i}" for i in range(states.shape[1])]
    draw(out.with_suffix(".png"), names, {"recorded": recorded, "replayed": states}, "state")
    if schema.IMAGE in episode.observations:
        pictures = np.stack([each[schema.IMAGE] for each in seen])
        clips = [episode.observations[schema.IMAGE], pictures]
        write_video(out.with_suffix(".mp4"), side_by_side(clips), fps=int(facts.control_hz), scale=4)
    print(f"wrote {out.with_suffix('.png')} and {out.with_suffix('.mp4')}")


def action_names(dimensions: int) -> tuple[str, ...]:
    """Names of an action's numbers; the WidowX family's where they fit."""
    if dimensions == len(schema.ACTION_NAMES):
        return schema.ACTION_NAMES
    return tuple(f"a{i}" for i in range(dimensions))


def draw(
    path: Path, names: tuple[str, ...] | list[str], series: dict[str, npt.NDArray[np.float32]], what: str
) -> None:
    """One small panel a dimension, every series (T, D) in it."""
    figure = Figure(figsize=(10, 1.3 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for (label, values), style in zip(series.items(), ("k-o", "C1--x"), strict=False):
            axis.plot(values[:, index], style, label=label, markersize=3, linewidth=1)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", ncols=len(series))
    axes[0].set_title(f"{what}: " + " and ".join(series))
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)
