from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from robot_rl.data.video import label, side_by_side, write_video
from robot_rl.errors import DataError
from tests.data.make import fill_disk


def clip(length: int, height: int = 16, width: int = 16) -> np.ndarray:
    """A clip that brightens evenly, left half dark."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = np.linspace(40, 220, length).astype(np.uint8)[:, None, None, None]
    return frames


@pytest.mark.parametrize(
    ("height", "width", "scale", "fps"), [(16, 16, 4, 5.0), (17, 33, 1, 2.5), (64, 64, 1, 30)]
)
def test_what_is_written_plays(tmp_path: Path, height: int, width: int, scale: int, fps: float) -> None:
    frames = clip(12, height, width)
    write_video(tmp_path / "a.mp4", frames, fps, scale)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == pytest.approx(fps)
        played = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    expected = frames.repeat(scale, 1).repeat(scale, 2)
    assert len(played) == 12
    assert all(side % 2 == 0 for side in played.shape[1:3])
    part = played[:, : height * scale, : width * scale].astype(float)
    assert np.abs(part - expected).mean() < 6


def test_clips_side_by_side_hold_their_last_frame() -> None:
    short, long = clip(2, 8, 8), clip(5, 12, 10)
    both = side_by_side([short, long], gap=2)
    assert both.shape == (5, 12, 20, 3)
    assert np.array_equal(both[:2, :8, :8], short)
    assert np.array_equal(both[4, :8, :8], short[-1])
    assert np.array_equal(both[:, :, 10:], long)
    assert (both[:, :, 8:10] == 255).all()
    with pytest.raises(DataError, match="none of them empty"):
        side_by_side([short, short[:0]])


def test_label_writes_above_the_picture() -> None:
    frames = clip(3, 16, 64)
    labelled = label(frames, "real")
    assert labelled.shape == (3, 30, 64, 3)
    assert np.array_equal(labelled[:, 14:], frames)
    assert labelled[:, :14].max() > 200


def test_bad_frames_and_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"frames are float64 \(2, 4, 4, 3\); expected uint8"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 4, 4, 3)), 5)  # type: ignore[arg-type]
    fill_disk(monkeypatch)
    with pytest.raises(DataError, match="disk full"):
        write_video(tmp_path / "a.mp4", clip(2), 5)
    assert not list(tmp_path.iterdir())
