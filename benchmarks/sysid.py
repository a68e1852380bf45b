"""Joint error of the simulated WidowX 250 S against a real one's log, before and after identification.

Each of the log's three segments is held out once, and the parameters are fitted to the other two. The log is
`wx250s_triangle.csv` in the folder of real data (`ROBOT_RL_REAL_DATA`). `--plot` draws docs/images/sysid.png.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import Row, run
from robot_rl.cli.figures import COLOURS
from sim.arm_model import WIDOWX_250S, ArmParameters
from sim.spec import FloatArray
from sim.sysid import JointLog, Replay, SysIdConfig, identify, joint_error

LOG = Path(os.environ.get("ROBOT_RL_REAL_DATA", "../shared/data")) / "wx250s_triangle.csv"
PERIOD_S = 0.05
PICTURE = Path("docs/images/sysid.png")
DRAWN = ("shoulder", "elbow", "forearm_roll")


def folds(log: JointLog) -> list[tuple[JointLog, JointLog]]:
    """(fitted, held out) for each segment."""
    parts = {int(part.segment[0]): part for part in log.parts()}
    return [(_join([parts[other] for other in parts if other != out]), parts[out]) for out in parts]


def _join(parts: list[JointLog]) -> JointLog:
    fields = ("command", "measured", "segment")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
    return dataclasses.replace(parts[0], **arrays)


def measure(quick: bool) -> list[Row]:
    nominal = ArmParameters.nominal(WIDOWX_250S)
    config = SysIdConfig(max_iterations=8 if quick else 30)
    rows, errors = [], []
    for fitted, held_out in folds(JointLog.load(LOG, WIDOWX_250S, PERIOD_S)):
        found = identify(fitted, WIDOWX_250S, config).parameters
        case = f"segment {held_out.segment[0]} held out"
        before, after = joint_error(nominal, held_out), joint_error(found, held_out)
        errors.append((before, after))
        rows += _rows(case, before, after)
        rows.append(Row(case, "delay", 1e3 * found.delay_s, "ms"))
        rows.append(Row(case, "gravity compensation", found.gravity_compensation, "share"))
    before, after = (np.sqrt(np.mean(np.square(part), axis=0)) for part in zip(*errors, strict=True))
    if "--plot" in sys.argv:
        _draw(held_out, nominal, found, before, after)  # the last fold's
    return [*rows, *_rows("all three", before, after)]


def _rows(case: str, before: FloatArray, after: FloatArray) -> list[Row]:
    def total(error: FloatArray) -> float:
        return float(np.sqrt(np.mean(error**2)))

    names = [*WIDOWX_250S.joints, "all joints"]
    rows = []
    for name, was, became in zip(names, [*before, total(before)], [*after, total(after)], strict=True):
        rows.append(Row(case, f"{name} nominal", 1e3 * was, "mrad"))
        rows.append(Row(case, f"{name} identified", 1e3 * became, "mrad"))
    return rows


def _draw(
    log: JointLog, nominal: ArmParameters, found: ArmParameters, before: FloatArray, after: FloatArray
) -> None:
    paths = Replay(log, WIDOWX_250S)([nominal, found])
    figure = Figure(figsize=(9, 2.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 1 + len(DRAWN), width_ratios=[1.3] + [1] * len(DRAWN))
    places = np.arange(6)
    axes[0].bar(places - 0.2, 1e3 * before, 0.4, color=COLOURS[1])
    axes[0].bar(places + 0.2, 1e3 * after, 0.4, color=COLOURS[0])
    axes[0].set_xticks(places, WIDOWX_250S.joints, rotation=40, ha="right", fontsize=7)
    axes[0].set_title("held-out error of each joint [mrad]", fontsize=8)
    times = log.period_s * np.arange(len(log.command))
    for axis, joint in zip(axes[1:], DRAWN, strict=True):
        column = WIDOWX_250S.joints.index(joint)
        for path, colour, label in (
            (log.measured, "0.15", "measured"),
            (paths[0], COLOURS[1], "nominal"),
            (paths[1], COLOURS[0], "identified"),
        ):
            deviation = 1e3 * (path - log.command)[:, column]
            axis.plot(times, deviation, color=colour, label=label, linewidth=1.2)
        axis.set_title(f"{joint} [mrad]", fontsize=8)
        axis.set_xlabel("time [s]", fontsize=7)
    axes[1].set_ylabel("angle - command", fontsize=7)
    axes[1].legend(fontsize=7, frameon=False)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run("sysid", ("numpy", "scipy", "mujoco"), measure, flags=("--plot",))
