"""`robot-rl imagine`: a world model's picture of a recorded episode, or of what a person's keys would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robot_rl.cli.play import HELP, PICTURE, Operator, Screen, Window
from robot_rl.cli.report import write_report
from robot_rl.cli.verbs import whole_number
from robot_rl.data.episode import Episode
from robot_rl.data.formats import open_dataset
from robot_rl.data.store import EpisodeStore
from robot_rl.data.video import write_video
from robot_rl.errors import ConfigError, DataError
from robot_rl.trainers.run import Run
from world_model import WorldModel, WorldModelEnv, WorldModelEnvConfig
from world_model.pictures import annotated, imagine_episode

RECORDED = ("demos", "policy", "perturbed", "random")
"""A run's recordings, in the order that `episode=` counts them."""


def imagine(arguments: dict[str, str], overrides: list[str]) -> int:
    """The video of one episode; with --drive a window."""
    run = Run(Path(arguments["run"])) if "run" in arguments else None
    if run is None and "checkpoint" not in arguments:
        raise ConfigError("imagine needs run= or checkpoint=: a run with a world model, or the model itself")
    place = arguments.get("checkpoint")
    if place is None:
        assert run is not None
        place = str(run.path / "stages" / "world_model" / "model")
    model = WorldModel.load(place)
    episodes = _episodes(arguments, run)
    number = whole_number(arguments, "episode", 0, least=0)
    if number >= len(episodes):
        raise ConfigError(f"episode={number}; expected a number from 0 to {len(episodes) - 1}")
    if "drive" in arguments:
        return _drive(model, episodes[number])
    episode = episodes[number]
    played = imagine_episode(model, episode, whole_number(arguments, "seed", 0, least=0))
    frames = annotated(model, episode, played)
    default = (run.path / "videos" if run else Path("imagine")) / f"imagine_{number}.mp4"
    out = Path(arguments.get("out", default))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, frames, fps=round(model.spec.control_hz), scale=1)
    Image.fromarray(frames[-1]).save(out.with_suffix(".png"))
    peak = float(played.success.max())
    print(
        f"{out}: {len(episode)} steps, really {'a success' if episode.succeeded else 'a failure'}; "
        f"highest imagined success probability {peak:.2f} (threshold {model.threshold:.2f})"
    )
    if run is not None and "out" not in arguments and (run.path / "summary.json").exists():
        print(f"report: {write_report(run.path)}")
    return 0


def _episodes(arguments: dict[str, str], run: Run | None) -> list[Episode]:
    if "dataset" in arguments:
        return open_dataset(arguments["dataset"])
    if run is None:
        raise ConfigError("imagine with checkpoint= needs dataset= too: store:PATH or rlds:PATH")
    stores = [run.path / "data" / name for name in RECORDED]
    found = [episode for path in stores if path.exists() for episode in EpisodeStore(path).load_all()]
    if not found:
        raise DataError(f"{run.path} holds no recorded episodes; name some with dataset=store:PATH")
    return found


def _drive(model: WorldModel, episode: Episode) -> int:
    """A window onto the imagined arm, from the episode's first frame."""
    screen = Window(f"imagined {model.spec.task}", 1.0 / model.spec.control_hz)
    try:
        steps = drive(model, episode, screen)
    finally:
        screen.close()
    print(f"{steps} imagined steps")
    return 0


def drive(model: WorldModel, episode: Episode, screen: Screen) -> int:
    """Imagine what the person at the keys does, until they quit; returns the steps taken.

    An imagined success, Enter or Backspace begins anew.
    """
    env = WorldModelEnv(model, [episode], WorldModelEnvConfig(num_envs=1, horizon=10**9))
    operator = Operator(model.spec.task.split("|")[0], model.spec.action_dim)
    total, seed = 0, 0
    while True:
        observation, info = env.reset(seed=[seed])
        operator.reset()
        ended, command = False, ""
        while not ended:
            screen.show(_enlarged(observation[model.spec.camera][0]), (_line(model, info), *HELP))
            wish = screen.wish()
            command = wish.command
            if command:
                break
            observation, _, terminated, truncated, info = env.step(operator.action(wish)[None])
            total, ended = total + 1, bool(terminated[0] or truncated[0])
        if command == "quit":
            return total
        seed += 1


def _line(model: WorldModel, info: dict[str, Any]) -> str:
    success = float(info["success_probability"][0])
    parts = [info["instruction"][0], f"imagined success {success:.2f} of {model.threshold:.2f}"]
    if model.config.members > 1 and "uncertainty" in info:
        uncertainty, limit = float(info["uncertainty"][0]), float(model.uncertainty_limit)
        parts.append(f"uncertainty {uncertainty:.3f} of {limit:.3f}")
    return "    ".join(parts)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    size = (PICTURE, PICTURE)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), np.uint8)
