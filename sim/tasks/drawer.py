"""`widowx/drawer_open` and `widowx/drawer_close`."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, place_arm, settle
from sim.tasks.shapes import geom

CABINET = np.array([0.31, 0.11])
"""Middle of the cabinet's front on the table [m]; the drawer opens towards -y."""
TRAVEL = 0.09
OPEN, CLOSED = 0.07, 0.006
"""The drawer is open from here on, and closed up to here [m]."""
HALF_WIDTH, DEPTH, HEIGHT = 0.06, 0.10, 0.05
STALK = 0.045
"""From the drawer's front to the middle of its knob [m]."""
KNOB_HALF = 0.008
TOOL_YAW = math.pi / 2
"""The fingers hold the knob from both sides, across the way of the drawer."""

_TOOL_HEIGHT = 0.036
_ABOVE = 0.075
_GRIPPED = 0.45  # the gripper's opening around the knob is .32
_SPEED = 0.6


class DrawerTask(Task):
    """A cabinet with one drawer, whose knob the gripper takes."""

    workspace = Workspace(
        high=(0.40, 0.20, 0.16), rpy_low=(-0.1, -0.1, TOOL_YAW - 0.2), rpy_high=(0.1, 0.1, TOOL_YAW + 0.2)
    )
    max_steps = 40
    hard_noise = 0.22
    reward_weights = {"success": 1.0, "drawer": 2.0, "tool_to_knob": 0.5}  # noqa: RUF012

    def objects_xml(self) -> str:
        wood, drawer, knob = "0.55 0.35 0.2 1", "0.2 0.55 0.75 1", "0.9 0.1 0.1 1"
        wall, inside = 0.005, HALF_WIDTH - 0.008
        cabinet = [
            geom("box", (wall / 2, DEPTH / 2, HEIGHT / 2), (side, DEPTH / 2, HEIGHT / 2), wood)
            for side in (-HALF_WIDTH, HALF_WIDTH)
        ] + [
            geom("box", (HALF_WIDTH, wall / 2, HEIGHT / 2), (0, DEPTH, HEIGHT / 2), wood),
            geom("box", (HALF_WIDTH, DEPTH / 2, wall / 2), (0, DEPTH / 2, HEIGHT), wood),
        ]
        # The drawer runs in rails: its geoms touch the arm alone.
        low, high = 0.006, 0.022  # the drawer's floor and half the height of its walls [m]
        box = [
            geom("box", (inside, wall / 2, high), (0, 0, low + high), drawer, touches="arm"),
            geom(
                "box",
                (inside, wall / 2, high * 0.7),
                (0, DEPTH - 0.01, low + high * 0.7),
                drawer,
                touches="arm",
            ),
            geom(
                "box", (inside, DEPTH / 2 - 0.005, 0.002), (0, DEPTH / 2 - 0.005, low), drawer, touches="arm"
            ),
            *(
                geom(
                    "box",
                    (wall / 2, DEPTH / 2 - 0.005, high * 0.7),
                    (x, DEPTH / 2 - 0.005, low + high * 0.7),
                    drawer,
                    touches="arm",
                )
                for x in (-inside, inside)
            ),
            geom("box", (0.005, STALK / 2, 0.004), (0, -STALK / 2, 0.018), drawer, touches="arm"),
            geom("box", (KNOB_HALF, KNOB_HALF, 0.016), (0, -STALK, 0.030), knob, touches="arm"),
        ]
        joint = (
            f'<joint name="drawer" type="slide" axis="0 -1 0" range="0 {TRAVEL}" damping="4" '
            'frictionloss="0.6" armature="0.05"/>'
        )
        return (
            f'<body name="cabinet">{"".join(cabinet)}<body name="drawer">{joint}{"".join(box)}</body></body>'
        )

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.model.body("cabinet").pos[:2] = CABINET + rng.uniform(-0.015, 0.015, 2) - [0.0, 0.02]
        scene.data.joint("drawer").qpos[0] = self._start(rng)
        scene.forward()
        tool = np.array([0.27, -0.05, 0.12]) + rng.uniform(-0.02, 0.02, 3)
        place_arm(scene, tool, 1.0, TOOL_YAW)

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> float:
        """Opening [m] of the drawer when the episode begins."""

    @abstractmethod
    def _goal(self) -> float:
        """Opening [m] the expert pulls or pushes the drawer to."""

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        return {
            "success": float(self.success(scene)),
            "drawer": -abs(opening(scene) - self._goal()),
            "tool_to_knob": -math.dist(knob(scene), scene.arm.pose.position),
        }

    def expert(self, scene: Scene) -> FloatArray:
        target, tool = knob(scene), scene.arm.pose.position
        if self.success(scene):
            return action_towards(scene, tool, 1.0, 0.0, TOOL_YAW)
        error = math.dist(target[:2], tool[:2])
        around_it = error < 0.014 and tool[2] < _TOOL_HEIGHT + 0.012
        if around_it and scene.arm.state()[6] < _GRIPPED:
            pull = np.array([0.0, opening(scene) - self._goal(), 0.0])
            return action_towards(scene, target + pull, 0.0, _SPEED, TOOL_YAW)
        if error < 0.010 + 0.3 * max(tool[2] - _TOOL_HEIGHT, 0.0):
            closing = 0.0 if tool[2] < _TOOL_HEIGHT + 0.008 else 1.0
            return action_towards(scene, target, closing, _SPEED, TOOL_YAW)
        if tool[2] < _ABOVE - 0.02:  # rise first: the fingers must not push the drawer
            return action_towards(scene, np.array([tool[0], tool[1], _ABOVE]), 1.0, _SPEED, TOOL_YAW)
        return action_towards(scene, np.array([target[0], target[1], _ABOVE]), 1.0, _SPEED, TOOL_YAW)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """The drawer stops `halfway` or `almost` there; or it is `untouched`, the gripper around its knob."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        start, goal = opening(scene), self._goal()
        share = {"halfway": rng.uniform(0.35, 0.6), "almost": rng.uniform(0.68, 0.74), "untouched": 0.0}[kind]
        scene.data.joint("drawer").qpos[0] = start + share * (goal - start)
        scene.forward()
        holding = kind == "untouched" or rng.random() < 0.5
        above = np.zeros(3) if holding else np.array([0.0, 0.0, rng.uniform(0.04, 0.08)])
        place_arm(scene, knob(scene) + above, 0.5 if holding else 1.0, TOOL_YAW)
        settle(scene, gripper=0.0 if holding else None)


class DrawerOpenTask(DrawerTask):
    name = "widowx/drawer_open"
    pair = "widowx/drawer_close"
    instructions = (
        "open the drawer",
        "pull the drawer open by its red knob",
        "slide the blue drawer out",
    )
    near_misses = ("halfway", "almost", "untouched")

    def _start(self, rng: np.random.Generator) -> float:
        return rng.uniform(0.0, CLOSED / 2)

    def _goal(self) -> float:
        return TRAVEL

    def success(self, scene: Scene) -> bool:
        return opening(scene) > OPEN


class DrawerCloseTask(DrawerTask):
    name = "widowx/drawer_close"
    pair = "widowx/drawer_open"
    instructions = (
        "close the drawer",
        "push the drawer shut",
        "slide the blue drawer back in",
    )
    near_misses = ("halfway", "almost", "untouched")

    def _start(self, rng: np.random.Generator) -> float:
        return rng.uniform(OPEN, TRAVEL)

    def _goal(self) -> float:
        return 0.0

    def success(self, scene: Scene) -> bool:
        return opening(scene) < CLOSED


def opening(scene: Scene) -> float:
    """How far the drawer is out [m]."""
    return float(scene.data.joint("drawer").qpos[0])


def knob(scene: Scene) -> FloatArray:
    """The tool's place (3,) [m] around the knob."""
    drawer = scene.position("drawer")
    return np.array([drawer[0], drawer[1] - STALK, _TOOL_HEIGHT])
