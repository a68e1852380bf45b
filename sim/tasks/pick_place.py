"""`widowx/pick_place`: pick the red block up and put it on the green plate."""

from __future__ import annotations

import math

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene, free_box, marker
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, around, place_arm, settle

BLOCK_HALF = 0.015
PLATE = np.array([0.30, 0.12])
PLATE_RADIUS = 0.04
SUCCESS_RADIUS = 0.035
BLOCK_REGION = np.array([[0.24, -0.14], [0.36, 0.03]])
BLOCK_YAW = 0.4
"""Largest turn at which the block still fits between the open fingers [rad]."""

_GRASP_HEIGHT = 0.024  # the finger tips are then 5 mm above the table [m]
_TRAVEL_HEIGHT = 0.075
_ALIGNED = 0.010  # sideways error that the open fingers forgive [m]
_GRIPPING = 0.72  # the gripper's opening around the block is .64
_SPEED = 0.7


class PickPlaceTask(Task):
    """Success: the block rests on the plate and the gripper has let go of it."""

    name = "widowx/pick_place"
    instructions = (
        "put the red block on the green plate",
        "pick up the red cube and place it on the green circle",
        "move the red block to the green plate and let go of it",
    )
    near_misses = ("beside", "held", "grasped")
    hard_noise = 0.3
    max_steps = 50
    workspace = Workspace(rpy_low=(-0.2, -0.2, -0.4), rpy_high=(0.2, 0.2, 0.4))
    reward_weights = {"success": 1.0, "block_to_plate": 0.5, "tool_to_block": 0.1}  # noqa: RUF012

    def objects_xml(self) -> str:
        return free_box("block", BLOCK_HALF, 0.03, "0.9 0.08 0.08 1") + marker(
            "plate", "cylinder", f"{PLATE_RADIUS} 0.0005", "0.05 0.65 0.15 1"
        )

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.move_marker("plate", (*PLATE, 0.0005))
        block = rng.uniform(*BLOCK_REGION)
        scene.place("block", (*block, BLOCK_HALF), rng.uniform(-BLOCK_YAW, BLOCK_YAW))
        place_arm(scene, np.array([0.28, 0.0, 0.11]) + rng.uniform(-0.02, 0.02, 3), gripper=1.0)

    def success(self, scene: Scene) -> bool:
        block = scene.position("block")
        on_plate = math.dist(block[:2], PLATE) < SUCCESS_RADIUS and block[2] < BLOCK_HALF + 0.004
        return bool(on_plate and scene.arm.state()[6] > 0.8)

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        block, tool = scene.position("block"), scene.arm.pose.position
        return {
            "success": float(self.success(scene)),
            "block_to_plate": -math.dist(block, (*PLATE, BLOCK_HALF)),
            "tool_to_block": -math.dist(block, tool),
        }

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """The block lies `beside` the plate, is `held` above it, or stands on it still `grasped`."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        if kind == "beside":
            gap = rng.uniform(SUCCESS_RADIUS + 0.008, 0.075)
            block = around(PLATE, gap, rng.uniform(-math.pi, math.pi))
            scene.place("block", (*block, BLOCK_HALF), rng.uniform(-BLOCK_YAW, BLOCK_YAW))
            place_arm(scene, np.array([*block, _TRAVEL_HEIGHT]), gripper=1.0)
            settle(scene)
            return
        block = PLATE + rng.uniform(-0.015, 0.015, 2)
        lift = rng.uniform(0.03, 0.05) if kind == "held" else 0.0
        scene.place("block", (*block, BLOCK_HALF + lift))
        place_arm(scene, np.array([*block, _GRASP_HEIGHT + lift]), gripper=0.66)
        settle(scene, gripper=0.0)

    def expert(self, scene: Scene) -> FloatArray:
        block, tool = scene.position("block"), scene.arm.pose.position
        if self.success(scene):
            return np.array([0, 0, 0, 0, 0, 0, 1.0])
        around = math.dist(block[:2], tool[:2]) < 1.5 * _ALIGNED and abs(block[2] - tool[2]) < 0.02
        if around and scene.arm.state()[6] < _GRIPPING:
            target, gripper = _carry_target(block, tool)
        else:
            target, gripper = _grasp_target(block, tool)
        return action_towards(scene, target, gripper, _SPEED)


def _grasp_target(block: FloatArray, tool: FloatArray) -> tuple[FloatArray, float]:
    """Above the block, then down around it, then close."""
    error = math.dist(block[:2], tool[:2])
    if error < _ALIGNED:
        closed = tool[2] < _GRASP_HEIGHT + 0.008
        return np.array([*block[:2], _GRASP_HEIGHT]), 0.0 if closed else 1.0
    above = _TRAVEL_HEIGHT - 0.015
    if tool[2] < above - 0.02:  # rise first: the fingers must not sweep the block away
        return np.array([*tool[:2], above]), 1.0
    return np.array([*block[:2], above]), 1.0


def _carry_target(block: FloatArray, tool: FloatArray) -> tuple[FloatArray, float]:
    """Up, over to the plate, down, open."""
    error = math.dist(block[:2], PLATE)
    if error < SUCCESS_RADIUS - 0.012:
        down = block[2] < BLOCK_HALF + 0.006
        return np.array([*tool[:2], _GRASP_HEIGHT]), 1.0 if down else 0.0
    if block[2] < BLOCK_HALF + 0.02:
        return np.array([*tool[:2], _TRAVEL_HEIGHT]), 0.0
    return np.array([*(tool[:2] + PLATE - block[:2]), _TRAVEL_HEIGHT]), 0.0
