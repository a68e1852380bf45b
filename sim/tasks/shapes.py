"""MJCF of things made of several primitive geoms; a thing's origin is the middle of its underside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

FRICTION = "0.6 0.005 0.0001"
RIGID = 'solref="0.004 1" solmix="100"'
"""The stiffest contact that two steps of .002 s allow, whatever the other thing has. How deep MuJoCo lets a
contact sink goes with the acceleration that its force gives the lighter thing: a lid of 35 g pushed with 14 N
sank so far into the pot's wall that the nearest way out was the other side, and stayed there."""
MASKS = {"all": (1, 3), "arm": (0, 2), "nothing": (0, 0)}
"""MuJoCo's contype and conaffinity; the arm's are (2, 1), the table's (1, 3)."""
OFF_AXIS = 2e-5
"""How far [m] a cylinder stands off its thing's axis. Where a tilt against a plane is about 1e-15 rad,
MuJoCo finds no contact of the two, and what came to rest that upright falls into the table; a centre of
mass that is not above the middle of the disc keeps the tilt at some 1e-7 rad."""


def geom(
    kind: str,
    size: Sequence[float],
    position: Sequence[float],
    rgba: str,
    yaw: float = 0.0,
    density: float = 300.0,
    touches: str = "all",
) -> str:
    """One primitive of MuJoCo's half `size` [m] at `position` (3,) [m], turned by `yaw` [rad].

    `density` [kg/m^3]; `touches` is `all`, `arm` (a part that slides inside another one) or `nothing`
    (a mark, without mass).
    """
    contype, conaffinity = MASKS[touches]
    if touches == "nothing":
        density = 0.0
    elif kind == "cylinder":
        position = (position[0] + OFF_AXIS, *position[1:])
    return (
        f'<geom type="{kind}" size="{numbers(size)}" pos="{numbers(position)}" euler="0 0 {yaw:.6g}" '
        f'rgba="{rgba}" friction="{FRICTION}" {RIGID} density="{density}" '
        f'contype="{contype}" conaffinity="{conaffinity}"/>'
    )


def free(name: str, geoms: Iterable[str], joint: str = "<freejoint/>") -> str:
    """A loose body."""
    return f'<body name="{name}">{joint}{"".join(geoms)}</body>'


def fixed(name: str, geoms: Iterable[str]) -> str:
    """A body that nothing moves, but that `Scene.move_marker` puts elsewhere for an episode."""
    return f'<body name="{name}" mocap="true">{"".join(geoms)}</body>'


def ring(
    radius: float, height: float, thickness: float, rgba: str, number: int = 12, low: float = 0.0
) -> list[str]:
    """An upright tube of outer `radius` and wall `thickness`, from `low` to `height` [m], of boxes."""
    middle = radius - thickness / 2
    size = (thickness / 2, radius * math.tan(math.pi / number), (height - low) / 2)
    angles = [2 * math.pi * index / number for index in range(number)]
    return [
        geom(
            "box", size, (middle * math.cos(angle), middle * math.sin(angle), (height + low) / 2), rgba, angle
        )
        for angle in angles
    ]


def numbers(values: Iterable[float]) -> str:
    """Numbers as an MJCF attribute."""
    return " ".join(f"{value:.6g}" for value in values)
