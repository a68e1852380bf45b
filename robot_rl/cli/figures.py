"""The report's charts, as SVG text that takes its ink from the page (readable in light and dark)."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Stand-ins that no chart draws otherwise, replaced in the SVG by what the page's style sheet says.
_INK, _GRID = "#010203", "#040506"
COLOURS = ("#3b7ddd", "#e07b39", "#2f9e77", "#a566c9", "#d1495b", "#6c8a9c")
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
_MOST_PANELS = 12


def _svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as inline SVG with ids of its own."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids are shared by the whole page: figure_1 of one chart must not be that of another.
    text = re.sub(r'id="([\w.-]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)([\w.-]+)', rf"\1{name}-\2", text)
    label = Markup.escape(description)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def success_chart(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """Success of each judged stage with its 95 % Wilson interval.

    Args:
        stages: in order, each with `name`, `mean`, `low`, `high`.
    """
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _figure(9.6, 3.3)
        x = np.arange(len(stages))
        mean = np.array([stage["mean"] for stage in stages])
        errors = [
            mean - [stage["low"] for stage in stages],
            np.array([stage["high"] for stage in stages]) - mean,
        ]
        axes.bar(x, mean, width=0.5, color=COLOURS[0], alpha=0.25)
        axes.errorbar(x, mean, yerr=np.abs(errors), fmt="o", color=COLOURS[0], capsize=5, markersize=6)
        for position, value in zip(x, mean, strict=True):
            axes.annotate(
                f"{value:.1%}", (position + 0.26, value), xytext=(4, -3), textcoords="offset points"
            )
        axes.set_xticks(x, [stage["name"] for stage in stages])
        axes.set_xlim(-0.6, len(stages) - 0.4)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("success")
        axes.grid(axis="x", visible=False)
    spoken = ", ".join(f"{stage['name']} {stage['mean']:.0%}" for stage in stages)
    return _svg(figure, "success", f"Success per stage: {spoken}")


def learning_curves(stage: str, lines: Sequence[Mapping[str, float]]) -> Markup | None:
    """One small panel a metric over the stage's updates; None where nothing was logged twice."""
    skipped = ("stage", "update", "time_s")
    names = [name for name in dict.fromkeys(itertools.chain(*lines)) if name not in skipped]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in names:
        points = [
            (float(line["update"]), float(line[name]))
            for line in lines
            if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])
        ]
        if len(points) > 1:
            curves[name] = ([x for x, _ in points], [y for _, y in points])
    if not curves:
        return None
    shown = list(curves)[:_MOST_PANELS]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with matplotlib.rc_context(_STYLE | {"font.size": 8, "axes.titlesize": 8}):
        figure, panels = _figure(2.35 * columns, 1.6 * rows, rows, columns)
        for axes, name in zip(panels, shown, strict=False):
            axes.plot(*curves[name], color=COLOURS[0])
            axes.set_title(name.replace("_", " "), loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
    return _svg(figure, f"curves-{stage}", f"Learning curves of stage {stage}: {', '.join(shown)}")


def reward_chart(curves: Mapping[str, Any]) -> Markup | None:
    """The reward model's probability along a success and a failure, its threshold, and the truth."""
    episodes = [episode for episode in curves.get("episodes", []) if episode.get("probability")]
    if not episodes:
        return None
    threshold = float(curves.get("threshold", 0.5))
    with matplotlib.rc_context(_STYLE):
        figure, panels = _figure(4.8 * len(episodes), 2.7, 1, len(episodes))
        for axes, episode in zip(panels, episodes, strict=True):
            probability = episode["probability"]
            steps = np.arange(len(probability))
            truth = np.asarray(episode.get("truth", []), float)[: len(steps)]
            if truth.any():
                axes.fill_between(
                    steps[: len(truth)],
                    truth,
                    step="mid",
                    color=COLOURS[2],
                    alpha=0.2,
                    linewidth=0,
                    label="fulfilled in truth",
                )
            axes.plot(steps, probability, color=COLOURS[0], label="probability of success")
            axes.axhline(threshold, color=COLOURS[1], linestyle="--", label=f"threshold {threshold:.2f}")
            axes.set_title(f"a {episode.get('label', 'episode')}", loc="left")
            axes.set_ylim(-0.03, 1.05)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        handles = dict(
            reversed(pair) for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)
        )
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return _svg(figure, "reward", "The reward model's probability of success along a success and a failure")


def safety_chart(reasons: Mapping[str, int], steps: int) -> Markup | None:
    """Share of the online steps on which the guard changed the command, by reason."""
    shown = sorted(((name, count) for name, count in reasons.items() if count), key=lambda pair: pair[1])
    if not shown or steps <= 0:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _figure(9.6, 0.6 + 0.36 * len(shown))
        shares = [count / steps for _, count in shown]
        axes.barh([name.replace("_", " ") for name, _ in shown], shares, color=COLOURS[4], height=0.55)
        for position, ((_, count), share) in enumerate(zip(shown, shares, strict=True)):
            axes.annotate(
                f"{count:,} ({share:.2%})", (share, position), xytext=(4, -3), textcoords="offset points"
            )
        axes.set_xlim(0, max(shares) * 1.3)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share of online steps")
        axes.grid(axis="y", visible=False)
    return _svg(figure, "safety", "Interventions of the command guard by reason")
