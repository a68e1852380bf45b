"""The one training loop: progress, logging, checkpoints, Ctrl-C and resume for every learner."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import numpy as np

from robot_rl.errors import ConfigError, Interrupted, RobotRLError
from robot_rl.trainers.protocols import Learner
from robot_rl.trainers.run import Run


class ProgressTask(Protocol):
    """One bar."""

    def update(self, completed: int, text: str = "") -> None: ...


class Progress(Protocol):
    """Shows long work. The command line draws bars; tests and libraries pass `Silent`."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[ProgressTask]:
        """A bar of `total` units that lives as long as the context."""
        ...


class Silent:
    """Shows nothing."""

    class _Task:
        def update(self, completed: int, text: str = "") -> None:
            pass

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[ProgressTask]:
        yield Silent._Task()


@dataclass(frozen=True)
class LoopConfig:
    """How often the loop logs and saves.

    Attributes:
        checkpoint_every_s: seconds between two saves of the training state.
        log_every_s: seconds between two lines of metrics, at most.
    """

    checkpoint_every_s: float = 30.0
    log_every_s: float = 2.0

    def __post_init__(self) -> None:
        if self.checkpoint_every_s < 0 or self.log_every_s < 0:
            raise ConfigError(f"loop intervals must be >= 0 s, got {self}")


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C during an update would leave the learner half-changed: note it, act between updates.

    A second Ctrl-C acts at once; the last saved state then stands.
    """
    asked = [False]

    def note(number: int, frame: FrameType | None) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: the caller's own handling stands
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _short(metrics: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.3g}" for key, value in list(metrics.items())[:3])


def train(
    learner: Learner, run: Run, stage: str, config: LoopConfig | None = None, progress: Progress | None = None
) -> float:
    """Call `learner.update()` until `total_updates`, going on from the run's saved state if it has one.

    Returns:
        Seconds spent training this stage, those before a resume included.

    Raises:
        Interrupted: Ctrl-C; the state was saved.
        RobotRLError: a metric became non-finite; the state saved before it stands.
    """
    config = config or LoopConfig()
    progress = progress or Silent()
    done, spent = 0, 0.0
    state = run.load_state(stage)
    if state is not None:
        learner.load_state_dict(state["learner"])
        done, spent = int(state["updates"]), float(state["time_s"])
    run.forget_after(stage, done)
    started = time.monotonic()
    logged = saved = started
    pending: dict[str, list[float]] = {}

    def save() -> None:
        elapsed = spent + time.monotonic() - started
        run.save_state(stage, {"learner": learner.state_dict(), "updates": done, "time_s": elapsed})

    with _deferred_interrupt() as interrupted, progress.task(stage, learner.total_updates) as bar:
        bar.update(done)
        while done < learner.total_updates:
            for key, value in learner.update().items():
                if not np.isfinite(value):
                    raise RobotRLError(
                        f"{stage}: {key} became {value} at update {done + 1}. The state saved before it "
                        f"stands: lower the learning rate and go on with resume={run.path}"
                    )
                pending.setdefault(key, []).append(value)
            done += 1
            now = time.monotonic()
            if now - logged >= config.log_every_s or done == learner.total_updates:
                means = {key: float(np.mean(values)) for key, values in pending.items()}
                run.log(stage, done, means, spent + now - started)
                bar.update(done, _short(means))
                pending, logged = {}, now
            if interrupted[0]:
                save()
                raise Interrupted(f"stopped at update {done} of {stage}; go on with resume={run.path}")
            if now - saved >= config.checkpoint_every_s:
                save()
                saved = time.monotonic()
        bar.update(done)
    # A kill between here and the end of the stage resumes at "all updates done".
    save()
    return spent + time.monotonic() - started
