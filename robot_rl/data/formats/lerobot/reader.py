"""A LeRobotDataset v3.0 to Episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data.episode import STEP_DTYPES, Episode, EpisodeMetadata
from robot_rl.data.formats.format import LEFT_OUT, REPEATED, require
from robot_rl.data.formats.lerobot.columns import AUTOMATIC, COLUMNS, DONE, EXTRA, SIDECAR, decode
from robot_rl.data.video import read_frames
from robot_rl.errors import DataError

Row = dict[str, Any]


def read(path: Path) -> Iterator[Episode]:
    """The episodes of the dataset at `path`, in order.

    Columns that an `Episode` has no place for are named in `metadata.extra["left_out"]`.

    Raises:
        DataError: missing, damaged, of another version, or without an action; the message names the file.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", "pyarrow", EXTRA)
    reader = _Reader(path)
    for row in reader.rows:
        try:
            yield reader.episode(row)
        except (KeyError, ValueError, OSError) as error:  # pyarrow's errors derive from these
            raise DataError(
                f"{path} episode {row.get('episode_index')} cannot be read "
                f"({type(error).__name__}: {error}); fetch the dataset again"
            ) from error


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet = require("pyarrow.parquet", "pyarrow", EXTRA)
        try:
            self.info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
            version, self.features = str(self.info["codebase_version"]), self.info["features"]
        except FileNotFoundError as error:
            raise DataError(
                f"no LeRobotDataset at {path}: it lacks meta/info.json; check the path"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}/meta/info.json cannot be read ({error}); fetch the dataset again"
            ) from error
        if not version.startswith("v3."):
            raise DataError(
                f"{path} is a LeRobotDataset {version}; expected v3.x: "
                "convert it with lerobot's own script first"
            )
        if "action" not in self.features:
            raise DataError(f"{path} has no feature 'action'; it has {', '.join(sorted(self.features))}")
        self.rows = self._all_rows()
        self.observations, self._ours = self._sidecar()
        if not self.observations:
            self.observations = {
                key: (tuple(feature["shape"]), None)
                for key, feature in self.features.items()
                if key.startswith("observation.")
            }
        known = {*self.observations, *COLUMNS.values(), DONE, *AUTOMATIC}
        self._left_out = sorted(set(self.features) - known)
        self._open: tuple[Path | None, Any] = (None, None)

    def _all_rows(self) -> list[Row]:
        rows: list[Row] = []
        try:
            for file in sorted((self.path / "meta" / "episodes").glob("*/*.parquet")):
                table = self._parquet.read_table(file)
                wanted = [name for name in table.column_names if not name.startswith("stats/")]
                rows += table.select(wanted).to_pylist()
        except (ValueError, OSError) as error:
            raise DataError(f"{file} cannot be read ({error}); fetch the dataset again") from error
        if not rows:
            raise DataError(f"{self.path} holds no episodes: meta/episodes has no rows; fetch it again")
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def _sidecar(self) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype[Any] | None]], dict[int, Row]]:
        """What our own writer left: exact shapes and types, last observations and metadata."""
        file = self.path / SIDECAR
        if not file.exists():
            return {}, {}
        table = self._parquet.read_table(file)
        ours = json.loads(table.schema.metadata[b"robot_rl"])["observations"]
        rows = {row["episode_index"]: row for row in table.to_pylist()}
        lengths = {row["episode_index"]: row["length"] for row in self.rows}
        if {number: row["length"] for number, row in rows.items()} != lengths:
            raise DataError(
                f"{file} does not fit the dataset, which was changed after it was written; "
                "delete that file to read the dataset without it"
            )
        return {key: (tuple(o["shape"]), np.dtype(o["dtype"])) for key, o in ours.items()}, rows

    def episode(self, row: Row) -> Episode:
        number, steps = int(row["episode_index"]), int(row["length"])
        table = self._table(row)
        column = {name: _array(table[name]) for name in table.column_names if name not in self._left_out}
        observations: dict[str, npt.NDArray[Any]] = {}
        for key, (shape, dtype) in self.observations.items():
            values = column[key] if key in column else self._video(key, row, steps)
            values = values if dtype is None else values.astype(dtype, copy=False)
            if values.dtype != np.uint8 or values.ndim != 4:
                values = values.reshape(steps, *shape)
            observations[key] = np.concatenate([values, self._final(key, number, values)])
        fields = {
            name: column[source].astype(STEP_DTYPES[name], copy=False)
            for name, source in COLUMNS.items()
            if source in column
        }
        action = fields.pop("action").reshape(steps, -1)
        if "action_requested" in fields:
            fields["action_requested"] = fields["action_requested"].reshape(steps, -1)
        fields = {n: v.reshape(-1) if n != "action_requested" else v for n, v in fields.items()}
        fields |= _ending(fields, column.get(DONE), steps)
        return Episode.from_steps(observations, action, self._metadata(row, number), **fields)

    def _table(self, row: Row) -> Any:
        file = self.path / self.info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        if self._open[0] != file:  # episodes come in the order of the files
            self._open = (file, self._parquet.read_table(file))
        table = self._open[1]
        pc = require("pyarrow.compute", "pyarrow", EXTRA)
        table = table.filter(pc.equal(table["episode_index"], row["episode_index"]))
        if len(table) != row["length"]:
            raise ValueError(f"{file} holds {len(table)} rows of it; expected {row['length']}")
        return table

    def _video(self, key: str, row: Row, steps: int) -> npt.NDArray[np.uint8]:
        file = self.path / self.info["video_path"].format(
            video_key=key,
            chunk_index=row[f"videos/{key}/chunk_index"],
            file_index=row[f"videos/{key}/file_index"],
        )
        return read_frames(file, start_s=float(row[f"videos/{key}/from_timestamp"]), count=steps)

    def _final(self, key: str, number: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The observation after the last step (1, ...)."""
        if number not in self._ours:
            return values[-1:]
        stored: bytes = self._ours[number][f"final/{key}"]
        if self.features[key]["dtype"] in ("image", "video"):
            return decode(stored)[None]
        return np.frombuffer(stored, values.dtype).reshape(1, *values.shape[1:])

    def _metadata(self, row: Row, number: int) -> EpisodeMetadata:
        if number in self._ours:
            return EpisodeMetadata.from_json(self._ours[number]["metadata"])
        tasks = row.get("tasks") or []
        extra: dict[str, Any] = {REPEATED: True}
        if self._left_out:
            extra[LEFT_OUT] = self._left_out
        if len(tasks) > 1:
            extra["instructions"] = list(tasks)
        return EpisodeMetadata(
            task=f"lerobot/{self.path.name}",
            instruction=str(tasks[0]) if tasks else "",
            robot=self.info.get("robot_type") or "",
            control_hz=float(self.info["fps"]),
            source="lerobot",
            extra=extra,
        )


def _ending(
    fields: dict[str, npt.NDArray[Any]], done: npt.NDArray[Any] | None, steps: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """terminated and truncated, where the dataset says less than we do.

    lerobot's own next.done is either of them: terminated where the step is a success. Without any, the
    recording just stopped: truncated.
    """
    last = np.arange(steps) == steps - 1
    truncated = fields.get("truncated", np.zeros(steps, bool))
    terminated = fields.get("terminated")
    if terminated is None:
        ended = np.zeros(steps, bool) if done is None else done.reshape(-1).astype(bool)
        terminated = ended & ~truncated & fields.get("success", np.zeros(steps, bool))
        truncated = truncated | (ended & ~terminated)
    if not (terminated | truncated).any() and "truncated" not in fields:
        truncated = last
    return {"terminated": terminated, "truncated": truncated}


def _array(column: Any) -> npt.NDArray[Any]:
    """A parquet column as an array (T, ...); encoded pictures are decoded."""
    kind = str(column.type)
    if kind.startswith("struct"):
        return np.stack([decode(cell["bytes"]) for cell in column.to_pylist()])
    flat, shape = column.combine_chunks(), [len(column)]
    while "list" in str(flat.type).split("<")[0]:
        below = flat.flatten()
        shape.append(len(below) // len(flat) if len(flat) else 0)
        flat = below
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values.reshape(shape)
