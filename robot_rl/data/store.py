"""`EpisodeStore`: a directory of episodes, one file each, committed atomically.

    episode-000012.safetensors   arrays raw; header: format, metadata (JSON), content hash

A kill during `append` loses at most the episode that was being written. A reader never sees half an
episode, and every episode's hash is checked when it is read.
"""

from __future__ import annotations

import fcntl
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
from safetensors import SafetensorError, safe_open

from robot_rl.data.artifact import atomic_write, explain_write_errors
from robot_rl.data.episode import STEP_DTYPES, Episode, EpisodeMetadata
from robot_rl.errors import DataError

EPISODE_FORMAT = "robot_rl.episode.1"
_NAME = re.compile(r"episode-(\d{6,})\.safetensors")
_REMEDY = "restore the file from a copy, or delete it to go on without that episode"

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class EpisodeStore:
    """A sequence of episodes on disk, in the order in which they were appended.

    Any number of processes may append (a lock file serialises them) while others read. An open store
    sees what was there when it was opened and what it appended itself; `refresh` looks again.

    Args:
        path: the directory.
        create: make the directory if it is missing.

    Raises:
        DataError: the directory is missing and `create` is false.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        if create:
            with explain_write_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_dir():
            raise DataError(f"no episode store at {self.path}: check the path, or collect episodes into it")
        self._files: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for episodes that other processes have appended or removed."""
        numbered = ((_NAME.fullmatch(file.name), file) for file in self.path.iterdir())
        found = sorted((int(match[1]), file) for match, file in numbered if match)
        self._files = [file for _, file in found]

    @property
    def files(self) -> list[Path]:
        """The episodes' files, in their order."""
        return list(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [read_episode(file) for file in self._files[index]]
        return read_episode(self._files[index])

    def __iter__(self) -> Iterator[Episode]:
        return map(read_episode, list(self._files))

    def append(self, episode: Episode) -> int:
        """Commit one episode; on return it is on the disk. Returns its index in this store.

        Raises:
            DataError: the disk is full or the store cannot be written; what was there is unchanged.
        """
        parts = _encode(episode)
        with self._writing():
            self.refresh()
            last = int(self._files[-1].stem.removeprefix("episode-")) if self._files else -1
            file = self.path / f"episode-{last + 1:06d}.safetensors"
            atomic_write(file, *parts)
            self._files.append(file)
        return len(self._files) - 1

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Append each of `episodes`."""
        for episode in episodes:
            self.append(episode)

    def metadata(self, index: int) -> EpisodeMetadata:
        """One episode's metadata from the file's header alone: quick, but the hash is not checked."""
        return _read(self._files[index], arrays=False)[1]

    def select(self, predicate: Callable[[EpisodeMetadata], bool]) -> list[int]:
        """The indices of the episodes whose metadata satisfy `predicate` (hashes are not checked)."""
        return [index for index in range(len(self)) if predicate(self.metadata(index))]

    def load_all(
        self,
        progress: Progress | None = None,
        where: Callable[[EpisodeMetadata], bool] | None = None,
    ) -> list[Episode]:
        """Every episode (for which `where` holds), checked, in memory."""
        indices = range(len(self)) if where is None else self.select(where)
        episodes = []
        for done, index in enumerate(indices, start=1):
            episodes.append(self[index])
            if progress is not None:
                progress(done, len(indices))
        return episodes

    def validate(self, progress: Progress | None = None) -> None:
        """Read and check every episode.

        Raises:
            DataError: one line that names every damaged file.
        """
        damaged = []
        for done, file in enumerate(self._files, start=1):
            try:
                read_episode(file)
            except DataError as error:
                damaged.append(error)
            if progress is not None:
                progress(done, len(self))
        if len(damaged) == 1:
            raise damaged[0]
        if damaged:
            raise DataError(f"{len(damaged)} damaged episodes: " + " | ".join(map(str, damaged)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the store's writer lock, which the kernel frees when its holder dies."""
        with explain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.path.glob(".episode-*.tmp"):  # under the lock: its writer is dead
                leftover.unlink(missing_ok=True)
            yield


def _encode(episode: Episode) -> list[bytes | memoryview]:
    """An episode's safetensors file in parts: its head, then each array where it lies in memory.

    The library would copy all of it (`save`), or leave a temporary file behind a kill (`save_file`).

        uint64 length of the header | header (JSON, padded to 8 bytes) | arrays, widest numbers first
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in episode.arrays().items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header: dict[str, Any] = {
        "__metadata__": {
            "format": EPISODE_FORMAT,
            "metadata": episode.metadata.to_json(),
            "sha256": episode.content_hash(),
        }
    }
    end = 0
    for name, value in arrays.items():
        begin, end = end, end + value.nbytes
        header[name] = {
            "dtype": _dtype_name(name, value.dtype),
            "shape": value.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    flat = (value.reshape(-1).view(np.uint8).data for value in arrays.values())
    return [struct.pack("<Q", len(text)), text, *flat]


def _dtype_name(name: str, dtype: np.dtype[Any]) -> str:
    """What safetensors calls a type of numbers."""
    if dtype.kind == "b":
        return "BOOL"
    if dtype.kind not in "fiu" or dtype.itemsize > 8 or not dtype.isnative:
        raise DataError(f"array {name!r} is {dtype.str}; expected bool, or native floats or integers")
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def read_episode(file: Path) -> Episode:
    """The episode in `file`, its content hash checked.

    Raises:
        DataError: the file is missing, truncated or changed; the message names it.
    """
    arrays, metadata, expected = _read(file, arrays=True)
    steps = {name: arrays.pop(name) for name in STEP_DTYPES if name in arrays}
    try:
        episode = Episode(observations=arrays, metadata=metadata, **steps)
    except (DataError, TypeError) as error:
        raise DataError(f"{file} holds no valid episode: {error}; {_REMEDY}") from error
    found = episode.content_hash()
    if found != expected:
        raise DataError(f"{file} has content hash {found[:12]}; expected {expected[:12]}; {_REMEDY}")
    return episode


def _read(file: Path, *, arrays: bool) -> tuple[dict[str, Any], EpisodeMetadata, str]:
    """Arrays (if wanted), metadata and the content hash that the header claims."""
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()} if arrays else {}  # noqa: SIM118
        if header.get("format") != EPISODE_FORMAT:
            raise DataError(
                f"{file} has format {header.get('format')!r}; expected {EPISODE_FORMAT!r}; {_REMEDY}"
            )
        metadata = EpisodeMetadata.from_json(header["metadata"])
        if metadata.to_json() != header["metadata"]:
            raise ValueError("metadata is not in canonical form")
        return tensors, metadata, header["sha256"]
    except FileNotFoundError as error:
        raise DataError(f"{file} is gone: reopen the store, or restore the file") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is truncated or damaged ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error
