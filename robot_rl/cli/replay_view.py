"""What `robot-rl replay` draws: panels of curves, and Rerun files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.formats.format import require

mpl.use("Agg")

Curves = dict[str, npt.NDArray[np.float32]]
"""Label -> (T, D)."""


def action_names(dimensions: int) -> tuple[str, ...]:
    """Names of an action's numbers; the WidowX family's where they fit."""
    if dimensions == len(schema.ACTION_NAMES):
        return schema.ACTION_NAMES
    return tuple(f"a{i}" for i in range(dimensions))


def draw(path: Path, names: Sequence[str], series: Curves, what: str) -> None:
    """One small panel a dimension, every series (T, D) in it."""
    figure = Figure(figsize=(10, max(1.3 * len(names), 2.5)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for (label, values), style in zip(series.items(), ("k-o", "C1--x", "C0:+"), strict=False):
            axis.plot(values[:, index], style, label=label, markersize=3, linewidth=1)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", ncols=len(series))
    axes[0].set_title(f"{what}: " + " and ".join(series))
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)


def write_rerun(
    path: Path,
    episode: Episode,
    curves: Curves,
    names: Sequence[str],
    judged: npt.NDArray[np.float32] | None,
    replayed: Sequence[npt.NDArray[np.uint8]] = (),
) -> None:
    """A Rerun file: every camera, the curves by dimension, reward and success, over the recorded time.

    Raises:
        MissingExtraError: rerun-sdk is not installed.
    """
    rr = require("rerun", "rerun-sdk", "rerun")
    recording = rr.RecordingStream("robot-rl replay")
    recording.save(path)
    cameras = {
        f"camera/{key.removeprefix(schema.IMAGE_PREFIX)}": value
        for key, value in episode.observations.items()
        if key.startswith(schema.IMAGE_PREFIX)
    }
    cameras |= {f"replayed/{number}": frames for number, frames in enumerate(replayed)}
    recording.log("instruction", rr.TextDocument(episode.metadata.instruction), static=True)
    for moment in range(len(episode) + 1):
        recording.set_time("step", sequence=moment)
        recording.set_time("time", duration=moment / episode.metadata.control_hz)
        for name, frames in cameras.items():
            recording.log(name, rr.Image(frames[moment]).compress(jpeg_quality=90))
        for label, values in curves.items():
            if moment < len(values):
                for name, value in zip(names, values[moment], strict=True):
                    recording.log(f"{label}/{name}".replace(" ", "_"), rr.Scalars(float(value)))
        if moment < len(episode):
            recording.log("reward", rr.Scalars(float(episode.reward[moment])))
            recording.log("success", rr.Scalars(float(episode.success[moment])))
        if judged is not None:
            recording.log("judged", rr.Scalars(float(judged[moment])))
    recording.flush()
    recording.disconnect()
