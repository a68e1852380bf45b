"""A task: which objects stand where, what counts as success, and how an expert would do it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from robot_rl.data import schema
from sim.arm import Workspace
from sim.kinematics import Pose, matrix_from_rpy, rpy_from_matrix
from sim.scene import Scene
from sim.spec import FloatArray


class Task(ABC):
    """Stateless: everything about an episode is in the scene, so the same scene gives the same answers."""

    name: ClassVar[str]
    instruction: ClassVar[str]
    max_steps: ClassVar[int]
    workspace: ClassVar[Workspace]
    reward_weights: ClassVar[Mapping[str, float]]
    """Weight of each term of `reward_terms`; the reward is their weighted sum."""

    @abstractmethod
    def objects_xml(self) -> str:
        """MJCF of the task's objects, inside the world body."""

    @abstractmethod
    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        """Place the arm and the objects of a new episode; every random draw comes from `rng`."""

    @abstractmethod
    def success(self, scene: Scene) -> bool:
        """Whether the instruction is fulfilled now, by the simulator's truth."""

    @abstractmethod
    def reward_terms(self, scene: Scene) -> dict[str, float]:
        """Unweighted reward terms by name, the names of `reward_weights`."""

    @abstractmethod
    def expert(self, scene: Scene) -> FloatArray:
        """The scripted expert's action (7,) in [-1, 1], a function of the scene alone."""


def action_towards(scene: Scene, position: FloatArray, gripper: float, speed: float = 1.0) -> FloatArray:
    """The action (7,) that brings the tool to `position` (3,) [m] and turns it back to straight down.

    Each direction moves at most `speed` times the largest action; the turn at most half of it.
    """
    pose = scene.arm.pose
    move = (position - pose.position) / schema.DELTA_POSITION_M
    longest = float(np.abs(move).max())
    if longest > speed:
        move *= speed / longest
    turn = np.clip(-rpy_from_matrix(pose.rotation) / schema.DELTA_ROTATION_RAD, -0.5, 0.5)
    return np.array([*move, *turn, gripper])


def place_arm(scene: Scene, position: FloatArray, gripper: float, yaw: float = 0.0) -> None:
    """Put the arm at rest above `position` (3,) [m], pointing down and turned by `yaw` [rad]."""
    rotation = matrix_from_rpy(np.array([0.0, 0.0, yaw]))
    scene.arm.place(Pose(np.asarray(position, np.float64), rotation), gripper)
