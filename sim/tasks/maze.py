"""`widowx/maze` and `widowx/maze_back`: move a peg through a walled channel that is nowhere quite as drawn.

Three corridors lie side by side, joined by a gap in each of the two walls between them:

    x ^   corridor 2   [ goal, left or right ] ......... dead end on the other side
      |   wall 1       ---------- gap -------------
      |   corridor 1   ............................
      |   wall 0       --- gap --------------------
      |   corridor 0   .................. start ....      y (left) <---

Origin, gaps and walls are drawn anew by about a centimetre in each episode, and a gap leaves the peg 7 mm on
either side: whoever only follows the drawing gets stuck, and has to feel the way along the walls.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from robot_rl.errors import ConfigError, unknown
from sim.arm import ArmConfig, Workspace
from sim.kinematics import Pose
from sim.peg import PEG_RADIUS, PEG_XML, REACH, PegArm, springs_xml
from sim.scene import Scene, marker
from sim.spec import FloatArray
from sim.tasks.base import Task

ORIGIN = np.array([0.24, 0.0])
"""Middle of corridor 0 as drawn, x, y [m]."""
PITCH, HALF_WIDTH = 0.042, 0.085
"""Distance of corridors, and half the length of a corridor [m]."""
WALL_HALF, WALL_HEIGHT = 0.004, 0.035
GAP_HALF = 0.012
START_Y, GAP_Y, GOAL_Y = 0.045, (-0.05, 0.0), 0.07
"""As drawn, from the origin [m]."""
SPREAD_ORIGIN, SPREAD_START, SPREAD_GAP, SPREAD_WALL = 0.006, 0.02, 0.018, 0.004
"""Largest deviations from the drawing [m], uniform."""
TOOL_HEIGHT = 0.065
GOAL_RADIUS = 0.012
FORCE_LIMIT = 20.0
"""Contact force [N] from which a step counts as unsafe."""
ENERGY_REFERENCE = 0.1
"""Unit of excess energy in the cost [J]."""
_PRESS, _SLIDE = 0.012, 0.022
_CLEAR = WALL_HALF + PEG_RADIUS + 0.001
"""How far past the middle of a wall the peg can move sideways again [m]."""
_LONG = 2 * HALF_WIDTH


class Layout(NamedTuple):
    """Where everything really is, x, y (2,) [m], read off the scene."""

    start: FloatArray
    gaps: tuple[FloatArray, FloatArray]
    goal: FloatArray

    def corridor(self, tip: FloatArray) -> int:
        """0, 1 or 2: the corridor that the peg is in."""
        return int(tip[0] > self.gaps[0][0]) + int(tip[0] > self.gaps[1][0])

    def way(self, tip: FloatArray, back: bool) -> float:
        """Length of the way through the gaps that is left [m]."""
        corridor = self.corridor(tip)
        points = [*self.gaps[corridor:], self.goal]
        if back:
            points = [*reversed(self.gaps[:corridor]), self.start]
        legs = [tip[:2], *points]
        return sum(math.dist(a, b) for a, b in itertools.pairwise(legs))


def _walls_xml() -> str:
    """A frame, and two walls of two halves each; bodies without motion, put in place at each reset."""

    def box(x: float, y: float, half_x: float, half_y: float) -> str:
        return (
            f'<geom type="box" pos="{x} {y} {WALL_HEIGHT / 2}" size="{half_x} {half_y} {WALL_HEIGHT / 2}" '
            'rgba="0.35 0.42 0.55 1" contype="1" conaffinity="3"/>'
        )

    deep, wide = 1.5 * PITCH, HALF_WIDTH + WALL_HALF
    frame = (
        box(PITCH - deep, 0, WALL_HALF, wide)
        + box(PITCH + deep, 0, WALL_HALF, wide)
        + box(PITCH, -wide, deep, WALL_HALF)
        + box(PITCH, wide, deep, WALL_HALF)
    )
    # A half wall reaches out of the frame, where nothing is, so that its gap can be anywhere.
    half = HALF_WIDTH / 2 + 0.025
    bodies = {"frame": frame}
    for wall in (0, 1):
        bodies[f"wall_{wall}_right"] = box(0, -GAP_HALF - half, WALL_HALF, half)
        bodies[f"wall_{wall}_left"] = box(0, GAP_HALF + half, WALL_HALF, half)
    return "".join(f'<body name="{name}" mocap="true">{geoms}</body>' for name, geoms in bodies.items())


class MazeTask(Task):
    """Corridor 0 to the goal in corridor 2. The pegs' ends are judged by the simulator's truth."""

    name = "widowx/maze"
    pair = "widowx/maze_back"
    instructions = (
        "move the peg through the maze to the green goal",
        "feel the way along the walls until the peg is at the green disc",
        "bring the peg to the green end of the channel",
    )
    near_misses = ("last_corner", "dead_end", "behind_the_wall")
    demo_noise = hard_noise = 0.8
    max_steps = 60
    port = "springs"
    workspace = Workspace(
        low=(0.19, -0.12, TOOL_HEIGHT),
        high=(0.38, 0.12, TOOL_HEIGHT),
        rpy_low=(0.0, 0.0, 0.0),
        rpy_high=(0.0, 0.0, 0.0),
        gripper_low=0.0,
        gripper_high=0.0,
    )
    reward_weights: ClassVar[Mapping[str, float]] = {
        "success": 1.0,
        "way": 1.0,
        "energy": 0.0,
        "peak_force": 0.0,
    }
    back: ClassVar[bool] = False

    def objects_xml(self) -> str:
        return (
            _walls_xml()
            + marker("goal", "cylinder", f"{GOAL_RADIUS} 0.0005", "0.05 0.65 0.15 1")
            + marker("start", "cylinder", f"{GOAL_RADIUS} 0.0005", "0.55 0.55 0.6 1")
        )

    def make_scene(self, config: ArmConfig | None = None) -> Scene:
        if config not in (None, ArmConfig()):
            raise ConfigError(
                f"{self.name} takes {config}; expected {ArmConfig()}: its arm is the peg's springs"
            )
        arm = functools.partial(PegArm, reference=ORIGIN + np.array([0.0, START_Y]))
        return Scene(self.objects_xml(), self.workspace, PEG_XML, springs_xml(), arm)

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        origin = ORIGIN + rng.uniform(-SPREAD_ORIGIN, SPREAD_ORIGIN, 2)
        scene.move_marker("frame", (*origin, 0))
        for wall, y in enumerate(GAP_Y):
            gap = origin + np.array([(wall + 0.5) * PITCH, y])
            gap += rng.uniform(-1, 1, 2) * (SPREAD_WALL, SPREAD_GAP)
            for side in ("left", "right"):
                scene.move_marker(f"wall_{wall}_{side}", (*gap, 0))
        side = rng.choice((-1.0, 1.0))
        scene.move_marker("goal", (origin[0] + 2 * PITCH, origin[1] + side * GOAL_Y, 0.0005))
        start = origin + np.array([0.0, START_Y + rng.uniform(-SPREAD_START, SPREAD_START)])
        scene.move_marker("start", (*start, 0.0005))
        scene.forward()
        peg_arm(scene).hint = side
        self._put(scene, layout(scene).goal if self.back else start)

    def _put(self, scene: Scene, point: FloatArray) -> None:
        scene.arm.place(Pose(np.array([*point, TOOL_HEIGHT]), np.eye(3)), 0.0)
        scene.forward()

    def success(self, scene: Scene) -> bool:
        here = layout(scene)
        end = here.start if self.back else here.goal
        return math.dist(peg_arm(scene).tip[:2], end) < GOAL_RADIUS

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        arm = peg_arm(scene)
        return {
            "success": float(self.success(scene)),
            "way": -layout(scene).way(arm.tip, self.back),
            "energy": -max(0.0, arm.step_energy),
            "peak_force": -max(0.0, arm.peak_force / FORCE_LIMIT - 1),
        }

    def measurements(self, scene: Scene) -> dict[str, float]:
        """Energies [J] of the step and of the episode so far, the peak contact force [N], and the cost.

        cost = (energy asked for beyond what a filter let through) / `ENERGY_REFERENCE`
               + 1 if the contact force exceeded `FORCE_LIMIT`
        """
        arm = peg_arm(scene)
        breach = float(arm.peak_force > FORCE_LIMIT)
        return {
            "cost": arm.excess_energy / ENERGY_REFERENCE + breach,
            "energy": arm.step_energy,
            "excess_energy": arm.excess_energy,
            "net_energy": arm.ledger.net,
            "peak_net_energy": arm.ledger.peak,
            "peak_force": arm.peak_force,
        }

    def expert(self, scene: Scene) -> FloatArray:
        """Slides towards the gap, lightly pressed against its wall, until the wall gives way."""
        here, tip = layout(scene), peg_arm(scene).tip[:2]
        if self.success(scene):
            return np.zeros(4)
        forward = -1.0 if self.back else 1.0
        end, ahead = (here.start, here.gaps[::-1]) if self.back else (here.goal, here.gaps)
        left = [gap for gap in ahead if forward * (gap[0] + forward * _CLEAR - tip[0]) > 0]
        if left:
            aside = left[0][1] - tip[1]
            push = np.array([forward * _PRESS, np.clip(aside, -_SLIDE, _SLIDE)])
        else:
            push = end - tip
            push *= min(1.0, _SLIDE / float(np.linalg.norm(push)))
        return np.array([*(push / REACH), 0.0, 0.0])

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """The peg rests `last_corner`: at the mouth of the last gap; `dead_end`: at the wrong end of the last
        corridor; `behind_the_wall`: beside the goal, with the wall between them."""
        here = layout(scene)
        end, gap = (here.start, here.gaps[0]) if self.back else (here.goal, here.gaps[1])
        inwards = 1.0 if self.back else -1.0
        jitter = rng.uniform(-0.004, 0.004)
        row = end[0]
        places = {
            "last_corner": np.array([row, gap[1] + jitter]),
            "dead_end": np.array([row, 2 * ORIGIN[1] - end[1] + jitter]),
            "behind_the_wall": np.array([row + inwards * PITCH, end[1] + jitter]),
        }
        if kind not in places:
            raise unknown(f"near miss of {self.name}", kind, self.near_misses)
        self._put(scene, places[kind])


class MazeBackTask(MazeTask):
    """From the goal back to the start, in the same maze."""

    name = "widowx/maze_back"
    pair = "widowx/maze"
    instructions = (
        "move the peg back through the maze to the grey start",
        "feel the way along the walls until the peg is at the grey disc",
        "bring the peg back to the grey end of the channel",
    )
    back = True


def layout(scene: Scene) -> Layout:
    """The maze as it stands in `scene`."""
    gaps = tuple(scene.position(f"wall_{wall}_left")[:2] for wall in (0, 1))
    return Layout(scene.position("start")[:2], (gaps[0], gaps[1]), scene.position("goal")[:2])


def peg_arm(scene: Scene) -> PegArm:
    """The arm of a maze's scene."""
    assert isinstance(scene.arm, PegArm)
    return scene.arm
