"""Minari datasets (HDF5), whose episodes have T+1 observations as ours do.

    data/metadata.json     total_episodes, total_steps, spaces, data_format, jpeg_encoding ...
    data/main_data.hdf5    episode_I: attributes id, total_steps, seed
                           observations/KEY (T+1, ...)  actions  rewards  terminations  truncations  infos/...

Ours keeps its observation names as the keys of a `Dict` space; pictures are stored as they are (Minari's own
default would make JPEGs of them). The requested action, cost, success, interventions and the filter's
reasons are `infos`, each of T steps; our metadata stands in `infos/robot_rl_metadata` (JSON).

A foreign dataset: nested observations become `observation.A.B`, pictures `observation.images.A`, and a plain
array, or the key `observation`, or else all vectors together, `observation.state`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.formats.format import LEFT_OUT, Layout, Written, new_place, require
from robot_rl.errors import DataError

EXTRA = "formats"
MAIN = "data/main_data.hdf5"
FACTS = "data/metadata.json"
VERSION = "0.5.4"
"""Of Minari, whose layout this is."""
INFOS = ("action_requested", "cost", "success", "is_intervention", "filter_reason")
METADATA = "robot_rl_metadata"
CONTROL_HZ = 20.0
"""Minari keeps no rate; what a foreign dataset is given."""


def recognises(path: Path) -> bool:
    """Whether `path` is a Minari dataset in HDF5."""
    return (path / MAIN).is_file()


def write(path: Path, episodes: Iterable[Episode]) -> Written:
    """Write `episodes` as a new dataset directory at `path`.

    `minari.load_dataset` finds it if `path` lies in Minari's root and is named like `robot/push-v0`;
    `minari.MinariDataset(path / "data")` opens it anywhere.

    Raises:
        DataError: no episodes, they do not share one layout, `path` exists, or the disk is full.
        MissingExtraError: no h5py.
    """
    h5py = require("h5py", "h5py", EXTRA)
    layout = Layout.of(episodes, "Minari")
    total, count, size = 0, 0, 0
    with new_place(path, directory=True) as root:
        (root / "data").mkdir()
        with h5py.File(root / MAIN, "w", track_order=True) as file:
            for episode in episodes:
                _write_episode(file.create_group(f"episode_{count}"), count, episode, layout)
                total, count = total + len(episode), count + 1
        size = (root / MAIN).stat().st_size
        (root / FACTS).write_text(json.dumps(_facts(path, layout, count, total, size)), encoding="utf-8")
    return Written(count, total, layout.lost, (*INFOS, "metadata"))


def _write_episode(group: Any, number: int, episode: Episode, layout: Layout) -> None:
    group.attrs["id"], group.attrs["total_steps"] = number, len(episode)
    if episode.metadata.seed >= 0:
        group.attrs["seed"] = episode.metadata.seed
    for key in layout.observations:
        group[f"observations/{key}"] = episode.observations[key]
    group["actions"], group["rewards"] = episode.action, episode.reward
    group["terminations"], group["truncations"] = episode.terminated, episode.truncated
    for name in INFOS:
        group[f"infos/{name}"] = getattr(episode, name)
    group[f"infos/{METADATA}"] = episode.metadata.to_json()


def _facts(path: Path, layout: Layout, episodes: int, steps: int, size: int) -> dict[str, Any]:
    name = path.name if path.name.rpartition("-v")[2].isdigit() else f"{path.name}-v0"
    spaces = {
        "type": "Dict",
        "subspaces": {key: _box(shape, dtype) for key, (shape, dtype) in layout.observations.items()},
    }
    action = _box((layout.action_dim,), np.dtype(np.float32), limit=1.0)
    return {
        "total_episodes": episodes,
        "total_steps": steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(spaces),
        "action_space": json.dumps(action),
        "dataset_id": name,
        "minari_version": VERSION,
        "dataset_size": round(size / 1e6, 1),
        "requirements": [],
    }


def _box(shape: tuple[int, ...], dtype: np.dtype[Any], limit: float = np.inf) -> dict[str, Any]:
    """A `Box` of `shape`, in Minari's JSON: integers over their whole range, floats within +-limit."""
    low, high = (-limit, limit)
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif dtype.kind == "b":
        low, high = 0, 1
    kind = "int8" if dtype.kind == "b" else dtype.name  # Gymnasium has no boxes of bool
    box = {"type": "Box", "dtype": kind, "shape": list(shape)}
    return box | {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}


def read(path: Path) -> Iterator[Episode]:
    """The episodes of the dataset at `path`, in order.

    Raises:
        DataError: missing, damaged, not in HDF5, or with actions or observations that are no arrays of
            numbers; it names the episode. MissingExtraError: no h5py.
    """
    h5py = require("h5py", "h5py", EXTRA)
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no Minari dataset at {path}: it lacks {FACTS}; check the path") from error
    except ValueError as error:
        raise DataError(f"{path / FACTS} cannot be read ({error}); fetch the dataset again") from error
    if facts.get("data_format", "hdf5") != "hdf5" or not (path / MAIN).is_file():
        raise DataError(f"{path} has format {facts.get('data_format')!r}; expected 'hdf5' with {MAIN}")
    try:
        file = h5py.File(path / MAIN, "r")
    except OSError as error:
        raise DataError(f"{path / MAIN} is damaged ({error}); fetch the dataset again") from error
    with file:
        if not len(file):
            raise DataError(f"{path} holds no episodes; expected episode_0")
        for name in sorted(file, key=lambda name: int(name.rpartition("_")[2])):
            try:
                yield _read_episode(file[name], facts, path)
            except (KeyError, ValueError, OSError, DataError) as error:
                raise DataError(f"{path} {name} cannot be used: {error}; fetch the dataset again") from error


def _read_episode(group: Any, facts: Mapping[str, Any], path: Path) -> Episode:
    observations = dict(_leaves(group["observations"]))
    action = group["actions"][()] if hasattr(group["actions"], "shape") else None
    if action is None or action.dtype.kind != "f":
        raise ValueError("its actions are no float array (T, A), which is what an Episode holds")
    fields = {
        "reward": group["rewards"][()],
        "terminated": group["terminations"][()],
        "truncated": group["truncations"][()],
    }
    infos = group.get("infos", {})
    if METADATA in infos:
        metadata = EpisodeMetadata.from_json(infos[METADATA][()].decode())
        fields |= {name: infos[name][()] for name in INFOS}
        return Episode.from_steps(observations, action, metadata, **fields)
    observations = _named(observations, jpeg=bool(facts.get("jpeg_encoding", True)))
    left_out = [f"infos/{name}" for name, _ in _leaves(infos) if name] if infos else []
    left_out += [
        f"{name} below float64"
        for name, value in (("actions", action), ("rewards", fields["reward"]))
        if not np.array_equal(value.astype(np.float32), value)
    ]
    if len(action) and not (fields["terminated"].any() or fields["truncated"].any()):
        fields["truncated"] = np.arange(len(action)) == len(action) - 1
    spec = json.loads(facts.get("env_spec") or "{}")
    metadata = EpisodeMetadata(
        task=f"minari/{facts.get('dataset_id', path.name)}",
        instruction=str(spec.get("id", "")),
        robot="",
        control_hz=CONTROL_HZ,
        seed=int(group.attrs.get("seed", -1)),
        source="minari",
        extra={LEFT_OUT: left_out} if left_out else {},
    )
    return Episode.from_steps(observations, action.astype(np.float32), metadata, **fields)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """(dotted name, array) of an HDF5 tree; a single dataset has the name ""."""
    if hasattr(node, "shape"):
        yield prefix, node[()]
        return
    for name, child in node.items():
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _named(raw: dict[str, npt.NDArray[Any]], *, jpeg: bool) -> dict[str, npt.NDArray[Any]]:
    """A foreign dataset's observations under our names."""
    named: dict[str, npt.NDArray[Any]] = {}
    for name, value in raw.items():
        if jpeg and value.ndim in (1, 2) and bytes(value[0])[:2] == b"\xff\xd8":
            value = np.stack([np.asarray(Image.open(io.BytesIO(bytes(picture)))) for picture in value])
        if value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3:
            named[schema.image_key(name or schema.DEFAULT_CAMERA)] = value
        elif value.dtype.kind not in "fiub":
            raise ValueError(f"observation {name!r} is {value.dtype}, which is no array of numbers")
        elif name in ("", "observation"):
            named[schema.STATE] = value.reshape(len(value), -1).astype(np.float32)
        else:
            named[f"observation.{name}"] = value
    if schema.STATE not in named:
        vectors = [value for _, value in sorted(named.items()) if value.ndim == 2 and value.dtype.kind == "f"]
        if not vectors:
            raise ValueError(f"no vector among the observations {', '.join(sorted(raw))}")
        named[schema.STATE] = np.concatenate(vectors, axis=1).astype(np.float32)
    return named
