"""A square cloth with a knot at one corner, as a MuJoCo flex: its MJCF, its places, what it covers.

The cloth is an inextensible grid of point masses (edge-length constraints, no bending stiffness), with the
air's drag on every vertex. It meets the table, the objects, the gripper and itself through MuJoCo's contacts.

Two fingers cannot pinch a cloth that lies flat: with friction 2 and any pressure the arm has, they slide over
a grid this coarse. So one corner is tied into a knot, a ball as wide as a thumb on the corner's own vertex,
and the gripper holds that by friction, as it holds any object: nothing is welded, nothing sticks. The pads of
the fingers touch the knot and not the cloth about it: on a grid this coarse they would pinch a fold of it, or
take along the layer below.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from sim.scene import Scene
from sim.spec import FloatArray

VERTICES = 7
"""Vertices along an edge: the coarsest that folds like cloth; see docs for speeds of finer ones."""
EDGE = 0.15
"""Length of the cloth's edge [m]."""
DIAGONAL = EDGE * 2**0.5
RADIUS = 0.003
"""Half the cloth's thickness [m]."""
KNOT_RADIUS = 0.011
MASS, KNOT_MASS = 0.015, 0.004
_DRAG = 0.002  # of one vertex [N s/m]: a falling cloth reaches .15 N / (49 x .002) = 1.5 m/s

_ARM = 8
"""Bit of MuJoCo's contype by which the cloth meets the arm, its pads left out."""

_COUNT = VERTICES**2
_GRID = (
    np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, VERTICES)] * 2, indexing="ij"), -1).reshape(-1, 2) * EDGE
)
# Diagonals along y and x: the knot's corner points to -y.
_TURN = np.array([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
REST: FloatArray = _GRID @ _TURN.T
"""Vertices (VERTICES^2, 2) [m] of the flat cloth about its centre, knot first, diagonals along x and y."""
KNOT, RIGHT, LEFT, OPPOSITE = 0, VERTICES - 1, _COUNT - VERTICES, _COUNT - 1
"""The corners: the knot's (towards -y), the two beside it (-x and +x) and the one across (+y)."""
MIRROR: npt.NDArray[np.intp] = np.arange(_COUNT).reshape(VERTICES, VERTICES)[::-1, ::-1].T.ravel()
"""The vertex on which each one comes to lie when the knot is folded onto the opposite corner."""


def _elements() -> list[tuple[int, int, int]]:
    """Triangles, cut along x, so that a fold along x runs on edges."""
    triangles = []
    for i, j in itertools.product(range(VERTICES - 1), repeat=2):
        a, b, c, d = (
            i * VERTICES + j,
            (i + 1) * VERTICES + j,
            (i + 1) * VERTICES + j + 1,
            i * VERTICES + j + 1,
        )
        triangles += [(a, b, d), (b, c, d)]
    return triangles


ELEMENTS = np.array(_elements())
"""Vertices (E, 3) of each triangle."""


def bodies_xml(rgba: str = "0.95 0.75 0.1 1") -> str:
    """MJCF, inside the world body: a point mass a vertex, the knot in colour `rgba`."""
    slides = "".join(f'<joint type="slide" axis="{axis}"/>' for axis in ("1 0 0", "0 1 0", "0 0 1"))
    # The knot touches all that the cloth touches, but not the cloth, through which it is tied.
    knot = (
        f'<geom name="knot" type="sphere" size="{KNOT_RADIUS}" rgba="{rgba}" friction="1 0.02 0.001" '
        'contype="0" conaffinity="3"/>'
    )
    bodies = []
    for vertex, (x, y) in enumerate(REST):
        mass = MASS / _COUNT + (KNOT_MASS if vertex == KNOT else 0.0)
        bodies.append(
            f'<body name="cloth_{vertex}" pos="{x:.6f} {y:.6f} 0">'
            f'<inertial pos="0 0 0" mass="{mass:.6f}" diaginertia="1e-7 1e-7 1e-7"/>{slides}'
            f"{knot if vertex == KNOT else ''}</body>"
        )
    return "".join(bodies)


def sections_xml(rgba: str = "0.15 0.35 0.85 1") -> str:
    """MJCF beside the world body: the surface over the vertices, and its inextensible edges."""
    names = " ".join(f"cloth_{vertex}" for vertex in range(_COUNT))
    elements = " ".join(map(str, ELEMENTS.ravel()))
    # Priority over the finger pads: MuJoCo 3.3.0 returns NaN for their condim 4 on a flex.
    # Conjugate gradients: twice as fast here as Newton's method, which factorises 155 x 155 at every step.
    return (
        '<option solver="CG"/>'
        f'<deformable><flex name="cloth" dim="2" radius="{RADIUS}" rgba="{rgba}" body="{names}" '
        f'element="{elements}"><edge/><contact priority="2" condim="3" friction="0.6 0.005 0.0001" '
        f'solref="0.01 1" contype="4" conaffinity="{1 | _ARM}" selfcollide="auto"/></flex></deformable>'
        '<equality><flex flex="cloth" solref="0.01 1" solimp="0.95 0.99 0.001"/></equality>'
    )


class Cloth:
    """The cloth of a compiled scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        first = scene.model.body("cloth_0").id
        self._bodies = slice(first, first + _COUNT)
        joint = int(scene.model.body_jntadr[first])
        start, dof = int(scene.model.jnt_qposadr[joint]), int(scene.model.jnt_dofadr[joint])
        self._qpos, self._dofs = slice(start, start + 3 * _COUNT), slice(dof, dof + 3 * _COUNT)

    def prepare(self) -> None:
        """The vertices' air drag, which newer MuJoCo refuses in the MJCF, and the arm's contacts."""
        model = self.scene.model
        model.dof_damping[self._dofs] = _DRAG
        for geom in range(model.ngeom):
            if model.geom_contype[geom] & 2 and "pad" not in model.geom(geom).name:
                model.geom_contype[geom] |= _ARM

    @property
    def vertices(self) -> FloatArray:
        """Positions (VERTICES^2, 3) [m]."""
        return self.scene.data.xpos[self._bodies].copy()

    @property
    def knot(self) -> FloatArray:
        """Position (3,) [m] of the knot."""
        return self.vertices[KNOT]

    def lay(self, vertices: FloatArray) -> None:
        """Put the vertices (VERTICES^2, 3) [m] there, at rest."""
        offset = vertices - self.scene.model.body_pos[self._bodies]
        self.scene.data.qpos[self._qpos] = offset.ravel()
        self.scene.data.qvel[self._dofs] = 0.0


def flat(centre: npt.ArrayLike, yaw: float = 0.0, height: float = RADIUS) -> FloatArray:
    """Vertices (VERTICES^2, 3) [m] of the cloth spread out about `centre` (2,) [m], turned by `yaw`."""
    rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return np.column_stack([REST @ rotation.T + centre, np.full(_COUNT, height)])


def folded(
    vertices: FloatArray, share: float = 1.0, angle: float = 0.0, height: float = 3 * RADIUS
) -> FloatArray:
    """The flat cloth `vertices` (V, 3) with the knot's side turned over, at `height` [m].

    `share` = 1 creases it along the middle; less, nearer to the knot, which comes to lie `share` of a
    diagonal from where it was. `angle` [rad] turns the crease against the diagonal.
    """
    knot = vertices[KNOT, :2]
    along = (vertices[OPPOSITE, :2] - knot) / np.linalg.norm(vertices[OPPOSITE, :2] - knot)
    across = np.array([-along[1], along[0]])
    normal = np.cos(angle) * along + np.sin(angle) * across
    beyond = (vertices[:, :2] - knot - along * share * DIAGONAL / 2) @ normal
    turned = vertices.copy()
    moves = beyond < -1e-6
    turned[moves, :2] -= 2 * beyond[moves, None] * normal
    turned[moves, 2] = height
    return turned


def spread(vertices: FloatArray) -> tuple[float, float]:
    """Length of the diagonal from the knot, and of the other one, as shares of the flat cloth's."""
    return (
        float(np.linalg.norm(vertices[KNOT] - vertices[OPPOSITE]) / DIAGONAL),
        float(np.linalg.norm(vertices[LEFT] - vertices[RIGHT]) / DIAGONAL),
    )


def hidden(vertices: FloatArray, points: FloatArray) -> float:
    """Share of the `points` (P, 3) [m] that have cloth above them, seen from straight above."""
    a, b, c = (vertices[ELEMENTS[:, k]] for k in range(3))  # (E, 3) each
    weights = []
    for p, q in ((b, c), (c, a), (a, b)):
        edge = (q - p)[None, :, :2]
        offset = points[:, None, :2] - p[None, :, :2]
        weights.append(edge[..., 0] * offset[..., 1] - edge[..., 1] * offset[..., 0])  # (P, E)
    area = sum(weights)
    inside = np.minimum.reduce([w * np.sign(area) for w in weights]) >= 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        heights = sum(w * corner[None, :, 2] for w, corner in zip(weights, (a, b, c), strict=True)) / area
    covered: npt.NDArray[np.bool_] = inside & (heights > points[:, None, 2] - RADIUS)
    return float(covered.any(1).mean())
