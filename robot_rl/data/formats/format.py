"""What a dataset format of another project is to us: a way to read episodes, and one to write them."""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.data.artifact import explain_write_errors, sync_directory
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError, MissingExtraError

LEFT_OUT = "left_out"
"""Key of `metadata.extra`: names of what a reader found in its source and an `Episode` has no place for."""

REPEATED = "final_observation_repeated"
"""Key of `metadata.extra`: true where the source ends with the last action, so that a reader repeated the
last observation as the one after it."""


@dataclass(frozen=True)
class Written:
    """What a writer did.

    Attributes:
        episodes, steps: how many.
        lost: what the format cannot hold, by name, with the reason.
        beside: what is kept in fields of our own, which only our reader looks for.
    """

    episodes: int
    steps: int
    lost: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as in `NAME:PATH`.
        read: path -> episodes, one at a time.
        recognises: whether a path holds this format.
        write: (new path, episodes) -> report. Episodes are iterated more than once: give a list or a
            `Dataset`. None where we only read.
    """

    name: str
    read: Callable[[Path], Iterator[Episode]]
    recognises: Callable[[Path], bool]
    write: Callable[[Path, Iterable[Episode]], Written] | None = None


@dataclass(frozen=True)
class Layout:
    """What all episodes of a dataset have in common, for formats with one schema for all.

    Attributes:
        observations: key -> (shape of one observation, dtype), of the keys that every episode has.
        action_dim: A. control_hz: rate of the steps [Hz]. robot: its name, "" if there are several.
        lost: observations that not every episode has in the same shape, with the reason.
    """

    observations: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    action_dim: int
    control_hz: float
    robot: str
    lost: tuple[str, ...]

    @classmethod
    def of(cls, episodes: Iterable[Episode], format_name: str) -> Layout:
        """
        Raises:
            DataError: no episodes, or they differ in rate or in the size of their actions.
        """
        seen: Counter[tuple[str, tuple[int, ...], np.dtype[Any]]] = Counter()
        rates, sizes, robots = set(), set(), set()
        count = 0
        for episode in episodes:
            count += 1
            rates.add(episode.metadata.control_hz)
            sizes.add(episode.action.shape[1])
            robots.add(episode.metadata.robot)
            for key, value in episode.observations.items():
                seen[key, value.shape[1:], value.dtype] += 1
        if not count:
            raise DataError("no episodes to write; expected at least one")
        for what, values in (("control_hz", rates), ("action size", sizes)):
            if len(values) > 1:
                raise DataError(
                    f"episodes differ in {what}: {', '.join(map(str, sorted(values)))}; "
                    f"{format_name} has one for all: filter or split them first"
                )
        common = {key: (shape, dtype) for (key, shape, dtype), n in seen.items() if n == count}
        partly: Counter[str] = Counter()
        for (key, _, _), number in seen.items():
            partly[key] += number
        lost = [
            f"{key} ({f'in {n} of {count} episodes' if n < count else 'its shape or type changes'})"
            for key, n in sorted(partly.items())
            if key not in common
        ]
        robot = robots.pop() if len(robots) == 1 else ""
        return cls(common, sizes.pop(), rates.pop(), robot, tuple(lost))


@contextmanager
def new_place(path: Path, *, directory: bool) -> Iterator[Path]:
    """A temporary file name or directory that becomes `path` once the body is through.

    Raises:
        DataError: there is something at `path` already, or it cannot be written; nothing is left behind.
    """
    if path.exists():
        raise DataError(f"{path} exists already; give a new path, or remove it first")
    temporary = path.with_name(f".{path.name}.new")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        try:
            if directory:
                temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*") if directory else [temporary]:
                sync_directory(file)
            temporary.rename(path)
            sync_directory(path.parent)
        except BaseException:
            _remove(temporary)
            raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require(module: str, package: str, extra: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra) from error
