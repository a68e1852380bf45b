"""Datasets of other projects, as Episodes."""

from __future__ import annotations

from pathlib import Path

from robot_rl.data.episode import Episode
from robot_rl.data.formats.rlds import read_rlds
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError, unknown

FORMATS = ("store", "rlds")


def open_dataset(spec: str) -> list[Episode]:
    """The episodes that `spec` names: `rlds:PATH`, `store:PATH`, or the bare path of a store.

    Raises:
        DataError: missing, empty or damaged. ConfigError: an unknown format.
    """
    prefix, colon, rest = spec.partition(":")
    if not colon or "/" in prefix:  # a bare path, which may hold a colon further on
        prefix, rest = "store", spec
    if prefix not in FORMATS:
        raise unknown("dataset format", prefix, FORMATS)
    if prefix == "rlds":
        episodes = list(read_rlds(rest))
    else:
        episodes = EpisodeStore(rest).load_all()
        if not episodes and any(Path(rest).glob("*.tfrecord*")):
            raise DataError(f"{rest} holds TFRecord files and no episodes; give it as rlds:{rest}")
    if not episodes:
        raise DataError(f"dataset {spec} holds no episodes; collect or fetch some first")
    return episodes
