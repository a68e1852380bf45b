"""Datasets of other projects, as Episodes, and Episodes as theirs. A module a format.

for episode in Dataset.open("lerobot_v3:data/pusht"): ...
convert("rlds:data/bridge", "data/bridge_hdf5.hdf5", "robomimic")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from robot_rl.data.episode import Episode
from robot_rl.data.formats import lerobot, minari, rlds, robomimic, rosbag
from robot_rl.data.formats.format import LEFT_OUT, Format, Written, new_place
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, unknown

__all__ = ["FORMATS", "Dataset", "Format", "Written", "convert", "open_dataset"]


def _read_store(path: Path) -> Iterator[Episode]:
    return iter(EpisodeStore(path))


def _is_store(path: Path) -> bool:
    return path.is_dir() and any(path.glob("episode-*.safetensors"))


def _write_store(path: Path, episodes: Iterable[Episode]) -> Written:
    """Write `episodes` as a new store at `path`.

    Raises:
        DataError: no episodes, `path` exists, or the disk is full.
    """
    steps = 0
    with new_place(path, directory=True) as place:
        store = EpisodeStore(place)
        for episode in episodes:
            store.append(episode)
            steps += len(episode)
        if not len(store):
            raise DataError("no episodes to write; expected at least one")
    return Written(len(store), steps)


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("store", _read_store, _is_store, _write_store),
        Format("lerobot_v3", lerobot.read, lerobot.recognises, lerobot.write),
        Format("minari", minari.read, minari.recognises, minari.write),
        Format("robomimic", robomimic.read, robomimic.recognises, robomimic.write),
        Format("rlds", rlds.read_rlds, rlds.recognises),
        Format("rosbag", rosbag.read, rosbag.recognises),
    )
}


@dataclass(frozen=True)
class Dataset:
    """Episodes on the disk in one of `FORMATS`, read one at a time, as often as iterated."""

    spec: str
    format: Format
    path: Path

    @classmethod
    def open(cls, spec: str) -> Dataset:
        """The dataset `FORMAT:PATH`, or a bare path whose format is recognised.

        Raises:
            DataError: a bare path holds no known format. ConfigError: an unknown format.
        """
        prefix, colon, rest = spec.partition(":")
        if colon and "/" not in prefix:
            if prefix not in FORMATS:
                raise unknown("dataset format", prefix, FORMATS)
            return cls(spec, FORMATS[prefix], Path(rest))
        path = Path(spec)  # which may hold a colon further on
        found = next((each for each in FORMATS.values() if each.recognises(path)), FORMATS["store"])
        return cls(spec, found, path)

    def __iter__(self) -> Iterator[Episode]:
        return self.format.read(self.path)


def open_dataset(spec: str) -> list[Episode]:
    """The episodes that `spec` names, in memory; see `Dataset.open`.

    Raises:
        DataError: missing, empty or damaged. ConfigError: an unknown format.
    """
    dataset = Dataset.open(spec)
    episodes = list(dataset)
    if not episodes:
        raise DataError(f"dataset {spec} holds no episodes; collect or fetch some first")
    return episodes


def convert(source: str | Iterable[Episode], path: str | Path, format_name: str) -> Written:
    """Write the episodes of `source` (a spec, or episodes that can be iterated twice) at `path`.

    Returns:
        what was written, and by name what was lost: in reading, because an Episode has no place for it,
        and in writing, because the format has none.

    Raises:
        DataError: no source, `path` exists, or it cannot be written.
        ConfigError: an unknown format, or one that is only read.
    """
    if format_name not in FORMATS:
        raise unknown("dataset format", format_name, [n for n, f in FORMATS.items() if f.write])
    write = FORMATS[format_name].write
    if write is None:
        choices = ", ".join(name for name, each in FORMATS.items() if each.write)
        raise ConfigError(f"format={format_name!r} is only read; expected one of {choices}")
    episodes = _Noting(Dataset.open(source) if isinstance(source, str) else source)
    written = write(Path(path), episodes)
    lost = tuple(f"{name} (no place in an Episode)" for name in sorted(episodes.left_out))
    return Written(written.episodes, written.steps, lost + written.lost, written.beside)


class _Noting:
    """Episodes as they come, noting what their readers left out."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._episodes = episodes
        self.left_out: set[str] = set()

    def __iter__(self) -> Iterator[Episode]:
        for episode in self._episodes:
            self.left_out.update(episode.metadata.extra.get(LEFT_OUT, ()))
            yield episode
