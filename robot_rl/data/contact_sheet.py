"""A contact sheet: a few moments of a few episodes on one picture, to see at a glance what was recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from robot_rl.data import schema
from robot_rl.data.artifact import explain_write_errors
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError, DataError

_CAPTION, _GAP = 16, 4
_GREEN, _GREY, _RED = (40, 160, 70), (110, 110, 110), (200, 60, 50)


@dataclass(frozen=True)
class SheetConfig:
    """Attributes:
    moments: pictures a row, evenly from the first observation to the last.
    height: of each picture [pixels].
    camera: which; "" = `front`, or the first that an episode has.
    """

    moments: int = 6
    height: int = 96
    camera: str = ""

    def __post_init__(self) -> None:
        if self.moments < 2 or self.height < 16:
            raise ConfigError(f"moments={self.moments}, height={self.height}; expected at least 2 and 16")


def contact_sheet(episodes: Iterable[tuple[int, Episode]], config: SheetConfig | None = None) -> Image.Image:
    """A row for each (number, episode): its moments, its caption, a bar green for success.

    Raises:
        DataError: no episode has a picture.
    """
    config = config or SheetConfig()
    rows = [row for number, episode in episodes if (row := _row(number, episode, config)) is not None]
    if not rows:
        raise DataError("no episode has a picture; a contact sheet needs cameras")
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height + _GAP for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _GAP
    return sheet


def write_contact_sheet(
    path: str | Path, episodes: Iterable[tuple[int, Episode]], config: SheetConfig | None = None
) -> None:
    """Write the sheet as a picture, whose kind follows from the name (PNG, JPEG).

    Raises:
        DataError: as `contact_sheet`, or the place cannot be written.
    """
    sheet = contact_sheet(episodes, config)
    with explain_write_errors(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            sheet.save(path)
        except ValueError as error:
            raise ConfigError(f"sheet={str(path)!r}; expected a name such as sheet.png") from error


def _row(number: int, episode: Episode, config: SheetConfig) -> Image.Image | None:
    frames = _frames(episode, config.camera)
    if frames is None:
        return None
    moments = np.linspace(0, len(frames) - 1, config.moments).round().astype(int)
    width = max(1, round(frames.shape[2] * config.height / frames.shape[1]))
    row = Image.new("RGB", (config.moments * (width + _GAP) + 6, config.height + _CAPTION), "white")
    draw = ImageDraw.Draw(row)
    colour = _GREEN if episode.succeeded else _RED if episode.terminated.any() else _GREY
    draw.rectangle((0, 0, 3, row.height), fill=colour)
    end = "success" if episode.succeeded else "no success"
    text = (
        f"#{number}  {episode.metadata.instruction or episode.metadata.task}  ({len(episode)} steps, {end})"
    )
    draw.text((8, 2), text.encode("latin-1", "replace").decode("latin-1"), fill="black")
    for place, moment in enumerate(moments):
        picture = Image.fromarray(frames[moment]).resize((width, config.height), Image.Resampling.LANCZOS)
        row.paste(picture, (8 + place * (width + _GAP), _CAPTION))
    return row


def _frames(episode: Episode, camera: str) -> npt.NDArray[np.uint8] | None:
    names = sorted(key for key in episode.observations if key.startswith(schema.IMAGE_PREFIX))
    wanted = schema.image_key(camera or schema.DEFAULT_CAMERA)
    if camera and wanted not in names:
        raise ConfigError(f"camera={camera!r}; the episode has {', '.join(names) or 'no pictures'}")
    if not names:
        return None
    return episode.observations[wanted if wanted in names else names[0]]
