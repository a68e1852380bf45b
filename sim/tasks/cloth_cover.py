"""`widowx/cloth_cover` and `widowx/cloth_uncover`: a cloth over the block, and off it again."""

from __future__ import annotations

import itertools
import math

import numpy as np

from sim import cloth
from sim.cloth import Cloth
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.cloth import ClothTask

BLOCK = np.array([0.29, 0.072])
BLOCK_HALF = np.array([0.02, 0.02, 0.014])
COVERED, UNCOVERED = 0.95, 0.0
"""Share of the block's top hidden under the cloth from which it counts as covered, and to which as not."""
_TOP = np.array([(x, y, BLOCK_HALF[2]) for x, y in itertools.product(np.linspace(-0.02, 0.02, 6), repeat=2)])
_LIES = 2 * BLOCK_HALF[2] + 0.025  # height of the cloth over the block [m]
_BESIDE = 0.138  # from the block's middle to that of a cloth beside it [m]
_BEYOND, _FAR = 0.12, 0.27
"""Distances [m] of the knot from the block: over it, and so far that all the cloth follows."""
_CLEAR = 0.045
"""Distance [m] of a cloth's corner from the middle of the block that it leaves bare."""
_CORNER_FIT, _CORNER_ASIDE = 0.015, 0.045
"""How near the opposite corner may be to the block's middle, and how far aside, for a cover [m]."""


class _CoverTask(ClothTask):
    peak = 0.065

    def objects_xml(self) -> str:
        size = " ".join(map(str, BLOCK_HALF))
        block = (
            f'<body name="block"><freejoint/><geom name="block" type="box" size="{size}" mass="0.35" '
            'rgba="0.85 0.12 0.1 1" friction="1 0.005 0.0001" contype="1" conaffinity="3"/></body>'
        )
        return super().objects_xml() + block

    def place_block(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """Put the block somewhere near its place; returns where (2,) [m]."""
        position = BLOCK + rng.uniform(-0.015, 0.015, 2)
        scene.place("block", (*position, BLOCK_HALF[2]), rng.uniform(-0.5, 0.5))
        return position

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """Vertices (V, 3) [m] of the flat cloth beside a newly placed block."""
        middle = self.place_block(scene, rng) - np.array([0.0, _BESIDE])
        return cloth.flat(middle + rng.uniform(-0.01, 0.01, 2), rng.uniform(-0.12, 0.12))

    def over(self, scene: Scene, rng: np.random.Generator, offset: FloatArray) -> FloatArray:
        """Vertices (V, 3) [m] of the flat cloth, pulled to `offset` (2,) [m] from over a new block."""
        middle = self.place_block(scene, rng) + offset
        yaw = math.pi + rng.uniform(-0.2, 0.2)
        return cloth.flat(middle, yaw, 2 * BLOCK_HALF[2] + 2 * cloth.RADIUS)

    def hidden(self, scene: Scene) -> float:
        """Share of the block's top under the cloth."""
        block = scene.data.body("block")
        return cloth.hidden(Cloth(scene).vertices, block.xpos + _TOP @ block.xmat.reshape(3, 3).T)

    def corner(self, scene: Scene) -> FloatArray:
        """Where the corner opposite the knot lies, from the block's middle (2,) [m]."""
        return Cloth(scene).vertices[cloth.OPPOSITE, :2] - scene.position("block")[:2]

    def pulled_away(self, scene: Scene, distance: float) -> FloatArray:
        """The place (2,) [m] for a knot that is pulled off the block, towards the arm's right."""
        x, y = scene.position("block")[:2]
        return np.array([x, max(y - distance, self.workspace.low[1] + 0.015)])


class ClothCoverTask(_CoverTask):
    """Success: the cloth lies over the block's whole top, and the arm let go."""

    name = "widowx/cloth_cover"
    pair = "widowx/cloth_uncover"
    instructions = (
        "cover the red block with the cloth",
        "put the blue cloth over the block",
        "hide the red block under the cloth",
        "pull the cloth over the block by its knot",
    )
    near_misses = ("beside", "half_covered")

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        self.start(scene, self.beside(scene, rng), rng)

    def goal(self, scene: Scene) -> FloatArray:
        """Beyond the block, in line with the opposite corner; or right there, once that covers the block.

        Where that corner lies so that the cloth cannot come over the block: far away, to draw it along.
        """
        corner, knot = self.corner(scene), Cloth(scene).knot[:2]
        if knot[1] > scene.position("block")[1] + _BEYOND / 2 and self.hidden(scene) >= COVERED:
            return knot
        if corner[1] > -_CORNER_FIT or abs(corner[0]) > _CORNER_ASIDE:
            return self.pulled_away(scene, _FAR)
        way = np.array([np.clip(-corner[0] / max(abs(corner[1]), _CLEAR), -0.35, 0.35), 1.0])
        return scene.position("block")[:2] + _BEYOND * way

    def done(self, scene: Scene) -> bool:
        return bool(self.hidden(scene) >= COVERED and Cloth(scene).vertices[:, 2].max() < _LIES)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`beside`: the cloth was pulled past the block; `half_covered`: it lies on a part of it."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        if kind == "beside":
            aside = rng.uniform(0.06, 0.075)
            vertices = self.over(scene, rng, np.array([aside, aside - 0.16]))
            vertices[:, 2] = cloth.RADIUS
        else:
            offset = np.array([rng.uniform(-0.01, 0.01), -rng.uniform(0.095, 0.11)])
            vertices = self.over(scene, rng, offset)
        self.start(scene, vertices, rng)


class ClothUncoverTask(_CoverTask):
    """Success: no cloth lies over the block's top, and the arm let go."""

    name = "widowx/cloth_uncover"
    pair = "widowx/cloth_cover"
    instructions = (
        "take the cloth off the red block",
        "uncover the block",
        "pull the blue cloth away from the block",
        "lay the red block bare",
    )
    near_misses = ("half_covered", "doubled")
    hard_noise = 0.4

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        self.start(scene, self.over(scene, rng, rng.uniform(-0.012, 0.012, 2)), rng)

    def goal(self, scene: Scene) -> FloatArray:
        """Where the cloth lies clear of the block, drawn out straight: a heap would not cover it again."""
        return self.pulled_away(scene, cloth.DIAGONAL + max(-self.corner(scene)[1], _CLEAR))

    def done(self, scene: Scene) -> bool:
        return bool(self.hidden(scene) <= UNCOVERED and Cloth(scene).vertices[:, 2].max() < _LIES)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`half_covered`: an edge of the cloth still lies on the block; `doubled`: folded, but over it."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        if kind == "half_covered":
            offset = np.array([rng.uniform(-0.01, 0.01), -rng.uniform(0.095, 0.11)])
            self.start(scene, self.over(scene, rng, offset), rng)
        else:
            flat = self.over(scene, rng, rng.uniform(-0.01, 0.01, 2))
            share = rng.uniform(0.3, 0.5)
            height = 2 * BLOCK_HALF[2] + 5 * cloth.RADIUS
            self.start(scene, cloth.folded(flat, share=share, height=height), rng)
