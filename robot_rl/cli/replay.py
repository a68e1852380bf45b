"""`robot-rl replay`: recorded episodes acted again in the simulator, or in shadow beside a policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reward_vlm import SuccessClassifier
from robot_rl.agents.bc import predict
from robot_rl.cli.config import resolve
from robot_rl.cli.replay_view import Curves, action_names, draw, write_rerun
from robot_rl.cli.simulation import Simulation
from robot_rl.cli.verbs import load_actor, whole_number
from robot_rl.data import schema
from robot_rl.data.episode import STEP_DTYPES, Episode
from robot_rl.data.formats import open_dataset
from robot_rl.data.video import side_by_side, write_video
from robot_rl.errors import ConfigError, DataError

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """Which steps, how fast, and what to write.

    Attributes:
        start, stop: steps [start, stop).
        speed: of the video, and of the replay if `paced`, in recorded seconds a second.
        paced: wait for the clock between steps. single: wait for a key between steps.
        rerun: also a Rerun file.
    """

    start: int
    stop: int | None
    speed: float
    paced: bool
    single: bool
    rerun: bool

    @classmethod
    def of(cls, arguments: dict[str, str]) -> Options:
        start = whole_number(arguments, "start", 0, least=0)
        stop = whole_number(arguments, "stop", 0, least=start + 1) if "stop" in arguments else None
        try:
            speed = float(arguments.get("speed", "1"))
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            raise ConfigError(f"speed={arguments['speed']!r}; expected a factor above 0, such as 0.5")
        flags = (name in arguments for name in ("single-step", "rerun"))
        return cls(start, stop, speed, "speed" in arguments, *flags)

    def wait(self, step: int, rate_hz: float, begin: float) -> None:
        """Until step `step` is due."""
        if self.single:
            input(f"step {step}: Enter for the next ")
        elif self.paced:
            due = begin + (step - self.start) / (rate_hz * self.speed)
            time.sleep(max(0.0, due - time.monotonic()))

    def cut(self, episode: Episode) -> Episode:
        """The steps that were asked for.

        Raises:
            ConfigError: there are none.
        """
        stop = len(episode) if self.stop is None else min(self.stop, len(episode))
        if self.start >= stop:
            raise ConfigError(f"start={self.start}; the episode has steps 0 .. {len(episode) - 1}")
        return replace(
            episode,
            observations={k: v[self.start : stop + 1] for k, v in episode.observations.items()},
            **{name: getattr(episode, name)[self.start : stop] for name in STEP_DTYPES},
        )


def replay(arguments: dict[str, str], overrides: list[str]) -> int:
    """Read, replay, write pictures and videos; with `episode=all` the whole dataset."""
    options = Options.of(arguments)
    episodes = open_dataset(arguments["dataset"])
    if arguments.get("episode") == "all":
        numbers = list(range(len(episodes)))
    else:
        numbers = [whole_number(arguments, "episode", 0, least=0)]
        if numbers[0] >= len(episodes):
            raise ConfigError(
                f"episode={numbers[0]}; {arguments['dataset']} holds 0 .. {len(episodes) - 1}, or all"
            )
    out = Path(arguments.get("out", "replay"))
    out.mkdir(parents=True, exist_ok=True)
    shadow = Shadow.of(arguments) if "checkpoint" in arguments or "reward" in arguments else None
    results = []
    for number in numbers:
        episode, facts = episodes[number], episodes[number].metadata
        outcome = "success" if episode.succeeded else "no recorded success"
        print(f"episode {number} of {facts.task}: {facts.instruction!r}, {len(episode)} steps, {outcome}")
        place = out / f"episode_{number}"
        results.append(
            in_simulator(episode, overrides, place, options)
            if shadow is None
            else shadow.follow(options.cut(episode), place, options)
        )
    if len(results) > 1:
        mean, worst = float(np.mean(results)), max(results)
        if shadow is None:
            drift = f"{1000 * mean:.2f} mm on average, {1000 * worst:.2f} mm at most"
            print(f"{len(results)} episodes: largest drift {drift}")
        else:
            print(f"{len(results)} episodes: mean squared error {mean:.4f} on average, {worst:.4f} at most")
    return 0


@dataclass(frozen=True)
class Shadow:
    """What looks on: a policy, a reward model, or both.

    Attributes:
        policy: episode -> its actions (T, A), or None. path: the policy's.
        judge: (pictures, instruction) -> probability of success, or None.
    """

    policy: Callable[[Episode], Array] | None
    path: str
    judge: Callable[[npt.NDArray[np.uint8], str], Array] | None

    @classmethod
    def of(cls, arguments: dict[str, str]) -> Shadow:
        policy = judge = None
        if "checkpoint" in arguments:
            actor = load_actor(arguments["checkpoint"], None)
            policy = lambda episode: predict(actor, episode)  # noqa: E731
        if "reward" in arguments:
            judge = SuccessClassifier.load(arguments["reward"]).success_probability
        return cls(policy, arguments.get("checkpoint", ""), judge)

    def follow(self, episode: Episode, out: Path, options: Options) -> float:
        """What the policy asks for against what was recorded; returns the mean squared error."""
        names = action_names(episode.action.shape[1])
        curves: Curves = {"recorded": episode.action}
        if not np.array_equal(episode.action, episode.action_requested):
            curves["recorded request"] = episode.action_requested
        error = 0.0
        if self.policy is not None:
            predicted = self.policy(episode)
            if predicted.shape != episode.action.shape:
                raise DataError(
                    f"policy {self.path} gives {predicted.shape[1]} numbers an action; the episode has "
                    f"{episode.action.shape[1]}: give a policy of the same robot"
                )
            curves["policy"] = predicted
            off = predicted - episode.action
            print("mean squared error: " + _by_name(names, np.square(off).mean(0)))
            print("mean absolute error: " + _by_name(names, np.abs(off).mean(0)))
            error = float(np.square(off).mean())
            print(f"over all dimensions: {error:.4f}")
        draw(out.with_suffix(".png"), names, curves, "action")
        judged = self._judged(episode)
        if judged is not None:
            print(
                f"reward model: {judged[0]:.2f} at first, {judged.max():.2f} at most, {judged[-1]:.2f} last"
            )
            place = out.with_name(f"{out.name}_reward.png")
            draw(place, ["P(success)"], {"judged": judged[:, None]}, "reward model")
        self._show(episode, curves, judged, options)
        _write_clip(out, episode, [], options)
        if options.rerun:
            write_rerun(out.with_suffix(".rrd"), episode, curves, names, judged)
        print(f"wrote {out.with_suffix('.png')}")
        return error

    def _judged(self, episode: Episode) -> Array | None:
        """The probability of success (T+1,) by the reward model."""
        if self.judge is None:
            return None
        if schema.IMAGE not in episode.observations:
            raise DataError(f"the episode has no {schema.IMAGE!r}, which the reward model judges")
        return self.judge(episode.observations[schema.IMAGE], episode.metadata.instruction)

    @staticmethod
    def _show(episode: Episode, curves: Curves, judged: Array | None, options: Options) -> None:
        """Step by step on the terminal, where that was asked for."""
        if not (options.single or options.paced):
            return
        begin = time.monotonic()
        for step in range(len(episode)):
            options.wait(options.start + step, episode.metadata.control_hz, begin)
            lines = [f"{label:>16}: " + " ".join(f"{v:6.2f}" for v in c[step]) for label, c in curves.items()]
            said = "" if judged is None else f"   P(success) {judged[step + 1]:.2f}"
            print("\n".join([f"step {options.start + step}{said}", *lines]), flush=True)


def in_simulator(episode: Episode, overrides: list[str], out: Path, options: Options) -> float:
    """The executed actions again, open loop and through the guard, from the recorded seed.

    It always begins at the first step, whose scene the seed makes; the drift is that of the steps asked for.
    Returns the largest drift of the end effector [m].
    """
    facts = episode.metadata
    if facts.seed < 0:
        raise DataError(
            "the episode has no seed, so its scene cannot be made again; give checkpoint= instead"
        )
    config = resolve([*overrides, f"task={facts.task}"])
    env = Simulation(config).vector_env(1, max_steps=len(episode) + 1, hold_steps=len(episode) + 1)
    begin = time.monotonic()
    try:
        observations, _ = env.reset(seed=[facts.seed])
        seen = [{key: value[0].copy() for key, value in observations.items()}]
        success = False
        for step, action in enumerate(episode.action[: options.stop]):
            if step >= options.start:
                options.wait(step, facts.control_hz, begin)
            observations, _, _, _, info = env.step(action[None])
            seen.append({key: value[0].copy() for key, value in observations.items()})
            success |= bool(info["success"][0])
    finally:
        env.close()
    shown = options.cut(episode)
    window = slice(options.start, options.start + len(shown) + 1)
    states = np.stack([each[schema.STATE] for each in seen])[window]
    recorded = shown.observations[schema.STATE]
    drift = np.linalg.norm(states[:, :3] - recorded[:, :3], axis=1)
    print(
        f"replayed open loop: {'success' if success else 'no success'}; end-effector drift "
        f"{1000 * drift.mean():.2f} mm mean, {1000 * drift.max():.2f} mm at most"
    )
    names = [f"state {i}" for i in range(states.shape[1])]
    curves: Curves = {"recorded": recorded, "replayed": states}
    draw(out.with_suffix(".png"), names, curves, "state")
    clips = []
    if schema.IMAGE in seen[0]:
        clips = [np.stack([each[schema.IMAGE] for each in seen])[window]]
    _write_clip(out, shown, clips, options)
    if options.rerun:
        write_rerun(out.with_suffix(".rrd"), shown, curves, names, None, clips)
    print(f"wrote {out.with_suffix('.png')} and {out.with_suffix('.mp4')}")
    return float(drift.max())


def _write_clip(out: Path, episode: Episode, beside: list[npt.NDArray[np.uint8]], options: Options) -> None:
    """The recorded pictures, and others beside them, as a video."""
    if schema.IMAGE not in episode.observations:
        return
    clips = [episode.observations[schema.IMAGE], *beside]
    scale = max(1, 256 // clips[0].shape[1])
    rate = max(episode.metadata.control_hz * options.speed, 0.1)
    write_video(out.with_suffix(".mp4"), side_by_side(clips), fps=rate, scale=scale)


def _by_name(names: tuple[str, ...], values: npt.NDArray[np.floating]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in zip(names, values, strict=True))
