"""Shapes for the bin: three of RoboFuME's simulated tasks and ten others for multi-task pre-training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.tasks.carry import Grip
from sim.tasks.shapes import geom

Part = tuple[str, tuple[float, ...], float]
"""Kind of primitive, its half sizes [m], height of its underside [m]; parts are stacked on one axis."""

_HANDLE = 0.046  # height of the tool at the handle: the finger tips stay above the bin's walls [m]
_QUARTER = math.pi / 2
# What is wider than the open fingers ends below 22 mm, where their tips are; above, the handle is widest.


@dataclass(frozen=True)
class Thing:
    """A stack of primitives that two fingers can take near its top.

    Attributes:
        colour: its name, for the instruction. rgba: as MuJoCo takes it.
        parts: from below.
        grip: how the fingers take it.
        aside: horizontal places (x, y) [m] at which the parts stand, if not all on the axis.
    """

    name: str
    colour: str
    rgba: str
    parts: tuple[Part, ...]
    grip: Grip
    aside: tuple[tuple[float, float], ...] = ()

    def geoms(self) -> list[str]:
        """Its MJCF."""
        places = self.aside or ((0.0, 0.0),) * len(self.parts)
        return [
            geom(kind, size, (x, y, low + size[-1]), self.rgba)
            for (kind, size, low), (x, y) in zip(self.parts, places, strict=True)
        ]


def _box(x: float, y: float, low: float, high: float) -> Part:
    """A box of half widths `x` and `y`, from `low` to `high` [m]."""
    return ("box", (x, y, (high - low) / 2), low)


def _disc(radius: float, low: float, high: float) -> Part:
    return ("cylinder", (radius, (high - low) / 2), low)


def _grip(width: float, period: float = math.pi) -> Grip:
    return Grip(height=_HANDLE, width=width, period=period)


RED, BLUE, GREEN = "0.85 0.12 0.1 1", "0.15 0.35 0.8 1", "0.1 0.6 0.2 1"
YELLOW, PURPLE, ORANGE = "0.95 0.8 0.1 1", "0.5 0.2 0.65 1", "0.95 0.5 0.1 1"
WHITE, BLACK, PINK, BROWN = "0.95 0.95 0.95 1", "0.15 0.15 0.15 1", "0.95 0.5 0.65 1", "0.5 0.3 0.15 1"

THINGS: tuple[Thing, ...] = (
    Thing("weight", "black", BLACK,
          (_disc(0.022, 0, 0.020), _box(0.006, 0.006, 0.020, 0.038), _box(0.022, 0.008, 0.038, 0.054)),
          _grip(0.016)),
    Thing("vase", "blue", BLUE,
          (_disc(0.018, 0, 0.006), _disc(0.024, 0.006, 0.022), _disc(0.008, 0.022, 0.040),
           _box(0.011, 0.011, 0.040, 0.056)),
          _grip(0.022, _QUARTER)),
    Thing("bench", "brown", BROWN,
          (_box(0.005, 0.020, 0, 0.012), _box(0.005, 0.020, 0, 0.012), _box(0.004, 0.010, 0.012, 0.034),
           _box(0.004, 0.010, 0.012, 0.034), _box(0.030, 0.012, 0.034, 0.052)),
          _grip(0.024), ((-0.022, 0), (0.022, 0), (-0.022, 0), (0.022, 0), (0, 0))),
)  # fmt: skip
"""The targets of fine-tuning."""

PRIOR_THINGS: tuple[Thing, ...] = (
    Thing("tower", "red", RED,
          (_box(0.020, 0.020, 0, 0.012), _box(0.015, 0.015, 0.012, 0.056)), _grip(0.030, _QUARTER)),
    Thing("mushroom", "pink", PINK,
          (_disc(0.022, 0, 0.010), _disc(0.007, 0.010, 0.036), _box(0.015, 0.015, 0.036, 0.050),
           _box(0.010, 0.010, 0.050, 0.056)),
          _grip(0.030, _QUARTER)),
    Thing("pyramid", "yellow", YELLOW,
          (_box(0.024, 0.024, 0, 0.009), _box(0.018, 0.018, 0.009, 0.018), _box(0.011, 0.011, 0.018, 0.054)),
          _grip(0.022, _QUARTER)),
    Thing("wall", "orange", ORANGE,
          (_box(0.028, 0.018, 0, 0.010), _box(0.028, 0.013, 0.010, 0.052)), _grip(0.026)),
    Thing("arch", "green", GREEN,
          (_box(0.007, 0.019, 0, 0.014), _box(0.007, 0.019, 0, 0.014), _box(0.007, 0.009, 0.014, 0.036),
           _box(0.007, 0.009, 0.014, 0.036), _box(0.026, 0.010, 0.036, 0.052)),
          _grip(0.020), ((-0.019, 0), (0.019, 0), (-0.019, 0), (0.019, 0), (0, 0))),
    Thing("stool", "purple", PURPLE,
          (_disc(0.022, 0, 0.010), _box(0.006, 0.006, 0.010, 0.036), _box(0.014, 0.014, 0.036, 0.054)),
          _grip(0.028, _QUARTER)),
    Thing("cross", "white", WHITE,
          (_box(0.024, 0.008, 0, 0.020), _box(0.008, 0.024, 0, 0.020), _box(0.008, 0.008, 0.020, 0.056)),
          _grip(0.016, _QUARTER)),
    Thing("bottle", "blue", BLUE,
          (_disc(0.021, 0, 0.022), _box(0.007, 0.007, 0.022, 0.060)), _grip(0.014, _QUARTER)),
    Thing("chair", "red", RED,
          (_box(0.020, 0.020, 0, 0.020), _box(0.020, 0.006, 0.020, 0.058)), _grip(0.012)),
    Thing("hammer", "green", GREEN,
          (_box(0.028, 0.017, 0, 0.016), _box(0.009, 0.009, 0.016, 0.058)), _grip(0.018, _QUARTER)),
)  # fmt: skip
"""Other shapes and colours; with both ways each, 20 prior tasks."""
