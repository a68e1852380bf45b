"""`widowx/button_press`: press the red button."""

from __future__ import annotations

import math

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, around, place_arm, settle
from sim.tasks.shapes import geom

REGION = np.array([[0.23, -0.12], [0.36, 0.12]])
BOX_HALF, BOX_HEIGHT = 0.04, 0.03
RADIUS = 0.016
TRAVEL = 0.012
"""How far the button goes down [m]."""
PRESSED = 0.75
"""Share of the travel at which it counts as pressed."""

_FINGERS = 0.0185  # from the tool's point to the finger tips [m]


class ButtonPressTask(Task):
    """A sprung button on a box. Success: it is down now; it comes up by itself when the fingers leave."""

    name = "widowx/button_press"
    instructions = (
        "press the red button",
        "push the red button down",
        "hit the button on the yellow box",
    )
    near_misses = ("hovering", "touching", "beside")
    hard_noise = 0.5
    max_steps = 25
    workspace = Workspace()
    reward_weights = {"success": 1.0, "pressed": 0.5, "tool_to_button": 0.5}  # noqa: RUF012

    def objects_xml(self) -> str:
        box = geom("box", (BOX_HALF, BOX_HALF, BOX_HEIGHT / 2), (0, 0, BOX_HEIGHT / 2), "0.95 0.75 0.1 1")
        # It runs in the box without touching it.
        cap = geom(
            "cylinder",
            (RADIUS, TRAVEL / 2 + 0.002),
            (0, 0, TRAVEL / 2),
            "0.9 0.08 0.08 1",
            density=1000,
            touches="arm",
        )
        joint = (
            f'<joint name="button" type="slide" axis="0 0 -1" range="0 {TRAVEL}" stiffness="150" '
            'springref="-0.005" damping="3" armature="0.02"/>'
        )
        return f'<body name="box">{box}<body name="button" pos="0 0 {BOX_HEIGHT}">{joint}{cap}</body></body>'

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.model.body("box").pos[:2] = rng.uniform(*REGION)
        place_arm(scene, np.array([0.28, 0.0, 0.13]) + rng.uniform(-0.03, 0.03, 3), gripper=0.0)

    def success(self, scene: Scene) -> bool:
        return self._pressed(scene) > PRESSED

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        return {
            "success": float(self.success(scene)),
            "pressed": self._pressed(scene),
            "tool_to_button": -math.dist(self._above(scene), scene.arm.pose.position),
        }

    def expert(self, scene: Scene) -> FloatArray:
        target, tool = self._above(scene), scene.arm.pose.position
        if math.dist(target[:2], tool[:2]) > 0.6 * RADIUS:
            target[2] += 0.02
        else:
            target[2] -= TRAVEL + 0.01
        return action_towards(scene, target, 0.0, 0.6)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """The fingers are `hovering` over it, `touching` it, or press the box `beside` it."""
        if kind not in self.near_misses:
            super().near_miss(scene, rng, kind)
        target = self._above(scene)
        if kind == "beside":
            target[:2] = around(target[:2], rng.uniform(0.03, 0.036), rng.uniform(-math.pi, math.pi))
            target[2] -= TRAVEL - 0.001
        else:
            target[2] += rng.uniform(0.008, 0.02) if kind == "hovering" else -rng.uniform(0.001, 0.005)
        place_arm(scene, target, gripper=0.0)
        settle(scene)

    @staticmethod
    def _pressed(scene: Scene) -> float:
        """Share of the button's travel, 0 = up, 1 = down."""
        return float(scene.data.joint("button").qpos[0]) / TRAVEL

    @staticmethod
    def _above(scene: Scene) -> FloatArray:
        """The tool's place (3,) [m] when the finger tips touch the button that is up."""
        top = BOX_HEIGHT + TRAVEL + 0.002
        return np.array([*scene.position("box")[:2], top + _FINGERS])
