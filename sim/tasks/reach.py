"""`widowx/reach`: bring the gripper to the green ball."""

from __future__ import annotations

import math

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene, marker
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, around, place_arm, settle

BALL_REGION = np.array([[0.22, -0.15, 0.04], [0.38, 0.15, 0.18]])
TOOL_REGION = np.array([[0.24, -0.06, 0.10], [0.30, 0.06, 0.14]])
SUCCESS_RADIUS = 0.025
START_DISTANCE = 0.10
"""Least distance between tool and ball at the start [m]."""


class ReachTask(Task):
    """A ball anywhere in front of the arm; success when the point between the finger tips is inside it."""

    name = "widowx/reach"
    instructions = (
        "move the gripper to the green ball",
        "touch the green ball with the fingers",
        "bring the tool to the green sphere",
    )
    near_misses = ("beside", "above")
    hard_noise = 0.7
    max_steps = 25
    workspace = Workspace()
    reward_weights = {"success": 1.0, "tool_to_ball": 1.0}  # noqa: RUF012

    def objects_xml(self) -> str:
        return marker("ball", "sphere", str(SUCCESS_RADIUS), "0.05 0.65 0.15 1")

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        tool = rng.uniform(*TOOL_REGION)
        place_arm(scene, tool, gripper=0.0)
        ball = tool
        while math.dist(ball, tool) < START_DISTANCE:
            ball = rng.uniform(*BALL_REGION)
        scene.move_marker("ball", ball)

    def success(self, scene: Scene) -> bool:
        return self._distance(scene) < SUCCESS_RADIUS

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        return {"success": float(self.success(scene)), "tool_to_ball": -self._distance(scene)}

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """The fingers stop `beside` the ball or `above` it."""
        ball, gap = scene.position("ball"), rng.uniform(SUCCESS_RADIUS + 0.01, 2.2 * SUCCESS_RADIUS)
        if kind == "beside":
            tool = np.array([*around(ball[:2], gap, rng.uniform(-math.pi, math.pi)), ball[2]])
        elif kind == "above":
            tool = ball + np.array([0.0, 0.0, gap])
        else:
            super().near_miss(scene, rng, kind)
        place_arm(scene, tool, gripper=0.0)
        settle(scene)

    def expert(self, scene: Scene) -> FloatArray:
        if self.success(scene):
            return np.zeros(7)
        return action_towards(scene, scene.position("ball"), gripper=0.0, speed=0.35)

    def _distance(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.arm.pose.position - scene.position("ball")))
