"""How sure a success rate is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robot_rl.errors import ConfigError


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate, (low, high).

    (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)   (Wilson 1927)

    Raises:
        ConfigError: not 0 <= successes <= n, or n = 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ConfigError(f"{successes} successes of {n}; expected 0 <= successes <= n, n >= 1")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a - b over paired seeds with its 95 % bootstrap interval: (mean, low, high).

    Raises:
        ConfigError: the two are not of one length, or empty.
    """
    if len(a) != len(b) or not len(a):
        raise ConfigError(f"cannot pair {len(a)} with {len(b)} episodes; expected the same seeds in both")
    difference = np.asarray(a, float) - np.asarray(b, float)
    draws = np.random.default_rng(seed).integers(len(difference), size=(resamples, len(difference)))
    low, high = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def nested_interval(
    groups: Sequence[Mapping[str, Sequence[float]]],
    statistic: Callable[[Mapping[str, Sequence[float]]], float],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of all episodes with its 95 % interval, by bootstrap over both: (value, low, high).

    Each resample draws as many groups as there are, and as many episodes within each, with replacement.

    Args:
        groups: one a training seed: name -> one number an episode, all of one length within a group.
        statistic: of such a mapping, with the episodes of all drawn groups after one another.

    Raises:
        ConfigError: no group, or an empty one.
    """
    tables = [np.array([group[name] for name in groups[0]]) for group in groups]
    if not tables or any(table.shape[1] == 0 for table in tables):
        raise ConfigError(f"{len(tables)} groups of episodes; expected at least 1, none of them empty")

    def of(parts: Sequence[np.ndarray]) -> float:
        return statistic(dict(zip(groups[0], np.concatenate(parts, axis=1), strict=True)))

    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        chosen = [tables[i] for i in rng.integers(len(tables), size=len(tables))]
        draws.append(of([table[:, rng.integers(table.shape[1], size=table.shape[1])] for table in chosen]))
    low, high = np.percentile(draws, [2.5, 97.5], method="nearest")  # nearest: a draw may be infinite
    return of(tables), float(low), float(high)
