"""`widowx/<thing>_to_bin` and `widowx/<thing>_to_table`: RoboFuME's simulated setting (arXiv 2310.15145).

One thing of `THINGS` or `PRIOR_THINGS` goes from the table into a bin and back. The tasks differ in a table
row alone, so their classes are made from it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from sim.arm import Workspace
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, place_arm, settle
from sim.tasks.carry import CarryTask, leave
from sim.tasks.shapes import fixed, free, geom
from sim.tasks.things import PRIOR_THINGS, THINGS, Thing

BIN = np.array([0.30, 0.11])
BIN_HALF, BIN_HEIGHT, BIN_WALL = 0.07, 0.018, 0.004
"""Inner half width, height of the walls above the table, half their thickness [m]."""
TABLE_PLACE = np.array([0.30, -0.09, 0.0])
REGION = np.array([[0.25, -0.14], [0.36, -0.04]])
SPREAD = 0.5
"""Largest turn of the thing at the start [rad]."""
UPRIGHT = math.cos(math.radians(15.0))


class BinTask(CarryTask):
    """One thing and a flat bin."""

    thing: ClassVar[Thing]
    workspace = Workspace()
    max_steps = 45
    hard_noise = 0.25
    travel = 0.045
    tolerance = 0.015

    def objects_xml(self) -> str:
        grey, half = "0.45 0.5 0.55 1", BIN_HEIGHT / 2
        # The floor is paint: what is in the bin stands on the table, which holds better than a thin box.
        floor = geom("box", (BIN_HALF, BIN_HALF, 0.0005), (0, 0, 0), "0.7 0.74 0.78 1", touches="nothing")
        bin_geoms = [floor]
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            size = (
                BIN_WALL if x else BIN_HALF + 2 * BIN_WALL,
                BIN_WALL if y else BIN_HALF + 2 * BIN_WALL,
                half,
            )
            edge = BIN_HALF + BIN_WALL
            bin_geoms.append(geom("box", size, (x * edge, y * edge, half), grey))
        return fixed("bin", bin_geoms) + free(self.body, self.thing.geoms())

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        scene.move_marker("bin", (*BIN, 0.0))
        scene.place(self.body, self._start(rng), rng.uniform(-SPREAD, SPREAD))
        place_arm(scene, np.array([0.28, 0.0, 0.13]) + rng.uniform(-0.02, 0.02, 3), gripper=1.0)

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> FloatArray:
        """Where the thing (3,) [m] stands at first."""

    def _is_upright(self, scene: Scene) -> bool:
        return bool(scene.data.body(self.body).xmat[8] > UPRIGHT)


class ToBinTask(BinTask):
    """Success: the thing is inside the bin, whichever side up, and the gripper has let go."""

    near_misses = (*CarryTask.near_misses, "toppled")

    def _start(self, rng: np.random.Generator) -> FloatArray:
        return np.array([*rng.uniform(*REGION), 0.0])

    def goal(self, scene: Scene) -> FloatArray:
        return np.array([*BIN, 0.0])

    def arrived(self, scene: Scene) -> bool:
        thing = scene.position(self.body)
        inside = np.abs(thing[:2] - BIN).max() < BIN_HALF - 0.01
        down = thing[2] < 0.004 or (not self._is_upright(scene) and thing[2] < 0.035)
        return bool(inside and down)

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """On the table along the bin's near edge."""
        gap = BIN_HALF + 2 * BIN_WALL + rng.uniform(0.035, 0.05)
        return np.array([BIN[0] + rng.uniform(-0.05, 0.05), BIN[1] - gap, 0.0])

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Of `CarryTask`; and `toppled`: put down on the wall of the bin, it fell over beside it."""
        if kind != "toppled":
            super().near_miss(scene, rng, kind)
            return
        wall = BIN[1] - BIN_HALF - BIN_WALL - rng.uniform(0.006, 0.012)
        origin = np.array([BIN[0] + rng.uniform(-0.04, 0.04), wall, BIN_HEIGHT + 0.001])
        leave(scene, self.body, self.grip, origin, rng, spread=0.1)
        settle(scene, seconds=1.5)  # it rolls


class ToTableTask(BinTask):
    """Success: the thing stands on the table outside the bin, and the gripper has let go."""

    def _start(self, rng: np.random.Generator) -> FloatArray:
        return np.array([*(BIN + rng.uniform(-0.03, 0.03, 2)), 0.0])

    def goal(self, scene: Scene) -> FloatArray:
        return TABLE_PLACE

    def arrived(self, scene: Scene) -> bool:
        thing = scene.position(self.body)
        outside = thing[1] < BIN[1] - BIN_HALF - 2 * BIN_WALL - 0.03
        return bool(outside and thing[2] < 0.004 and self._is_upright(scene))

    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """Moved, but only to the bin's near edge."""
        return np.array([BIN[0] + rng.uniform(-0.04, 0.04), BIN[1] - rng.uniform(0.03, 0.04), 0.0])


def bin_tasks(things: tuple[Thing, ...]) -> dict[str, type[Task]]:
    """Short name -> task, two for each thing."""
    return {
        task.name.removeprefix("widowx/"): task
        for thing in things
        for task in (_task(thing, ToBinTask), _task(thing, ToTableTask))
    }


def _task(thing: Thing, way: type[BinTask]) -> type[BinTask]:
    into = issubclass(way, ToBinTask)
    named, there, back = f"{thing.colour} {thing.name}", "to_bin", "to_table"
    wordings = (
        (
            f"put the {named} in the bin",
            f"pick up the {thing.name} and drop it into the grey bin",
            f"move the {named} from the table to the bin",
        )
        if into
        else (
            f"put the {named} on the table",
            f"take the {thing.name} out of the grey bin",
            f"move the {named} from the bin back to the table",
        )
    )
    if not into:
        there, back = back, there
    return type(
        f"{thing.name.title()}{way.__name__}",
        (way,),
        {
            "__doc__": way.__doc__,
            "__module__": __name__,
            "name": f"widowx/{thing.name}_{there}",
            "pair": f"widowx/{thing.name}_{back}",
            "instructions": wordings,
            "thing": thing,
            "body": thing.name,
            "grip": thing.grip,
        },
    )


FINE_TUNING_TASKS = bin_tasks(THINGS)
PRIOR_TASKS = bin_tasks(PRIOR_THINGS)
"""The 20 tasks of multi-task pre-training, by short name."""
