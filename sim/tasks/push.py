"""`widowx/push`: push the round red block onto the green plate."""

from __future__ import annotations

import math

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene, free_cylinder, marker
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, around, place_arm, settle

BLOCK_HALF = 0.02
BLOCK_RADIUS = 0.027
PLATE = np.array([0.30, 0.10])
PLATE_RADIUS = 0.04
SUCCESS_RADIUS = 0.028
TOOL_HEIGHT = 0.028
TOOL_YAW = math.pi / 2
OPENING = 0.5
BLOCK_REGION = np.array([[0.24, -0.10], [0.36, 0.03]])
TOOL_START = np.array([0.30, -0.17])

_CIRCLE = 0.068  # going around the block [m]
_BEHIND = 0.05  # where a push starts, from the block's centre [m]
_PUSH_SPEED = 0.4
_APPROACH_SPEED = 0.6


class PushTask(Task):
    """Planar pushing: the gripper stays upright, low and half open; only dx, dy (and a little dz) matter.

    It stands across the way to the plate, so that the block rests between the finger tips while it is
    pushed, instead of on the point of one finger, from which it slips whatever anyone does.

    The plate lies in the middle of the reachable area, so a block pushed astray can be pushed back.
    """

    name = "widowx/push"
    instructions = (
        "push the red block onto the green plate",
        "slide the red block to the green circle",
        "move the red object until it lies on the green plate",
    )
    near_misses = ("short", "past", "aside")
    demo_noise = 0.5
    hard_noise = 0.9
    max_steps = 40
    workspace = Workspace(
        low=(0.18, -0.23, TOOL_HEIGHT - 0.004),
        high=(0.43, 0.23, TOOL_HEIGHT + 0.004),
        rpy_low=(0.0, 0.0, TOOL_YAW),
        rpy_high=(0.0, 0.0, TOOL_YAW),
        gripper_low=OPENING,
        gripper_high=OPENING,
    )
    reward_weights = {"success": 1.0, "block_to_plate": 0.5, "tool_to_block": 0.1}  # noqa: RUF012

    def objects_xml(self) -> str:
        # Round, so that where it is says all: a square one's heading would hide in 64 x 64 pixels.
        return free_cylinder("block", BLOCK_RADIUS, BLOCK_HALF, 0.08, "0.9 0.08 0.08 1") + marker(
            "plate", "cylinder", f"{PLATE_RADIUS} 0.0005", "0.05 0.65 0.15 1"
        )

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.move_marker("plate", (*PLATE, 0.0005))
        block = rng.uniform(BLOCK_REGION[0], BLOCK_REGION[1])
        scene.place("block", (*block, BLOCK_HALF), rng.uniform(-math.pi, math.pi))
        tool = TOOL_START + rng.uniform(-0.015, 0.015, 2)
        place_arm(scene, np.array([*tool, TOOL_HEIGHT]), OPENING, TOOL_YAW)

    def success(self, scene: Scene) -> bool:
        return bool(np.linalg.norm(scene.position("block")[:2] - PLATE) < SUCCESS_RADIUS)

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        block, tool = scene.position("block"), scene.arm.pose.position
        return {
            "success": float(self.success(scene)),
            "block_to_plate": -float(np.linalg.norm(block[:2] - PLATE)),
            "tool_to_block": -float(np.linalg.norm(block[:2] - tool[:2])),
        }

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """`short`: it stopped before the plate's middle; `past`: shoved through; `aside`: it slipped off."""
        turn = {"short": 0.0, "past": math.pi, "aside": math.pi / 2}
        if kind not in turn:
            super().near_miss(scene, rng, kind)
        start = PLATE - scene.position("block")[:2]
        towards_start = math.atan2(-start[1], -start[0]) + turn[kind] * rng.choice([-1, 1])
        block = around(PLATE, rng.uniform(SUCCESS_RADIUS + 0.006, 0.06), towards_start)
        scene.place("block", (*block, BLOCK_HALF), rng.uniform(-math.pi, math.pi))
        tool = around(block, rng.uniform(0.06, 0.09), math.atan2(-start[1], -start[0]))
        place_arm(scene, np.array([*tool, TOOL_HEIGHT]), OPENING, TOOL_YAW)
        settle(scene)

    def expert(self, scene: Scene) -> FloatArray:
        block, tool = scene.position("block")[:2], scene.arm.pose.position[:2]
        target, speed = (tool, 0.0) if self.success(scene) else _push_target(block, tool)
        action = action_towards(scene, np.array([*target, TOOL_HEIGHT]), OPENING, speed)
        action[3:6] = 0.0  # the workspace holds the tool's direction
        return action


def _push_target(block: FloatArray, tool: FloatArray) -> tuple[FloatArray, float]:
    """Where the tool goes next in the plane (2,) [m], and how fast; reactive, without memory."""
    to_plate = PLATE - block
    distance = math.hypot(*to_plate)
    along = to_plate / distance
    across = np.array([-along[1], along[0]])
    offset = tool - block
    behind, aside = -float(offset @ along), float(offset @ across)
    if behind > 0.025 and abs(aside) < 0.4 * behind:
        # Close the sideways error while advancing; the block follows the contact.
        return tool + along * min(distance, 0.05) - across * 1.2 * aside, _PUSH_SPEED
    if (behind > 0.035 and math.hypot(*offset) < _CIRCLE + 0.02) or abs(aside) < 0.3 * behind:
        return block - along * _BEHIND, _APPROACH_SPEED
    # Around the block, on a circle, the shorter way to the side facing away from the plate.
    angle = math.atan2(-aside, behind)  # 0 = right behind
    step = math.copysign(min(abs(angle), 0.8), angle)
    next_angle = angle - step
    ring = block + _CIRCLE * (-along * math.cos(next_angle) - across * math.sin(next_angle))
    return ring, _APPROACH_SPEED
