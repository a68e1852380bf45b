"""mp4 files that any browser plays, and clips side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from robot_rl.data.artifact import atomic_write
from robot_rl.errors import DataError

Frames = npt.NDArray[np.uint8]
"""(T, H, W, 3), RGB."""


def encode_video(frames: Frames, fps: float, scale: int = 1) -> bytes:
    """`frames` as an mp4 (H.264, yuv420p), each pixel enlarged to `scale` x `scale`.

    Raises:
        DataError: `frames` is empty or not uint8 (T, H, W, 3), or the encoder fails.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise DataError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (T > 0, H, W, 3)")
    large = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = large.shape[1:3]
    # chroma is stored at half the resolution, so both sides must be even
    large = np.pad(large, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "18", "preset": "veryfast"}
        )
        stream.height, stream.width, stream.pix_fmt = large.shape[1], large.shape[2], "yuv420p"
        for image in large:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_video(path: str | Path, frames: Frames, fps: float, scale: int = 1) -> None:
    """Write `frames` (T, H, W, 3) as an mp4 at `path`, whole or not at all.

    Raises:
        DataError: as `encode_video`, or the disk is full.
    """
    atomic_write(path, encode_video(frames, fps, scale))


def read_frames(path: str | Path, *, start_s: float = 0.0, count: int | None = None) -> Frames:
    """Frames (count, H, W, 3) of a video from `start_s` [s] on; without `count`, all that follow.

    Raises:
        DataError: it cannot be read, or ends before `count` frames.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            half = 0.5 / float(stream.average_rate or 30)  # a frame's stamp may be rounded
            if start_s > half:
                container.seek(int((start_s - half) * 1e6))  # in microseconds
            for frame in container.decode(stream):
                if len(frames) == count:
                    break
                if frame.time is not None and frame.time > start_s - half:
                    frames.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from error
    if not frames or (count is not None and len(frames) < count):
        raise DataError(
            f"{path} has {len(frames)} frames from {start_s:.2f} s on; expected {count or 'some'}"
        )
    return np.stack(frames)


def side_by_side(clips: Sequence[Frames], gap: int = 2) -> Frames:
    """Clips (T_i, H_i, W_i, 3) from left to right; shorter ones hold their last frame.

    Raises:
        DataError: there are no clips, or one is empty.
    """
    if not clips or any(len(clip) == 0 for clip in clips):
        raise DataError("cannot set clips side by side: expected at least one, and none of them empty")
    length, height = max(map(len, clips)), max(clip.shape[1] for clip in clips)
    columns: list[Frames] = []
    for clip in clips:
        held = np.concatenate([clip, clip[-1:].repeat(length - len(clip), axis=0)])
        columns += [
            np.pad(held, ((0, 0), (0, height - clip.shape[1]), (0, 0), (0, 0))),
            np.full((length, height, gap, 3), 255, np.uint8),
        ]
    return np.concatenate(columns[:-1], axis=2)


def label(frames: Frames, text: str) -> Frames:
    """`frames` with a line of text in a strip of 14 pixels above them."""
    strip = Image.new("RGB", (frames.shape[2], 14))
    ImageDraw.Draw(strip).text((2, 1), text, fill="white")
    band = np.broadcast_to(np.asarray(strip), (len(frames), 14, frames.shape[2], 3))
    return np.concatenate([band, frames], axis=1)
