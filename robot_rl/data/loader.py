"""`StepLoader`: random access to the steps of a store, straight from the files.

The arrays of an episode file lie in it as they do in memory. So they are mapped, not read: a sample touches
the pages it needs, the operating system keeps what is used often, and a store may be larger than memory.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data.episode import STEP_DTYPES
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, unknown

Rows = dict[str, npt.NDArray[Any]]
IS_PAD = "action_is_pad"
_CHUNKED = ("action", "action_requested")
_DTYPES = {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"} | {
    f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}


@dataclass(frozen=True)
class LoaderConfig:
    """Attributes:
    names: arrays to load, as in the episodes; () for the observations and `action`.
    chunk: actions a sample, from its step on. Past the episode's end the last one is repeated, and
        `action_is_pad` says so.
    verify: read every episode once when opening, and check its hash.
    """

    names: tuple[str, ...] = ()
    chunk: int = 1
    verify: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"chunk={self.chunk}; expected at least 1 action")


class StepLoader:
    """The N steps of all episodes of a store, by index.

    Raises:
        DataError: the store is missing, empty or damaged. ConfigError: a name that an episode lacks.
    """

    def __init__(self, store: EpisodeStore | str | Path, config: LoaderConfig | None = None) -> None:
        self.store = store if isinstance(store, EpisodeStore) else EpisodeStore(store)
        self.config = config or LoaderConfig()
        if self.config.verify:
            self.store.validate()
        self._episodes = [map_episode(file) for file in self.store.files]
        if not self._episodes:
            raise DataError(f"{self.store.path} holds no episodes; collect or fetch some first")
        first = self._episodes[0]
        observed = tuple(name for name in first if name not in STEP_DTYPES)
        self.names: Sequence[str] = self.config.names or (*observed, "action")
        for episode in self._episodes:
            if missing := [name for name in self.names if name not in episode]:
                raise unknown("array", missing[0], episode)
        self._ends = np.cumsum([len(episode["action"]) for episode in self._episodes])

    def __len__(self) -> int:
        """The number of steps N."""
        return int(self._ends[-1])

    def rows(self, index: npt.NDArray[np.int64]) -> Rows:
        """Steps `index` (B,): name -> (B, ...); actions (B, A), or (B, chunk, A) if `chunk` > 1."""
        numbers = np.searchsorted(self._ends, index, side="right")
        lengths = np.diff(self._ends, prepend=0)
        steps = index - (self._ends - lengths)[numbers]
        picked = [
            (self._episodes[number], step)
            for number, step in zip(numbers.tolist(), steps.tolist(), strict=True)
        ]
        rows: Rows = {}
        for name in self.names:
            if name in _CHUNKED and self.config.chunk > 1:
                ahead = np.arange(self.config.chunk)
                rows[name] = np.stack(
                    [e[name][np.minimum(step + ahead, len(e["action"]) - 1)] for e, step in picked]
                )
                rows[IS_PAD] = (steps[:, None] + ahead) >= lengths[numbers][:, None]
                continue
            like = self._episodes[0][name]
            batch = np.empty((len(picked), *like.shape[1:]), like.dtype)
            for place, (episode, step) in enumerate(picked):
                batch[place] = episode[name][step]
            rows[name] = batch
        return rows

    def sample(self, batch: int, generator: np.random.Generator) -> Rows:
        """`batch` steps drawn uniformly with replacement."""
        return self.rows(generator.integers(len(self), size=batch))


def map_episode(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an episode file, mapped read-only; the hash is not checked.

    Raises:
        DataError: the file is missing, truncated or no episode.
    """
    try:
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack_from("<Q", mapped)
        header = json.loads(mapped[8 : 8 + length])
        return {
            name: np.frombuffer(
                mapped,
                _DTYPES[entry["dtype"]],
                int(np.prod(entry["shape"], dtype=np.int64)),
                8 + length + entry["data_offsets"][0],
            ).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DataError(
            f"{file} is truncated or damaged ({type(error).__name__}: {error}); "
            "restore it from a copy, or delete it"
        ) from error
