"""Mean, spread and range of every named float array."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data.episode import Episode
from robot_rl.data.schema import IMAGE_PREFIX
from robot_rl.errors import DataError

STD_FLOOR = 1e-3
"""Below this a dimension counts as constant: it is centred, but not scaled."""


@dataclass(frozen=True, eq=False)
class Feature:
    """Statistics of one array over `count` rows. Each array has the row's shape, float64."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    min: npt.NDArray[np.float64]
    max: npt.NDArray[np.float64]
    count: int

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """`std`, with 1 where it is below `STD_FLOOR`, so that constant dimensions do not blow up."""
        return np.where(self.std < STD_FLOOR, 1.0, self.std)

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> Feature:
        """The statistics of rows (N, ...)."""
        values = rows.astype(np.float64)
        return cls(values.mean(0), values.std(0), values.min(0), values.max(0), len(values))

    def merge(self, other: Feature) -> Feature:
        """The statistics of both sets of rows together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        # M2 = M2_a + M2_b + delta^2 n_a n_b / n
        squares = (
            self.std**2 * self.count
            + other.std**2 * other.count
            + delta**2 * (self.count * other.count / count)
        )
        return Feature(
            mean,
            np.sqrt(squares / count),
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            count,
        )


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics by array name: the float observations, action, reward and cost of a dataset."""

    features: Mapping[str, Feature]

    @classmethod
    def from_episodes(cls, episodes: Iterable[Episode]) -> Statistics:
        """One pass over `episodes`; pictures and flags are left out.

        Raises:
            DataError: no episodes, a non-finite number, or arrays whose row shapes differ.
        """
        features: dict[str, Feature] = {}
        for number, episode in enumerate(episodes):
            for name, rows in episode.arrays().items():
                if name.startswith(IMAGE_PREFIX) or rows.dtype.kind != "f":
                    continue
                if not np.isfinite(rows).all():
                    raise DataError(
                        f"episode {number}: {name!r} holds a non-finite number; remove that episode"
                    )
                part = Feature.of(rows)
                whole = features.get(name)
                if whole is not None and whole.mean.shape != part.mean.shape:
                    raise DataError(
                        f"episode {number}: {name!r} has rows of shape {part.mean.shape}; "
                        f"expected {whole.mean.shape} as before: use episodes of one robot and task"
                    )
                features[name] = part if whole is None else whole.merge(part)
        if not features:
            raise DataError("no episodes to take statistics of; expected at least one")
        return cls(features)

    def to_json(self) -> str:
        return json.dumps(
            {
                name: {
                    "mean": feature.mean.tolist(),
                    "std": feature.std.tolist(),
                    "min": feature.min.tolist(),
                    "max": feature.max.tolist(),
                    "count": feature.count,
                }
                for name, feature in self.features.items()
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> Statistics:
        """
        Raises:
            DataError: `text` is not what `to_json` writes.
        """
        try:
            entries = json.loads(text).items()
            return cls({name: _feature(entry) for name, entry in entries})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"statistics cannot be read ({error}); compute them again") from error


def _feature(entry: Mapping[str, Any]) -> Feature:
    mean, std, low, high = (np.asarray(entry[key], np.float64) for key in ("mean", "std", "min", "max"))
    return Feature(mean, std, low, high, int(entry["count"]))
