"""Episodes to a LeRobotDataset v3.0."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import STEP_DTYPES, Episode
from robot_rl.data.formats.format import Layout, Written, new_place, require
from robot_rl.data.formats.lerobot.columns import (
    AUTOMATIC,
    CHUNK,
    COLUMNS,
    DATA,
    DONE,
    EXTRA,
    FILE_MB,
    SIDECAR,
    VERSION,
    VIDEO,
    VIDEO_MB,
    is_picture,
    png,
)
from robot_rl.data.formats.lerobot.stats import Summary
from robot_rl.data.video import encode_video
from robot_rl.errors import DataError


def write(path: Path, episodes: Iterable[Episode], *, video: bool = False) -> Written:
    """Write `episodes` as a new LeRobotDataset at `path`.

    Args:
        path: the new directory.
        episodes: iterated twice.
        video: pictures as H.264 instead of PNG.

    Raises:
        DataError: no episodes, they do not share one layout, `path` exists, or the disk is full.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", "pyarrow", EXTRA)
    layout = Layout.of(episodes, "LeRobotDataset")
    with new_place(path, directory=True) as root:
        writer = _Writer(root, layout, video)
        for episode in episodes:
            writer.add(episode)
        writer.finish()
    lost = layout.lost + tuple(f"{key} (exact pixels: video is lossy)" for key in writer.videos)
    beside = ("the observation after the last step", "metadata")
    return Written(writer.episodes, writer.rows, lost, beside)


class _Writer:
    def __init__(self, root: Path, layout: Layout, video: bool) -> None:
        self.pa, self.parquet = (
            require("pyarrow", "pyarrow", EXTRA),
            require("pyarrow.parquet", "pyarrow", EXTRA),
        )
        self.root, self.layout = root, layout
        for key in layout.observations:
            if "/" in key or key in AUTOMATIC or key in COLUMNS.values() or key == DONE:
                raise DataError(f"observation {key!r} cannot be a LeRobotDataset feature; rename it")
        pictures = [key for key, (shape, dtype) in layout.observations.items() if is_picture(shape, dtype)]
        self.images = [] if video else pictures
        self.videos = pictures if video else []
        self.fps = max(1, round(layout.control_hz))
        self.features = self._features()
        self.episodes = self.rows = 0
        self.tasks: dict[str, int] = {}
        self.total = Summary()
        self._rows: list[dict[str, Any]] = []
        self._sidecar: list[dict[str, Any]] = []
        self._file: Any = None
        self._file_index, self._file_bytes = -1, 0

    def _features(self) -> dict[str, dict[str, Any]]:
        """Name -> dtype, shape and names of the parts."""
        size = self.layout.action_dim
        actions = list(schema.ACTION_NAMES) if size == len(schema.ACTION_NAMES) else _parts("action", size)
        features: dict[str, dict[str, Any]] = {}
        for key, (shape, dtype) in self.layout.observations.items():
            if key in self.images or key in self.videos:
                kind, names = "video" if key in self.videos else "image", ["height", "width", "channels"]
                features[key] = {"dtype": kind, "shape": list(shape), "names": names}
                if kind == "video":
                    features[key]["info"] = {
                        "video.height": shape[0], "video.width": shape[1], "video.channels": 3,
                        "video.codec": "h264", "video.pix_fmt": "yuv420p", "video.fps": self.fps,
                        "video.is_depth_map": False, "has_audio": False,
                    }  # fmt: skip
            else:
                flat = list(shape) or [1]
                features[key] = {
                    "dtype": dtype.name,
                    "shape": flat,
                    "names": _parts(key.rpartition(".")[2], flat[0]) if len(flat) == 1 else None,
                }
        for name, column in COLUMNS.items():
            many = name.startswith("action")
            dtype = np.dtype(np.int64 if name == "filter_reason" else STEP_DTYPES[name])
            features[column] = {
                "dtype": dtype.name,
                "shape": [size if many else 1],
                "names": actions if many else None,
            }
        features[DONE] = {"dtype": "bool", "shape": [1], "names": None}
        for column in AUTOMATIC:
            kind = "float32" if column == "timestamp" else "int64"
            features[column] = {"dtype": kind, "shape": [1], "names": None}
        return features

    def add(self, episode: Episode) -> None:
        steps, number = len(episode), self.episodes
        task = self.tasks.setdefault(episode.metadata.instruction, len(self.tasks))
        columns: dict[str, npt.NDArray[Any]] = {
            key: episode.observations[key][:-1] for key in self.layout.observations
        }
        columns |= {column: getattr(episode, name) for name, column in COLUMNS.items()}
        columns[COLUMNS["filter_reason"]] = episode.filter_reason.astype(np.int64)
        columns[DONE] = episode.terminated | episode.truncated
        frames = np.arange(steps)
        columns |= {
            "timestamp": (frames / self.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(steps, number),
            "index": self.rows + frames,
            "task_index": np.full(steps, task),
        }
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [episode.metadata.instruction],
            "length": steps,
            "dataset_from_index": self.rows,
            "dataset_to_index": self.rows + steps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        for key in self.videos:
            file = self.root / VIDEO.format(video_key=key, **place)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_video(columns[key], self.fps))
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": steps / self.fps}
        self._table(
            self.pa.table({k: self._column(k, columns[k]) for k in self.features if k not in self.videos})
        )
        row |= {"data/chunk_index": self._file_index // CHUNK, "data/file_index": self._file_index % CHUNK}
        summary = Summary.of({key: columns[key] for key in self.features})
        self.total.add(summary)
        row |= {
            f"stats/{key}/{name}": v for key, stats in summary.lists().items() for name, v in stats.items()
        }
        self._rows.append(row)
        final = {
            f"final/{key}": png(episode.observations[key][-1])
            if is_picture(*self.layout.observations[key])
            else episode.observations[key][-1].tobytes()
            for key in self.layout.observations
        }
        self._sidecar.append(
            {"episode_index": number, "length": steps, "metadata": episode.metadata.to_json()} | final
        )
        self.episodes, self.rows = number + 1, self.rows + steps

    def _column(self, key: str, values: npt.NDArray[Any]) -> Any:
        """A parquet column: a number, a list of fixed length, nested lists, or PNG pictures."""
        pa = self.pa
        if key in self.images:
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            return pa.array([{"bytes": png(picture), "path": None} for picture in values], kind)
        if values.shape[1:] in ((), (1,)):
            return pa.array(np.ascontiguousarray(values.reshape(-1)))
        column = pa.array(np.ascontiguousarray(values.reshape(-1)))
        for depth, size in enumerate(reversed(values.shape[1:])):
            whole = depth == values.ndim - 2 and depth == 0  # vectors have a fixed length, grids are nested
            column = (
                pa.FixedSizeListArray.from_arrays(column, size)
                if whole
                else pa.ListArray.from_arrays(np.arange(0, len(column) + 1, size, dtype=np.int32), column)
            )
        return column

    def _table(self, table: Any) -> None:
        """Add an episode's rows to the data file in progress, or begin the next when that one is full."""
        if self._file is None or self._file_bytes + table.nbytes > FILE_MB * 2**20:
            if self._file is not None:
                self._file.close()
            self._file_index, self._file_bytes = self._file_index + 1, 0
            place = {"chunk_index": self._file_index // CHUNK, "file_index": self._file_index % CHUNK}
            file = self.root / DATA.format(**place)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.parquet.ParquetWriter(file, table.schema, compression="snappy")
        self._file.write_table(table)
        self._file_bytes += table.nbytes

    def finish(self) -> None:
        """The files of meta/."""
        self._file.close()
        pa, meta = self.pa, self.root / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        self.parquet.write_table(
            pa.Table.from_pylist(self._rows), meta / "episodes" / "chunk-000" / "file-000.parquet"
        )
        index = {"index_columns": ["__index_level_0__"], "column_indexes": [], "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
             "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode",
             "numpy_type": "object", "metadata": None},
        ], "creator": {"library": "robot-rl", "version": "1"}, "pandas_version": "2.0.0"}  # fmt: skip
        tasks = pa.table({"task_index": list(self.tasks.values()), "__index_level_0__": list(self.tasks)})
        self.parquet.write_table(
            tasks.replace_schema_metadata({"pandas": json.dumps(index)}), meta / "tasks.parquet"
        )
        ours = {
            "observations": {
                key: {"shape": shape, "dtype": dtype.str}
                for key, (shape, dtype) in self.layout.observations.items()
            }
        }
        sidecar = pa.Table.from_pylist(self._sidecar).replace_schema_metadata({"robot_rl": json.dumps(ours)})
        self.parquet.write_table(sidecar, self.root / SIDECAR)
        info = {
            "codebase_version": VERSION,
            "robot_type": self.layout.robot or None,
            "total_episodes": self.episodes,
            "total_frames": self.rows,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA,
            "video_path": VIDEO if self.videos else None,
            "features": self.features,
        }
        (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
        (meta / "stats.json").write_text(json.dumps(self.total.lists(), indent=4), encoding="utf-8")


def _parts(name: str, size: int) -> list[str]:
    return [name] if size == 1 else [f"{name}_{i}" for i in range(size)]
