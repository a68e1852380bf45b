"""What the cloth tasks share: the scene, and an expert that carries the knot over in an arc."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sim import cloth
from sim.arm import ArmConfig, WidowXArm, Workspace
from sim.arm_model import arm_model
from sim.cloth import Cloth
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, place_arm, settle

ARM_START = np.array([0.27, -0.02, 0.13])
RELEASED = 0.8
"""Opening of the gripper from which it has let go."""

_GRASP = 0.015  # of the tool over the knot [m]
_LOW = 0.004  # height over its grasp from which the tool closes; from higher up the knot slips out [m]
_HELD = 0.5  # opening; the knot holds the fingers open at .24
_ABOVE = 0.045  # clearance of the tool over its grasp while it goes there [m]
_ALIGNED, _NEAR_GOAL = 0.012, 0.012
_SLOT = 0.025  # distance from which the knot may pass in between the open fingers [m]
_FUNNEL = 0.5  # sideways error forgiven on the way down, a metre of height
_DESCENT = 0.08  # distance from the goal at which the arc begins to come down [m]
_SPEED = 0.5


class ClothTask(Task):
    """A cloth with a knot at one corner, by which the arm can hold it."""

    workspace = Workspace(low=(0.16, -0.23, 0.022), high=(0.42, 0.23, 0.22))
    max_steps = 60
    hard_noise = 0.3
    reward_weights: ClassVar[Mapping[str, float]] = {"success": 1.0, "knot_to_goal": 0.5, "tool_to_knot": 0.1}
    peak: ClassVar[float]
    """Height of the knot's arc [m]."""

    def objects_xml(self) -> str:
        return cloth.bodies_xml()

    def make_scene(self, config: ArmConfig | None = None) -> Scene:
        config = config or ArmConfig()
        scene = Scene(
            self.objects_xml(),
            self.workspace,
            sections=cloth.sections_xml(),
            arm=functools.partial(WidowXArm, config=config),
            robot=arm_model(config.robot),
        )
        Cloth(scene).prepare()
        return scene

    @abstractmethod
    def goal(self, scene: Scene) -> FloatArray:
        """Where the knot should go (2,) [m]."""

    @abstractmethod
    def done(self, scene: Scene) -> bool:
        """Whether the cloth lies as it should, the gripper aside."""

    def start(self, scene: Scene, vertices: FloatArray, rng: np.random.Generator) -> None:
        """Lay the cloth on `vertices` (V, 3) [m], the arm over it, and let it come to rest."""
        Cloth(scene).lay(vertices)
        place_arm(scene, ARM_START + rng.uniform(-0.02, 0.02, 3), gripper=1.0)
        settle(scene, seconds=0.6)

    def success(self, scene: Scene) -> bool:
        return bool(scene.arm.state()[6] > RELEASED and self.done(scene))

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        knot = Cloth(scene).knot
        return {
            "success": float(self.success(scene)),
            "knot_to_goal": -math.dist(knot[:2], self.goal(scene)),
            "tool_to_knot": -math.dist(knot, scene.arm.pose.position),
        }

    def expert(self, scene: Scene) -> FloatArray:
        knot, goal, tool = Cloth(scene).knot, self.goal(scene), scene.arm.pose.position
        way = goal - knot[:2]
        distance = math.hypot(*way)
        if distance < _NEAR_GOAL and self.done(scene):
            return np.array([0, 0, 0, 0, 0, 0, 1.0])
        grasp = knot + np.array([0.0, 0.0, _GRASP])
        aside = math.dist(tool[:2], grasp[:2])
        if aside > 0.015 or abs(tool[2] - grasp[2]) > 0.012 or scene.arm.state()[6] > _HELD:
            return _take(scene, grasp)
        if distance < _NEAR_GOAL:
            down = knot[2] < cloth.KNOT_RADIUS + 0.008
            return action_towards(scene, np.array([*(tool[:2] + way), tool[2] - 0.02]), float(down), _SPEED)
        rise = self.peak * min(1.0, distance / _DESCENT) - knot[2]
        return action_towards(scene, tool + np.array([*(way * min(1.0, 0.04 / distance)), rise]), 0.0, _SPEED)


def _take(scene: Scene, grasp: FloatArray) -> FloatArray:
    """The action (7,) towards a hold of the knot: above it, down around it, close."""
    tool = scene.arm.pose.position
    along, across = np.abs(tool[:2] - grasp[:2])  # the gap between the fingers runs along x
    funnel = _FUNNEL * max(tool[2] - grasp[2], 0.0)
    if along < _SLOT + funnel and across < _ALIGNED + funnel:
        closed = tool[2] < grasp[2] + _LOW and max(along, across) < _ALIGNED
        return action_towards(scene, grasp, 0.0 if closed else 1.0, _SPEED)
    above = grasp[2] + _ABOVE
    if tool[2] < above - 0.02:  # rise first: the fingers must not sweep the cloth away
        return action_towards(scene, np.array([*tool[:2], above]), 1.0, _SPEED)
    return action_towards(scene, np.array([*grasp[:2], above]), 1.0, _SPEED)
