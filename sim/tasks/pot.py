"""`widowx/pot_to_stove` and `widowx/pot_to_table`: the pot onto the stove, and back onto the board."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import around, place_arm
from sim.tasks.carry import CarryTask, Grip, leave
from sim.tasks.shapes import fixed, free, geom, ring

STOVE = np.array([0.32, 0.11])
STOVE_HALF, STOVE_HEIGHT = 0.065, 0.02
BURNER_RADIUS = 0.038
BOARD = np.array([0.32, -0.10])
BOARD_HALF = 0.065
SUCCESS_RADIUS = 0.03
POT_RADIUS, POT_HEIGHT = 0.036, 0.04
HANDLE_LENGTH, HANDLE_WIDTH = 0.06, 0.014
SPREAD = 0.35
"""Largest turn of the handle away from the robot [rad]."""
LEVEL = math.cos(math.radians(5.0))


class PotTask(CarryTask):
    """A pot with a long handle towards the robot, a stove, a board. Success: it stands level in its place."""

    workspace = Workspace()
    max_steps = 50
    hard_noise = 0.23
    body = "pot"
    grip = Grip(height=0.040, width=HANDLE_WIDTH, reach=-(POT_RADIUS + HANDLE_LENGTH * 0.55))
    travel = 0.06

    def objects_xml(self) -> str:
        blue, black = "0.15 0.3 0.75 1", "0.1 0.1 0.1 1"
        pot = [
            # It stands on its heavy base alone: a dozen walls on the stove would be fifty contacts.
            *ring(POT_RADIUS, POT_HEIGHT, 0.005, blue, low=0.0015),
            geom("box", (0.026, 0.026, 0.004), (0, 0, 0.004), blue, density=1200),
            geom("cylinder", (POT_RADIUS - 0.003, 0.003), (0, 0, 0.006), blue, touches="nothing"),
            geom(
                "box",
                (HANDLE_LENGTH / 2, HANDLE_WIDTH / 2, 0.006),
                (-POT_RADIUS - HANDLE_LENGTH / 2 + 0.004, 0, POT_HEIGHT - 0.006),
                black,
                density=150,
            ),
        ]
        top = (0, 0, STOVE_HEIGHT)
        stove = [
            geom(
                "box",
                (STOVE_HALF, STOVE_HALF, STOVE_HEIGHT / 2),
                (0, 0, STOVE_HEIGHT / 2),
                "0.75 0.75 0.78 1",
            ),
            geom("cylinder", (BURNER_RADIUS, 0.0006), top, "0.9 0.25 0.05 1", touches="nothing"),
        ]
        board = [
            geom("box", (BOARD_HALF, BOARD_HALF, 0.0006), (0, 0, 0), "0.75 0.5 0.25 1", touches="nothing")
        ]
        return fixed("stove", stove) + fixed("board", board) + free("pot", pot)

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.move_marker("stove", (*STOVE, 0.0))
        scene.move_marker("board", (*BOARD, 0.0))
        origin = self._start() + np.array([*rng.uniform(-0.02, 0.02, 2), 0.0])
        scene.place("pot", origin, rng.uniform(-SPREAD, SPREAD))
        place_arm(scene, np.array([0.25, 0.0, 0.13]) + rng.uniform(-0.02, 0.02, 3), gripper=1.0)

    @abstractmethod
    def _start(self) -> FloatArray:
        """Where an episode begins (3,) [m], before the random shift."""

    def arrived(self, scene: Scene) -> bool:
        pot, goal = scene.position("pot"), self.goal(scene)
        level = scene.data.body("pot").xmat[8] > LEVEL
        near = math.dist(pot[:2], goal[:2]) < SUCCESS_RADIUS
        return bool(near and abs(pot[2] - goal[2]) < 0.003 and level)


class PotToStoveTask(PotTask):
    name = "widowx/pot_to_stove"
    pair = "widowx/pot_to_table"
    instructions = (
        "put the pot on the stove",
        "place the blue pot on the red burner",
        "move the pot from the board to the stove",
        "lift the pot by its handle and set it down on the stove",
    )
    near_misses = (*CarryTask.near_misses, "off the burner")

    def _start(self) -> FloatArray:
        return np.array([*BOARD, 0.0])

    def goal(self, scene: Scene) -> FloatArray:
        return np.array([*STOVE, STOVE_HEIGHT])

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """On the table, next to the stove."""
        gap = STOVE_HALF + POT_RADIUS + rng.uniform(0.003, 0.02)
        return np.array([STOVE[0] + rng.uniform(-0.03, 0.03), STOVE[1] - gap, 0.0])

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Of `CarryTask`; and `off the burner`: on the stove's corner."""
        if kind != "off the burner":
            super().near_miss(scene, rng, kind)
            return
        middle = around(STOVE, rng.uniform(0.038, 0.048), rng.uniform(-math.pi, math.pi))
        leave(scene, "pot", self.grip, np.array([*middle, STOVE_HEIGHT]), rng)


class PotToTableTask(PotTask):
    name = "widowx/pot_to_table"
    pair = "widowx/pot_to_stove"
    hard_noise = 0.26
    instructions = (
        "take the pot off the stove and put it on the board",
        "move the blue pot from the stove to the wooden board",
        "put the pot back on the board",
        "clear the stove: set the pot down on the board",
    )

    def _start(self) -> FloatArray:
        return np.array([*STOVE, STOVE_HEIGHT])

    def goal(self, scene: Scene) -> FloatArray:
        return np.array([*BOARD, 0.0])

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """On the table between board and stove."""
        return np.array([BOARD[0] + rng.uniform(-0.03, 0.03), BOARD[1] + rng.uniform(0.055, 0.09), 0.0])
