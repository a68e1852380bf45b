"""Names, places and columns of LeRobotDataset v3.0."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

VERSION = "v3.0"
EXTRA = "formats"
CHUNK = 1000
FILE_MB = 100
VIDEO_MB = 200
SIDECAR = "meta/robot_rl.parquet"

COLUMNS = {
    "action": "action",
    "action_requested": "complementary_info.policy_action",
    "reward": "next.reward",
    "cost": "next.cost",
    "terminated": "next.terminated",
    "truncated": "next.truncated",
    "success": "next.success",
    "is_intervention": "complementary_info.is_intervention",
    "filter_reason": "complementary_info.filter_reason",
}
"""Our step field -> its column."""
DONE = "next.done"
AUTOMATIC = ("timestamp", "frame_index", "episode_index", "index", "task_index")
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def recognises(path: Path) -> bool:
    """Whether `path` is a LeRobotDataset of any version."""
    return (path / "meta" / "info.json").is_file()


def is_picture(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this row shape can be a camera's pictures (H, W, 3)."""
    return len(shape) == 3 and shape[2] == 3 and dtype == np.uint8 and min(shape) > 0


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3), without loss."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png", compress_level=1)
    return stream.getvalue()


def decode(picture: bytes) -> npt.NDArray[np.uint8]:
    """An encoded picture as (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
