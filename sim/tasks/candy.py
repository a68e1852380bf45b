"""`widowx/candy_sweep` and `widowx/candy_spread`: sweep candies into the green field, and back."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, place_arm, settle

NUMBER = 10
RADIUS = 0.009
FIELD_X = (0.21, 0.39)
RAIL = (0.003, 0.2, 0.006)
"""Half size [m] of the rails along both sides, which keep the candies where the brush can fetch them back."""
TARGET_Y, START_Y = (0.03, 0.17), (-0.17, -0.03)
"""The green field, and the one where the candies lie at first [m]."""
ENOUGH = 0.8
"""Share of the candies that counts as swept; the paper reports the share itself."""
BRUSH_HALF_WIDTH = 0.045
BRUSH_BELOW_TOOL = 0.045
"""From the tool's point down to the brush's edge [m]."""
_EDGE = 0.0935 + BRUSH_BELOW_TOOL  # along the gripper's axis, which points down
BRUSH = (
    '<geom type="box" pos="0.105 0 0" size="0.03 0.005 0.006" rgba="0.2 0.2 0.2 1"/>'
    f'<geom type="box" pos="{_EDGE - 0.010} 0 0" size="0.010 0.004 {BRUSH_HALF_WIDTH}" '
    'rgba="0.95 0.95 0.95 1" friction="0.3 0.005 0.0001"/>'
)
TOOL_YAW = 0.0

_LOW = BRUSH_BELOW_TOOL + 0.003  # the tool's height while sweeping [m]
_HIGH = _LOW + 0.032  # the brush then passes above the candies
_ASIDE = BRUSH_HALF_WIDTH + 0.005  # from a rail to the middle of the brush [m]
_SPEED = 0.6
_COLOURS = ("0.9 0.1 0.1 1", "0.95 0.8 0.1 1", "0.15 0.4 0.85 1", "0.6 0.2 0.7 1", "0.95 0.5 0.1 1")


class CandyTask(Task):
    """The gripper holds a brush, long in x; ten candies. Success: `ENOUGH` of them lie in the field.

    `reward_terms["swept"]` is the share of RoboFuME's table (arXiv 2310.15145).
    """

    workspace = Workspace(
        low=(0.20, -0.21, _LOW - 0.002),
        high=(0.40, 0.21, _HIGH + 0.01),
        rpy_low=(0.0, 0.0, TOOL_YAW),
        rpy_high=(0.0, 0.0, TOOL_YAW),
        gripper_low=0.25,
        gripper_high=0.25,
    )
    max_steps = 90
    hard_noise = 0.3
    near_misses = ("half", "at the edge", "untouched")
    held = BRUSH
    reward_weights = {"success": 1.0, "swept": 1.0, "distance": 0.5}  # noqa: RUF012

    def objects_xml(self) -> str:
        x, half_x = sum(FIELD_X) / 2, (FIELD_X[1] - FIELD_X[0]) / 2
        half_y = (TARGET_Y[1] - TARGET_Y[0]) / 2
        fields = [
            f'<geom type="box" pos="{x} {sum(field) / 2} 0" size="{half_x} {half_y} 0.0005" rgba="{colour}" '
            'contype="0" conaffinity="0"/>'
            for field, colour in ((TARGET_Y, "0.35 0.75 0.4 1"), (START_Y, "0.6 0.65 0.75 1"))
        ]
        rails = [
            f'<geom type="box" pos="{side} 0 {RAIL[2]}" size="{" ".join(map(str, RAIL))}" '
            'rgba="0.55 0.4 0.25 1" friction="0.3 0.005 0.0001" contype="1" conaffinity="3"/>'
            for side in (FIELD_X[0] - RAIL[0], FIELD_X[1] + RAIL[0])
        ]
        candies = [
            # Wrapped candies roll badly and come to rest soon.
            f'<body name="candy{index}"><joint type="free" damping="0.0002"/>'
            f'<geom type="sphere" size="{RADIUS}" mass="0.003" rgba="{_COLOURS[index % len(_COLOURS)]}" '
            'condim="6" friction="0.5 0.003 0.002" contype="1" conaffinity="3"/></body>'
            for index in range(NUMBER)
        ]
        return "".join(fields + rails + candies)

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        _scatter(scene, rng, self._from(), range(NUMBER))
        tool = np.array([0.30, 0.0, _HIGH]) + np.array([*rng.uniform(-0.02, 0.02, 2), 0.0])
        place_arm(scene, tool, 0.25, TOOL_YAW)

    @abstractmethod
    def _from(self) -> tuple[float, float]:
        """Bounds in y of the field the candies come from [m]."""

    @abstractmethod
    def _to(self) -> tuple[float, float]:
        """Bounds in y of the field they go to [m]."""

    def swept(self, scene: Scene) -> float:
        """Share of the candies that lie in the field they go to."""
        return float(_inside(_candies(scene), self._to()).mean())

    def success(self, scene: Scene) -> bool:
        return self.swept(scene) >= ENOUGH

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        away = np.abs(_candies(scene)[:, 1] - sum(self._to()) / 2)
        return {
            "success": float(self.success(scene)),
            "swept": self.swept(scene),
            "distance": -float(away.mean()),
        }

    def expert(self, scene: Scene) -> FloatArray:
        """Strokes: behind the candy that is farthest back, down, along the way, up in the field."""
        sign = 1.0 if self._to()[0] > 0 else -1.0  # the way is towards sign * y
        tool, candies = scene.arm.pose.position, _candies(scene)
        if self.success(scene):
            return _brush(scene, np.array([tool[0], tool[1], _HIGH]))
        along, edge = sign * candies[:, 1], sign * tool[1]
        left = along < min(abs(bound) for bound in self._to()) + 2 * RADIUS
        abreast = np.abs(candies[:, 0] - tool[0]) < BRUSH_HALF_WIDTH - 0.002
        ahead = left & abreast & (along > edge)
        down = tool[2] < (_LOW + _HIGH) / 2
        if down and ahead.any():
            target = np.array([tool[0], tool[1] + sign * 0.05, _LOW])
        elif down:
            target = np.array([tool[0], tool[1], _HIGH + 0.005])
        else:
            last = int(np.argmin(np.where(left, along, np.inf)))
            behind = max(along[last] - RADIUS - 0.015, -0.205)
            x = float(np.clip(candies[last, 0], FIELD_X[0] + _ASIDE, FIELD_X[1] - _ASIDE))
            above = np.array([x, sign * behind, _HIGH])
            if abs(above[0] - tool[0]) < 0.025 and abs(above[1] - tool[1]) < 0.012:
                above[2] = _LOW
            elif tool[2] < _HIGH - 0.008:
                above[:2] = tool[:2]
            target = above
        return _brush(scene, target)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`half` of them are swept, all stop `at the edge` of the field, or all lie `untouched`."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        sign = 1.0 if self._to()[0] > 0 else -1.0
        if kind == "half":
            _scatter(scene, rng, self._to(), range(int(rng.integers(4, 8))))
        elif kind == "at the edge":
            _scatter(scene, rng, (-0.07, 0.026) if sign > 0 else (-0.026, 0.07), range(NUMBER))
        low = kind == "untouched"
        y = sum(self._to()) / 2 if low else -sign * 0.05
        place_arm(scene, np.array([0.30, y, _LOW if low else _HIGH]), 0.25, TOOL_YAW)
        settle(scene, seconds=1.0)


class CandySweepTask(CandyTask):
    name = "widowx/candy_sweep"
    pair = "widowx/candy_spread"
    instructions = (
        "sweep the candies into the green field",
        "brush all candies onto the green area",
        "push the sweets to the green side with the brush",
    )

    def _from(self) -> tuple[float, float]:
        return START_Y

    def _to(self) -> tuple[float, float]:
        return TARGET_Y


class CandySpreadTask(CandyTask):
    name = "widowx/candy_spread"
    pair = "widowx/candy_sweep"
    instructions = (
        "sweep the candies back to the grey field",
        "spread the candies over the grey area again",
        "brush the sweets from the green side to the grey side",
    )

    def _from(self) -> tuple[float, float]:
        return TARGET_Y

    def _to(self) -> tuple[float, float]:
        return START_Y


def _brush(scene: Scene, target: FloatArray) -> FloatArray:
    action = action_towards(scene, target, 0.25, _SPEED)
    action[3:6] = 0.0  # the workspace holds the tool's direction
    return action


def _candies(scene: Scene) -> FloatArray:
    """Middles (NUMBER, 3) [m]."""
    return np.array([scene.position(f"candy{index}") for index in range(NUMBER)])


def _inside(candies: FloatArray, field: tuple[float, float]) -> np.ndarray:
    """Which of the candies (N, 3) have their middle in the field, (N,) bool."""
    x, y = candies[:, 0], candies[:, 1]
    return (x > FIELD_X[0] - RADIUS) & (x < FIELD_X[1] + RADIUS) & (y > field[0]) & (y < field[1])


def _scatter(scene: Scene, rng: np.random.Generator, field: tuple[float, float], which: range) -> None:
    """Lay the candies `which` into the field, none upon another."""
    margin = RADIUS + 0.002
    low = np.array([FIELD_X[0] + margin, field[0] + margin])
    high = np.array([FIELD_X[1] - margin, field[1] - margin])
    low, high = np.minimum(low, high), np.maximum(low, high)
    laid: list[FloatArray] = []
    while len(laid) < len(which):
        place = rng.uniform(low, high)
        if all(math.dist(place, other) > 2.2 * RADIUS for other in laid):
            laid.append(place)
    for index, place in zip(which, laid, strict=True):
        scene.place(f"candy{index}", (*place, RADIUS))
