"""`widowx/pot_lid_on` and `widowx/pot_lid_off`: the lid onto the pot, and back onto the table."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import around, place_arm, settle
from sim.tasks.carry import CarryTask, Grip
from sim.tasks.shapes import fixed, free, geom, ring

POT = np.array([0.30, 0.09])
POT_RADIUS, POT_HEIGHT, POT_WALL = 0.055, 0.05, 0.006
LID_RADIUS, LIP_RADIUS, LIP_HEIGHT = 0.057, 0.042, 0.008
"""The lip under the lid drops into the pot with 7 mm of play; a lid that is off centre stands on it."""
KNOB_WIDTH = 0.020
LID_REGION = np.array([[0.25, -0.13], [0.35, -0.06]])
LID_PLACE = np.array([0.30, -0.09, 0.0])
SEATED = POT_HEIGHT - LIP_HEIGHT
"""Height of the lid's origin, the middle of the lip's underside, when it sits on the rim [m]."""
LEVEL = math.cos(math.radians(4.0))


class PotLidTask(CarryTask):
    """Pot and lid; the pot stands where the episode put it, the lid lies about."""

    workspace = Workspace()
    max_steps = 50
    body = "lid"
    grip = Grip(height=0.036, width=KNOB_WIDTH, period=math.pi / 2)
    travel = 0.075

    def objects_xml(self) -> str:
        blue, red, black = "0.15 0.3 0.75 1", "0.85 0.15 0.1 1", "0.1 0.1 0.1 1"
        pot = [
            *ring(POT_RADIUS, POT_HEIGHT, POT_WALL, blue),
            geom("cylinder", (POT_RADIUS - 0.002, 0.003), (0, 0, 0.003), blue),
        ]
        half_knob = KNOB_WIDTH / 2
        lid = [
            geom("cylinder", (LIP_RADIUS, LIP_HEIGHT / 2), (0, 0, LIP_HEIGHT / 2), red),
            geom("cylinder", (LID_RADIUS, 0.003), (0, 0, LIP_HEIGHT + 0.003), red),
            geom("box", (half_knob, half_knob, 0.014), (0, 0, LIP_HEIGHT + 0.020), black),
        ]
        return fixed("pot", pot) + free("lid", lid)

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.move_marker("pot", (*(POT + rng.uniform(-0.015, 0.015, 2)), 0.0))
        scene.forward()
        self._place_lid(scene, rng)
        place_arm(scene, np.array([0.28, -0.01, 0.13]) + rng.uniform(-0.02, 0.02, 3), gripper=1.0)

    @abstractmethod
    def _place_lid(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the lid where the episode begins, drawn by `rng`."""

    def _off_centre(self, scene: Scene) -> float:
        """Distance [m] of the lid's middle from the pot's."""
        return math.dist(scene.position("lid")[:2], scene.position("pot")[:2])

    def _is_level(self, scene: Scene) -> bool:
        return bool(scene.data.body("lid").xmat[8] > LEVEL)


class PotLidOnTask(PotLidTask):
    """Success: the lid sits level on the rim, its lip inside the pot, and the gripper has let go."""

    name = "widowx/pot_lid_on"
    pair = "widowx/pot_lid_off"
    instructions = (
        "put the lid on the pot",
        "cover the blue pot with the red lid",
        "close the pot with its lid",
        "place the red lid on top of the pot",
    )
    near_misses = (*CarryTask.near_misses, "askew")
    demo_noise = 0.1
    hard_noise = 0.13
    tolerance = 0.004

    def _place_lid(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.place("lid", (*rng.uniform(*LID_REGION), 0.0), rng.uniform(-math.pi, math.pi))

    def goal(self, scene: Scene) -> FloatArray:
        return scene.position("pot") + np.array([0.0, 0.0, SEATED])

    def arrived(self, scene: Scene) -> bool:
        seated = abs(scene.position("lid")[2] - SEATED) < 0.003
        return self._off_centre(scene) < 0.01 and seated and self._is_level(scene)

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        gap = POT_RADIUS + LID_RADIUS + rng.uniform(0.003, 0.015)
        angle = rng.uniform(-0.75 * math.pi, -0.25 * math.pi)
        return np.array([*around(scene.position("pot")[:2], gap, angle), 0.0])

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Of `CarryTask`; and `askew`: the lid lies on the rim with its lip caught on the wall."""
        if kind != "askew":
            super().near_miss(scene, rng, kind)
            return
        pot = scene.position("pot")
        shifted = around(pot[:2], rng.uniform(0.016, 0.026), rng.uniform(-math.pi, math.pi))
        scene.place("lid", (*shifted, POT_HEIGHT + 0.001), rng.uniform(-0.3, 0.3))
        place_arm(scene, np.array([*shifted, 0.15]), gripper=1.0)
        settle(scene)


class PotLidOffTask(PotLidTask):
    """Success: the lid lies on the table clear of the pot, and the gripper has let go."""

    name = "widowx/pot_lid_off"
    pair = "widowx/pot_lid_on"
    instructions = (
        "take the lid off the pot",
        "uncover the blue pot and put the red lid on the table",
        "open the pot",
        "remove the red lid and lay it beside the pot",
    )
    near_misses = (*CarryTask.near_misses, "leaning")
    hard_noise = 0.25
    tolerance = 0.012

    def _place_lid(self, scene: Scene, rng: np.random.Generator) -> None:
        pot = scene.position("pot")
        middle = pot[:2] + rng.uniform(-0.003, 0.003, 2)
        scene.place("lid", (*middle, SEATED), rng.uniform(-math.pi, math.pi))

    def goal(self, scene: Scene) -> FloatArray:
        return LID_PLACE

    def arrived(self, scene: Scene) -> bool:
        clear = self._off_centre(scene) > POT_RADIUS + LID_RADIUS
        return bool(clear and scene.position("lid")[2] < 0.004 and self._is_level(scene))

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """Shifted on the rim, not taken off."""
        shifted = around(scene.position("pot")[:2], rng.uniform(0.016, 0.026), rng.uniform(-2.4, -0.7))
        return np.array([*shifted, POT_HEIGHT + 0.001])

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Of `CarryTask`; and `leaning`: the lid came down between table and pot."""
        if kind != "leaning":
            super().near_miss(scene, rng, kind)
            return
        pot = scene.position("pot")
        gap = POT_RADIUS + rng.uniform(0.026, 0.034)
        edge = np.array([*around(pot[:2], gap, -math.pi / 2), 0.047])
        scene.place("lid", edge, roll=rng.uniform(0.75, 0.85))
        place_arm(scene, edge + np.array([0.0, -0.02, 0.13]), gripper=1.0)
        settle(scene, seconds=1.5)
