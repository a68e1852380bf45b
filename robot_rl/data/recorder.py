"""`EpisodeRecorder`: collects one episode step by step and commits it to a store.

    recorder = EpisodeRecorder("data/mine")
    recorder.start(observation, EpisodeMetadata(task, instruction, robot, control_hz, source="operator"))
    for ...:
        recorder.step(observation, requested=wanted, executed=done, filter_reason="energy")
    recorder.commit(success=True)             # or: recorder.commit_later(success=True), or: .discard()
    recorder.close()                          # waits for what was to be committed later

An episode lies in memory until it is committed: a camera of 640 x 480 at 30 Hz takes 28 MB a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import STEP_DTYPES, Episode, EpisodeMetadata
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError, unknown

Observation = Mapping[str, npt.NDArray[Any]]


class EpisodeRecorder:
    """Records one episode at a time: `start`, `step` ..., then `commit`, `commit_later` or `discard`.

    A committed episode is on the disk, flushed, whole and under its own name: a SIGKILL, a full disk or
    a power cut loses at most the episode in progress (and those that `commit_later` has not written yet)
    and never a committed one. Call it from one thread.

    Args:
        store: where finished episodes go, or its path, which is made if it is missing.

    Raises:
        DataError: the directory cannot be made.
    """

    def __init__(self, store: EpisodeStore | str | Path) -> None:
        self.store = store if isinstance(store, EpisodeStore) else EpisodeStore(store, create=True)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._pending: list[tuple[_Draft, Future[int]]] = []
        self._draft: _Draft | None = None

    def __len__(self) -> int:
        """Steps recorded in the episode in progress."""
        return len(self._draft.steps) if self._draft else 0

    @property
    def recording(self) -> bool:
        """Whether an episode is in progress."""
        return self._draft is not None

    def start(self, observation: Observation, metadata: EpisodeMetadata) -> None:
        """Begin an episode with its first observation.

        Raises:
            DataError: one is in progress.
        """
        if self.recording:
            raise DataError(f"an episode of {len(self)} steps is in progress; commit or discard it first")
        self._draft = _Draft(metadata, [_copy(observation)], [])

    def step(
        self,
        observation: Observation,
        *,
        requested: npt.NDArray[Any],
        executed: npt.NDArray[Any],
        reward: float = 0.0,
        cost: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        success: bool = False,
        is_intervention: bool = False,
        filter_reason: str | int = "",
    ) -> None:
        """Add a step: the actions (A,) requested and executed, and the observation that followed.

        A request that was refused for being non-finite is kept with those numbers as 0; the reason says so.

        Raises:
            DataError: no episode is in progress, or the last step ended it.
            ConfigError: `filter_reason` is not one of `schema.FILTER_REASONS`.
        """
        if self._draft is None:
            raise DataError("no episode is in progress; call start first")
        if self._draft.ended:
            raise DataError("the episode has ended; commit it and start the next")
        self._draft.steps.append(
            {
                "action": np.array(executed, np.float32),
                "action_requested": np.nan_to_num(np.array(requested, np.float32), posinf=0.0, neginf=0.0),
                "reward": reward,
                "cost": cost,
                "terminated": terminated,
                "truncated": truncated,
                "success": success,
                "is_intervention": is_intervention,
                "filter_reason": _reason_index(filter_reason),
            }
        )
        self._draft.observations.append(_copy(observation))

    def episode(self) -> Episode:
        """What was recorded so far; if nothing ended it, its last step counts as truncated.

        Raises:
            DataError: nothing was recorded, or the observations do not fit together.
        """
        if self._draft is None or not self._draft.steps:
            raise DataError("no step was recorded; expected at least one")
        return self._draft.episode()

    def commit(self, *, terminated: bool = False, success: bool | None = None) -> int:
        """Write the episode to the store and return its index there.

        Args:
            terminated: the last step ended the task (as well as what `step` was told).
            success: what the last step's success is, if it only became known now.

        Raises:
            DataError: as `episode`, or the disk is full; the episode stays here to be committed again.
        """
        self.flush()
        self._judge(terminated, success)
        index = self.store.append(self.episode())
        self.discard()
        return index

    def commit_later(self, *, terminated: bool = False, success: bool | None = None) -> Future[int]:
        """As `commit`, in a thread, so that the next episode can start at once.

        Returns:
            the index to come, or what was wrong with the episode or the disk (which `flush` raises too).
            Until it is there, a crash loses this episode as well.

        Raises:
            DataError: nothing was recorded.
        """
        if self._draft is None or not self._draft.steps:
            raise DataError("no step was recorded; expected at least one")
        self._judge(terminated, success)
        draft = self._draft
        self.discard()
        self._pending = [(d, f) for d, f in self._pending if not f.done() or f.exception() is not None]
        written = self._writer.submit(self._write, draft)
        self._pending.append((draft, written))
        return written

    def flush(self) -> None:
        """Wait until every episode to be committed later is on the disk; a failed one is tried again.

        Raises:
            DataError: one still cannot be written; it and the later ones stay here for the next `flush`,
                unless what is wrong is the episode itself, which is then dropped.
        """
        while self._pending:
            draft, written = self._pending[0]
            if written.exception() is not None:
                try:
                    self._writer.submit(self._write, draft).result()
                except DataError as error:
                    if not isinstance(error.__cause__, OSError):
                        del self._pending[0]
                    raise
            del self._pending[0]

    def _write(self, draft: _Draft) -> int:
        return self.store.append(draft.episode())

    def close(self) -> None:
        """`flush`, and end the thread. An episode in progress is forgotten."""
        self.flush()
        self._writer.shutdown()
        self.discard()

    def _judge(self, terminated: bool, success: bool | None) -> None:
        if not self._draft or not self._draft.steps:
            return
        last = self._draft.steps[-1]
        last["terminated"] |= terminated
        if success is not None:
            last["success"] = success

    def discard(self) -> None:
        """Forget the episode in progress."""
        self._draft = None


@dataclass
class _Draft:
    """An episode in progress."""

    metadata: EpisodeMetadata
    observations: list[dict[str, npt.NDArray[Any]]]
    steps: list[dict[str, Any]]

    @property
    def ended(self) -> bool:
        return bool(self.steps) and bool(self.steps[-1]["terminated"] or self.steps[-1]["truncated"])

    def episode(self) -> Episode:
        steps = {name: np.array([s[name] for s in self.steps], dtype) for name, dtype in STEP_DTYPES.items()}
        steps["truncated"][-1] |= not steps["terminated"][-1]
        observations = {}
        for key in self.observations[0]:
            try:
                observations[key] = np.stack([observation[key] for observation in self.observations])
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"observation {key!r} is missing or changes shape during the episode; "
                    "expected the same arrays at every step"
                ) from error
        return Episode(observations=observations, metadata=self.metadata, **steps)


def _copy(observation: Observation) -> dict[str, npt.NDArray[Any]]:
    return {key: np.array(value) for key, value in observation.items()}


def _reason_index(reason: str | int) -> int:
    if isinstance(reason, str):
        if reason not in schema.FILTER_REASONS:
            raise unknown("filter reason", reason, schema.FILTER_REASONS)
        return schema.FILTER_REASONS.index(reason)
    if not 0 <= reason < len(schema.FILTER_REASONS):
        raise unknown("filter reason", str(reason), schema.FILTER_REASONS)
    return int(reason)
