"""`widowx/cloth_fold` and `widowx/cloth_unfold`: a cloth corner onto corner, and flat again."""

from __future__ import annotations

import numpy as np

from sim import cloth
from sim.cloth import Cloth
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.cloth import ClothTask

CENTRE = np.array([0.29, 0.0])
MATCHED = 0.03
"""Distance [m] from its mirror image at which a vertex of the folded half lies right."""
FOLDED_SHARE = 0.85
FLAT = 0.04
"""Greatest height [m] of a cloth that lies, the layers and the knot included."""
_MOVING = np.flatnonzero(cloth.REST[:, 1] < -1e-6)


class _FoldTask(ClothTask):
    peak = 0.075

    def lay_out(self, rng: np.random.Generator) -> FloatArray:
        """Vertices (V, 3) [m] of the flat cloth, somewhere about the middle."""
        return cloth.flat(CENTRE + rng.uniform(-0.02, 0.02, 2), rng.uniform(-0.25, 0.25))

    def folded_share(self, scene: Scene) -> float:
        """Share of the knot's half whose vertices lie on their mirror images."""
        vertices = Cloth(scene).vertices[:, :2]
        away = np.linalg.norm(vertices[_MOVING] - vertices[cloth.MIRROR[_MOVING]], axis=1)
        return float((away < MATCHED).mean())


class ClothFoldTask(_FoldTask):
    """Success: the knot's half lies on the other half, which is still spread out, and the arm let go."""

    name = "widowx/cloth_fold"
    pair = "widowx/cloth_unfold"
    instructions = (
        "fold the cloth in half",
        "fold the blue cloth corner to corner",
        "bring the knotted corner over to the opposite corner",
        "make a triangle out of the cloth",
    )
    near_misses = ("half_folded", "askew")
    hard_noise = 0.2

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        self.start(scene, self.lay_out(rng), rng)

    def goal(self, scene: Scene) -> FloatArray:
        return Cloth(scene).vertices[cloth.OPPOSITE, :2]

    def done(self, scene: Scene) -> bool:
        vertices = Cloth(scene).vertices
        side, far = vertices[[cloth.LEFT, cloth.RIGHT]], vertices[cloth.OPPOSITE]
        base_flat = np.linalg.norm(far - side.mean(0)) > 0.85 * cloth.DIAGONAL / 2
        crease_straight = cloth.spread(vertices)[1] > 0.85
        lies = vertices[:, 2].max() < FLAT
        return bool(base_flat and crease_straight and lies and self.folded_share(scene) >= FOLDED_SHARE)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`half_folded`: the crease lies nearer to the knot; `askew`: it is turned against the diagonal."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        if kind == "half_folded":
            vertices = cloth.folded(self.lay_out(rng), share=rng.uniform(0.45, 0.7))
        else:
            vertices = cloth.folded(self.lay_out(rng), angle=rng.choice([-1, 1]) * rng.uniform(0.3, 0.45))
        self.start(scene, vertices, rng)


class ClothUnfoldTask(_FoldTask):
    """Success: the cloth lies flat, spread out along both diagonals, and the arm let go."""

    name = "widowx/cloth_unfold"
    pair = "widowx/cloth_fold"
    instructions = (
        "unfold the cloth",
        "open the folded cloth and lay it flat",
        "spread the blue cloth out on the table",
        "pull the knotted corner back until the cloth is flat",
    )
    near_misses = ("half_open", "corner_turned")
    hard_noise = 0.4

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        self.start(scene, cloth.folded(self.lay_out(rng)), rng)

    def goal(self, scene: Scene) -> FloatArray:
        """The mirror image of the opposite corner.

        A little less or more, by where the cloth has crept to: each lap drags it some millimetres.
        """
        vertices = Cloth(scene).vertices[:, :2]
        corner, middle = vertices[cloth.OPPOSITE], vertices[[cloth.LEFT, cloth.RIGHT]].mean(0)
        out = (middle - corner) / max(float(np.linalg.norm(middle - corner)), 0.02)
        crept = float((middle - CENTRE) @ out)
        return 2 * middle - corner + np.clip(0.004 - 0.25 * crept, -0.01, 0.02) * out

    def done(self, scene: Scene) -> bool:
        vertices = Cloth(scene).vertices
        return bool(min(cloth.spread(vertices)) > 0.92 and vertices[:, 2].max() < FLAT)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`half_open`: the knot lies near the middle; `corner_turned`: only its corner is turned in."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        share = rng.uniform(0.45, 0.65) if kind == "half_open" else rng.uniform(0.2, 0.35)
        self.start(scene, cloth.folded(self.lay_out(rng), share=share), rng)
