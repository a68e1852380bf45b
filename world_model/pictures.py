"""Videos of imagination: the real episode, and beside it the one imagined from its first frame."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from robot_rl.data.episode import Episode
from world_model.metrics import Imagined, imagine
from world_model.model import WorldModel
from world_model.windows import FrameTable

GREEN, AMBER, GREY, WHITE = (80, 200, 120), (240, 170, 60), (70, 74, 82), (235, 235, 235)
PANEL_PX = 58


def imagine_episode(model: WorldModel, episode: Episode, seed: int = 0) -> Imagined:
    """The episode imagined open loop from its first frame, with its own actions: B = 1, h = T.

    Raises:
        DataError: it does not fit the model.
    """
    model.spec.check([episode])
    table = FrameTable([episode], model.spec.camera, model.embed)
    return imagine(model, table, torch.zeros(1, dtype=torch.int64), table.actions[None, :-1], seed)


def side_by_side(model: WorldModel, episode: Episode, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A video (T+1, h, 2 w, 3): the real episode, and beside it the one imagined from its first frame."""
    real = episode.observations[model.spec.camera]
    imagined = np.concatenate([real[:1], imagine_episode(model, episode, seed).frames[0].numpy()])
    return np.concatenate([real, imagined], 2)


def annotated(
    model: WorldModel, episode: Episode, played: Imagined, height: int = 256
) -> npt.NDArray[np.uint8]:
    """The same video (T+1, H, W, 3), larger, with what the model thinks of its own picture under it.

    Two bars: the success head against its threshold (green above), and the ensemble's disagreement against
    its limit (amber above). `height` is that of one picture [pixels].
    """
    real = episode.observations[model.spec.camera]
    imagined = np.concatenate([real[:1], played.frames[0].numpy()])
    limit = float(model.uncertainty_limit) if model.config.members > 1 else float("nan")
    truth = np.concatenate([[False], episode.success])
    return np.stack(
        [
            _page(
                (real[step], imagined[step]),
                height,
                f"step {step}   real: {'success' if truth[step] else '-'}",
                ("success", float(played.success[0, step - 1]) if step else 0.0, 1.0, model.threshold),
                ("uncertainty", float(played.uncertainty[0, step - 1]) if step else 0.0, 2 * limit, limit),
            )
            for step in range(len(imagined))
        ]
    )


Gauge = tuple[str, float, float, float]
"""Name, value, full scale, limit."""


def _page(
    pictures: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], height: int, title: str, *gauges: Gauge
) -> npt.NDArray[np.uint8]:
    """Two pictures beside one another over a panel of bars."""
    width = height * pictures[0].shape[1] // pictures[0].shape[0]
    page = Image.new("RGB", (2 * width, height + PANEL_PX), (24, 26, 30))
    for place, picture in enumerate(pictures):
        page.paste(
            Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (place * width, 0)
        )
    pen = ImageDraw.Draw(page)
    pen.text((8, height + 4), title, WHITE)
    pen.text((width + 8, height + 4), "imagined", WHITE)
    for row, (name, value, scale, limit) in enumerate(gauges):
        top, left, right = height + 22 + 17 * row, 96, 2 * width - 70
        pen.text((8, top - 1), name, WHITE)
        pen.rectangle((left, top, right, top + 10), GREY)
        if math.isnan(limit):  # nan: one member alone knows no doubt
            pen.text((left + 4, top - 1), "needs an ensemble (world_model.model.members)", WHITE)
            continue
        colour = (GREEN if name == "success" else AMBER) if value > limit else WHITE
        share = min(1.0, value / scale) if scale else 0.0
        pen.rectangle((left, top, left + share * (right - left), top + 10), colour)
        mark = left + min(1.0, limit / scale) * (right - left)
        pen.line((mark, top - 2, mark, top + 12), AMBER, 2)
        pen.text((right + 8, top - 1), f"{value:.3f}", WHITE)
    return np.asarray(page, np.uint8)
