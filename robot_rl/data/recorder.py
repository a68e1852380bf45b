"""`EpisodeRecorder`: collects one episode step by step and commits it to a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import STEP_DTYPES, Episode, EpisodeMetadata
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError, unknown

Observation = Mapping[str, npt.NDArray[Any]]


class EpisodeRecorder:
    """Records one episode at a time: `start`, `step` ..., then `commit` or `discard`.

    Only a committed episode is on the disk, so that a crash loses at most the one in progress.

    Args:
        store: where finished episodes go.
    """

    def __init__(self, store: EpisodeStore) -> None:
        self.store = store
        self._metadata: EpisodeMetadata | None = None
        self._observations: list[dict[str, npt.NDArray[Any]]] = []
        self._steps: list[dict[str, Any]] = []

    def __len__(self) -> int:
        """Steps recorded in the episode in progress."""
        return len(self._steps)

    @property
    def recording(self) -> bool:
        """Whether an episode is in progress."""
        return self._metadata is not None

    def start(self, observation: Observation, metadata: EpisodeMetadata) -> None:
        """Begin an episode with its first observation.

        Raises:
            DataError: one is in progress.
        """
        if self.recording:
            raise DataError(f"an episode of {len(self)} steps is in progress; commit or discard it first")
        self._metadata, self._observations, self._steps = metadata, [_copy(observation)], []

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
        if not self.recording:
            raise DataError("no episode is in progress; call start first")
        if self._steps and (self._steps[-1]["terminated"] or self._steps[-1]["truncated"]):
            raise DataError("the episode has ended; commit it and start the next")
        self._steps.append(
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
        self._observations.append(_copy(observation))

    def episode(self) -> Episode:
        """What was recorded so far; if nothing ended it, its last step counts as truncated.

        Raises:
            DataError: nothing was recorded, or the observations do not fit together.
        """
        if self._metadata is None or not self._steps:
            raise DataError("no step was recorded; expected at least one")
        steps = {name: np.array([s[name] for s in self._steps], dtype) for name, dtype in STEP_DTYPES.items()}
        steps["truncated"][-1] |= not steps["terminated"][-1]
        observations = {}
        for key in self._observations[0]:
            try:
                observations[key] = np.stack([observation[key] for observation in self._observations])
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"observation {key!r} is missing or changes shape during the episode; "
                    "expected the same arrays at every step"
                ) from error
        return Episode(observations=observations, metadata=self._metadata, **steps)

    def commit(self) -> int:
        """Write the episode to the store and return its index there.

        Raises:
            DataError: as `episode`, or the disk is full; the episode stays here to be committed again.
        """
        index = self.store.append(self.episode())
        self.discard()
        return index

    def discard(self) -> None:
        """Forget the episode in progress."""
        self._metadata, self._observations, self._steps = None, [], []


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
