"""Statistics as LeRobotDataset keeps them: of each feature, an episode and the whole dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, npt.NDArray[Any]]


class Summary:
    """Feature -> min, max, mean, std, count, q01 .. q99.

    Pictures are scaled to 0 .. 1 and summed up by channel, (3, 1, 1). Quantiles of a whole dataset are,
    as in lerobot, the mean of the episodes' weighted by their lengths: an approximation.
    """

    def __init__(self, features: Mapping[str, Stats] | None = None) -> None:
        self._features = dict(features or {})

    @classmethod
    def of(cls, columns: Mapping[str, npt.NDArray[Any]]) -> Summary:
        """Of an episode's columns (T, ...)."""
        return cls({key: _pictures(v) if v.ndim == 4 else _numbers(v) for key, v in columns.items()})

    def add(self, other: Summary) -> None:
        """Take in another episode's (the update of Chan, Golub and LeVeque 1979)."""
        for key, theirs in other._features.items():
            ours = self._features.get(key)
            self._features[key] = theirs if ours is None else _merge(ours, theirs)

    def lists(self) -> dict[str, dict[str, Any]]:
        """As nested lists of numbers, for JSON and parquet."""
        return {
            key: {name: value.tolist() for name, value in stats.items()}
            for key, stats in self._features.items()
        }


def _numbers(values: npt.NDArray[Any]) -> Stats:
    rows = values.astype(np.float64).reshape(len(values), *(values.shape[1:] or (1,)))
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "count": np.array([len(rows)]),
    } | dict(zip(QUANTILES, quantiles, strict=True))


def _pictures(frames: npt.NDArray[np.uint8]) -> Stats:
    """Exact, from the histogram of each channel."""
    levels = np.arange(256) / 255
    stats: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
    for channel in np.moveaxis(frames, -1, 0):
        counts = np.bincount(np.ascontiguousarray(channel).reshape(-1), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ levels)
        present = np.flatnonzero(counts)
        stats["min"].append(levels[present[0]])
        stats["max"].append(levels[present[-1]])
        stats["mean"].append(mean)
        stats["std"].append(float(share @ (levels - mean) ** 2) ** 0.5)
        below = np.cumsum(share)
        for name, quantile in QUANTILES.items():
            stats[name].append(levels[min(int(np.searchsorted(below, quantile - 1e-12)), 255)])
    return {name: np.array(value).reshape(3, 1, 1) for name, value in stats.items()} | {
        "count": np.array([len(frames)])
    }


def _merge(a: Stats, b: Stats) -> Stats:
    n_a, n_b = a["count"], b["count"]
    n, delta = n_a + n_b, b["mean"] - a["mean"]
    variance = (a["std"] ** 2 * n_a + b["std"] ** 2 * n_b + delta**2 * (n_a * n_b / n)) / n
    return {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": a["mean"] + delta * (n_b / n),
        "std": np.sqrt(variance),
        "count": n,
    } | {name: (a[name] * n_a + b[name] * n_b) / n for name in QUANTILES}
