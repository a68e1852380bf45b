"""`widowx/lift`: lift the red block."""

from __future__ import annotations

import math

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene, free_box
from sim.spec import FloatArray
from sim.tasks.base import Task, place_arm, settle
from sim.tasks.carry import Grip, carry, is_held

HALF = 0.015
REGION = np.array([[0.22, -0.13], [0.37, 0.13]])
HEIGHT = 0.06
"""From here on it is lifted [m]."""
GRIP = Grip(height=0.008, width=2 * HALF, period=math.pi / 2)

_CARRY = 0.08  # where the expert holds it [m]


class LiftTask(Task):
    """Success: the block is held at least `HEIGHT` above the table."""

    name = "widowx/lift"
    instructions = (
        "lift the red block",
        "pick up the red cube",
        "raise the red block off the table",
    )
    near_misses = ("low", "gripped", "missed")
    hard_noise = 0.28
    max_steps = 30
    workspace = Workspace()
    reward_weights = {"success": 1.0, "height": 2.0, "tool_to_block": 0.5}  # noqa: RUF012

    def objects_xml(self) -> str:
        return free_box("block", HALF, 0.03, "0.9 0.08 0.08 1")

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.place("block", (*rng.uniform(*REGION), HALF), rng.uniform(-math.pi, math.pi))
        place_arm(scene, np.array([0.28, 0.0, 0.12]) + rng.uniform(-0.02, 0.02, 3), gripper=1.0)

    def success(self, scene: Scene) -> bool:
        return bool(scene.position("block")[2] - HALF > HEIGHT and is_held(scene, "block", GRIP))

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        block = scene.position("block")
        return {
            "success": float(self.success(scene)),
            "height": float(min(block[2] - HALF, HEIGHT)),
            "tool_to_block": -math.dist(block, scene.arm.pose.position),
        }

    def expert(self, scene: Scene) -> FloatArray:
        goal = np.array([*scene.position("block")[:2], HALF + _CARRY])
        return carry(scene, "block", GRIP, goal, HALF + _CARRY, tolerance=0.01, release=False)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Lifted too `low`, `gripped` on the table, or `missed`: the closed gripper is up without it."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        block, yaw = scene.position("block"), GRIP.turn(scene.yaw("block"))
        lift = rng.uniform(0.015, 0.035) if kind == "low" else 0.0
        if kind == "missed":
            place_arm(scene, block + np.array([0.0, 0.0, rng.uniform(0.05, 0.1)]), 0.0, yaw)
            settle(scene)
            return
        scene.place("block", block + np.array([0.0, 0.0, lift]), yaw)
        place_arm(scene, GRIP.tool(block, yaw) + np.array([0.0, 0.0, lift]), GRIP.opening + 0.03, yaw)
        settle(scene, gripper=0.0)
