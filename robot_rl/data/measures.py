"""Measures of a dataset: how good it is, how much of the world it covers, which trajectories to learn from.

Trajectory quality (TQ) and state-action coverage (SACo): Schweighofer et al., "A dataset perspective on
offline reinforcement learning" (arXiv 2111.04714). Trajectory weights: Hong et al., "Harnessing mixed
offline reinforcement learning datasets via trajectory weighting" (arXiv 2306.13085).

All are pure functions of episodes or of returns. n episodes, S state dimensions, D columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]


def returns(episodes: Sequence[Episode], gamma: float = 1.0) -> FloatArray:
    """sum_t gamma^t r_t of each episode, (n,).

    Raises:
        DataError: no episodes.
    """
    if not episodes:
        raise DataError("no episodes to measure; expected at least 1")
    return np.array([np.dot(gamma ** np.arange(len(e)), e.reward.astype(np.float64)) for e in episodes])


def trajectory_quality(achieved: npt.ArrayLike, worst: float, best: float) -> float:
    """TQ = (mean return - worst) / (best - worst): 0 like the worst policy, 1 like the best.

    Args:
        achieved: the dataset's returns (n,), as `returns` gives them.
        worst: mean return of a random policy. best: mean return of an expert.

    Raises:
        DataError: no returns. ConfigError: `worst` is not below `best`.
    """
    values = np.asarray(achieved, np.float64)
    if not values.size:
        raise DataError("no returns to measure; expected at least 1")
    if not worst < best:
        raise ConfigError(f"trajectory quality has worst={worst}, best={best}; expected worst < best")
    return float((values.mean() - worst) / (best - worst))


def unique_pairs(episodes: Sequence[Episode], bins: int = 5, range_of: Sequence[Episode] = ()) -> int:
    """How many different (state, action) pairs there are, on a grid of `bins` cells a dimension.

    Actions are cut over [-1, 1]; states over the range that they have in `range_of`, or in `episodes` if
    that is empty. States outside fall into the outermost cell.

    Raises:
        DataError: no episodes, or states of several sizes. ConfigError: fewer than 1 bin.
    """
    if bins < 1:
        raise ConfigError(f"coverage has bins={bins}; expected at least 1")
    states, actions = _pairs(episodes)
    limits = _pairs(range_of)[0] if range_of else states
    if limits.shape[1] != states.shape[1]:
        raise DataError(
            f"{schema.STATE!r} has {states.shape[1]} numbers here and {limits.shape[1]} in the reference; "
            "expected the same"
        )
    cells = np.hstack(
        [_cells(states, limits.min(0), limits.max(0), bins), _cells(actions, -1.0, 1.0, bins)]
    ).astype(np.int16)
    return len(np.unique(cells, axis=0))


def state_action_coverage(
    episodes: Sequence[Episode], reference: Sequence[Episode] = (), bins: int = 5
) -> float:
    """SACo: unique (state, action) pairs, relative to those of a `reference` dataset on the same grid.

    Without a reference it is relative to the number of transitions, the most that these could cover:
    1 if no pair is ever repeated. It shrinks with coarser `bins`, so compare at equal bins alone.

    Raises:
        DataError: no episodes, or states of another size than the reference's.
    """
    unique = unique_pairs(episodes, bins, reference)
    total = unique_pairs(reference, bins) if reference else sum(map(len, episodes))
    return unique / total


def trajectory_weights(
    achieved: npt.ArrayLike, first_states: npt.ArrayLike | None = None, alpha: float = 0.1
) -> FloatArray:
    """w_i = exp(minmax(G_i - V(s0_i)) / alpha), normalised to sum to one over the n trajectories.

    V is linear in the first state s0 (least squares), so that a trajectory is preferred for being better
    than its start lets expect, and not for an easy start. Equal trajectories weigh the same.

    Args:
        achieved: returns G (n,).
        first_states: s0 (n, S); without them V = 0, plain return weighting.
        alpha: temperature; the best trajectory weighs exp(1 / alpha) times the worst.

    Raises:
        DataError: no trajectories, or another number of first states. ConfigError: `alpha` not above 0.
    """
    if not alpha > 0:
        raise ConfigError(f"trajectory weights have alpha={alpha}; expected above 0")
    advantage = np.asarray(achieved, np.float64)
    if not advantage.size:
        raise DataError("no trajectories to weigh; expected at least 1")
    if first_states is not None:
        s0 = np.asarray(first_states, np.float64)
        if len(s0) != len(advantage):
            raise DataError(f"{len(s0)} first states; expected {len(advantage)}, one a return")
        design = np.column_stack([s0, np.ones(len(s0))])
        advantage = advantage - design @ np.linalg.lstsq(design, advantage, rcond=None)[0]
    spread = np.ptp(advantage)
    if spread <= 1e-9 * max(1.0, np.abs(advantage).max()):  # nothing but rounding tells them apart
        return np.full(len(advantage), 1 / len(advantage))
    weights = np.exp((advantage - advantage.max()) / (spread * alpha))
    return np.asarray(weights / weights.sum())


def episode_weights(episodes: Sequence[Episode], alpha: float = 0.1, gamma: float = 1.0) -> FloatArray:
    """`trajectory_weights` (n,) of recorded episodes, V from their first proprioceptive states."""
    first = np.stack([np.ravel(episode.observations[schema.STATE][0]) for episode in episodes])
    return trajectory_weights(returns(episodes, gamma), first, alpha)


def _pairs(episodes: Sequence[Episode]) -> tuple[FloatArray, FloatArray]:
    """States (N, S) and actions (N, A) of every transition."""
    if not episodes:
        raise DataError("no episodes to measure; expected at least 1")
    sizes = {episode.observations[schema.STATE].shape[1:] for episode in episodes}
    if len(sizes) > 1:
        raise DataError(f"{schema.STATE!r} comes in shapes {sorted(sizes)}; expected one: measure each apart")
    states = np.concatenate([episode.observations[schema.STATE][:-1] for episode in episodes])
    actions = np.concatenate([episode.action for episode in episodes])
    return states.reshape(len(states), -1).astype(np.float64), actions.astype(np.float64)


def _cells(
    values: FloatArray, low: FloatArray | float, high: FloatArray | float, bins: int
) -> npt.NDArray[np.float64]:
    """The grid cell of each value, 0 ... bins - 1, with the values outside in the outermost."""
    width = np.maximum(np.asarray(high) - low, 1e-9)
    return np.clip(np.floor((values - low) / width * bins), 0, bins - 1)
