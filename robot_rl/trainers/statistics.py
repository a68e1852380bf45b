"""How sure a success rate is."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
