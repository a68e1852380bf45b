"""What a dataset holds, in numbers: lengths, successes, actions, quality and coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.measures import state_action_coverage, trajectory_quality
from robot_rl.errors import ConfigError, DataError


@dataclass(frozen=True)
class SummaryConfig:
    """Attributes:
    bins: parts of each dimension's range, for SACo (`measures.state_action_coverage`).
    return_range: (g_min, g_max) of TQ, the returns of a random and of an expert policy; None takes the
        worst and the best return of the dataset itself.
    action_bins: of the histograms, over [-1, 1] or over the range of actions that go beyond.
    """

    bins: int = 5
    return_range: tuple[float, float] | None = None
    action_bins: int = 10

    def __post_init__(self) -> None:
        if self.bins < 2 or self.action_bins < 2:
            raise ConfigError(f"bins={self.bins}, action_bins={self.action_bins}; expected both at least 2")
        if self.return_range is not None and not self.return_range[0] < self.return_range[1]:
            raise ConfigError(f"return_range={self.return_range}; expected g_min < g_max")


@dataclass(frozen=True)
class DatasetSummary:
    """Attributes:
    lengths: steps of each episode (N,). returns: undiscounted, (N,).
    successes: (N,). interventions, filtered: share of the steps by a person, and changed by a filter.
    instructions: instruction -> episodes. sources: who acted -> episodes.
    observations: key -> (row shape, dtype) of the first episode that has it.
    action_edges: (A, action_bins + 1). action_counts: (A, action_bins).
    quality: TQ, 0 where all returns are the same. coverage: SACo. hours: of recording [h].
    """

    lengths: npt.NDArray[np.int64]
    returns: npt.NDArray[np.float64]
    successes: npt.NDArray[np.bool_]
    interventions: float
    filtered: float
    instructions: dict[str, int]
    sources: dict[str, int]
    observations: dict[str, tuple[tuple[int, ...], str]]
    action_edges: npt.NDArray[np.float64]
    action_counts: npt.NDArray[np.int64]
    quality: float
    coverage: float
    hours: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


def summarise(
    episodes: Iterable[Episode],
    config: SummaryConfig | None = None,
    reference: Iterable[Episode] | None = None,
) -> DatasetSummary:
    """One pass over `episodes`, which keeps their states and actions but no pictures.

    Raises:
        DataError: no episodes, or they differ in the size of their states or actions.
    """
    config = config or SummaryConfig()
    light: list[Episode] = []
    observations: dict[str, tuple[tuple[int, ...], str]] = {}
    for number, episode in enumerate(episodes):
        first = light[0] if light else episode
        found, expected = _sizes(episode), _sizes(first)
        if found != expected:
            raise DataError(
                f"episode {number} has states {found[0]} and actions {found[1]}; expected {expected[0]} and "
                f"{expected[1]}, as those before: filter or split the dataset first"
            )
        for key, value in episode.observations.items():
            observations.setdefault(key, (value.shape[1:], value.dtype.name))
        light.append(_light(episode))
    if not light:
        raise DataError("no episodes to sum up; expected at least one")
    actions = np.concatenate([episode.action for episode in light]).astype(np.float64)
    edges = np.stack(
        [
            np.linspace(min(-1.0, lowest), max(1.0, highest), config.action_bins + 1)
            for lowest, highest in zip(actions.min(0), actions.max(0), strict=True)
        ]
    )
    gained = np.array([float(episode.reward.astype(np.float64).sum()) for episode in light])
    low, high = config.return_range or (float(gained.min()), float(gained.max()))
    standard = [] if reference is None else [_light(episode) for episode in reference]
    return DatasetSummary(
        lengths=np.array([len(episode) for episode in light]),
        returns=gained,
        successes=np.array([episode.succeeded for episode in light]),
        interventions=float(np.concatenate([episode.is_intervention for episode in light]).mean()),
        filtered=float((np.concatenate([episode.filter_reason for episode in light]) > 0).mean()),
        instructions=dict(Counter(episode.metadata.instruction for episode in light)),
        sources=dict(Counter(episode.metadata.source for episode in light)),
        observations=observations,
        action_edges=edges,
        action_counts=np.stack(
            [np.histogram(column, bins)[0] for column, bins in zip(actions.T, edges, strict=True)]
        ),
        quality=trajectory_quality(gained, low, high) if low < high else 0.0,
        coverage=state_action_coverage(light, standard, config.bins),
        hours=sum(len(episode) / episode.metadata.control_hz for episode in light) / 3600,
    )


def _light(episode: Episode) -> Episode:
    """The episode without its pictures."""
    return replace(episode, observations={schema.STATE: episode.observations[schema.STATE].copy()})


def _sizes(episode: Episode) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return episode.observations[schema.STATE].shape[1:], episode.action.shape[1:]
