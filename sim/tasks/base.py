"""A task: which objects stand where, what counts as success, and how an expert would do it."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import unknown
from sim.arm import ArmConfig, WidowXArm, Workspace, finger_travel
from sim.arm_model import arm_model
from sim.kinematics import Pose, matrix_from_rpy, rpy_from_matrix
from sim.scene import Scene
from sim.spec import FloatArray


class Task(ABC):
    """Stateless: everything about an episode is in the scene, so the same scene gives the same answers."""

    name: ClassVar[str]
    instructions: ClassVar[tuple[str, ...]]
    """What to do, in three or more wordings; the first is the canonical one."""
    pair: ClassVar[str] = ""
    """The task that undoes this one, in the same objects and workspace; empty where there is none."""
    near_misses: ClassVar[tuple[str, ...]] = ()
    """Kinds of states that look like success and are not."""
    demo_noise: ClassVar[float] = 0.2
    """Standard deviation of the noise on the expert's actions, in [-1, 1], in demonstrations."""
    hard_noise: ClassVar[float] = 0.3
    """The same at which the expert succeeds only now and then; see docs/tasks.md."""
    held: ClassVar[str] = ""
    """MJCF of what the gripper holds all the time, in the frame of `gripper_link`."""
    max_steps: ClassVar[int]
    port: ClassVar[str] = "joints"
    """See `TaskSpec.port`."""
    workspace: ClassVar[Workspace]
    reward_weights: ClassVar[Mapping[str, float]]
    """Weight of each term of `reward_terms`; the reward is their weighted sum."""

    @property
    def instruction(self) -> str:
        """The canonical wording."""
        return self.instructions[0]

    @abstractmethod
    def objects_xml(self) -> str:
        """MJCF of the task's objects, inside the world body."""

    def make_scene(self, config: ArmConfig | None = None) -> Scene:
        """The compiled scene with the arm that `config` names, before any episode."""
        config = config or ArmConfig()
        arm = functools.partial(WidowXArm, config=config)
        return Scene(self.objects_xml(), self.workspace, self.held, arm=arm, robot=arm_model(config.robot))

    @abstractmethod
    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        """Place the arm and the objects of a new episode; every random draw comes from `rng`."""

    @abstractmethod
    def success(self, scene: Scene) -> bool:
        """Whether the instruction is fulfilled now, by the simulator's truth."""

    @abstractmethod
    def reward_terms(self, scene: Scene) -> dict[str, float]:
        """Unweighted reward terms by name, the names of `reward_weights`."""

    def measurements(self, scene: Scene) -> dict[str, float]:
        """What `info` of a step tells besides; `cost` (>= 0) is how unsafe the step was."""
        return {"cost": 0.0}

    @abstractmethod
    def expert(self, scene: Scene) -> FloatArray:
        """The scripted expert's action (A,) in [-1, 1], a function of the scene alone."""

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """Turn the scene, as `reset` left it, into a near miss at rest; `kind` is one of `near_misses`.

        Raises:
            ConfigError: a kind that the task does not have.
        """
        raise unknown(f"near miss of {self.name}", kind, self.near_misses)


def action_towards(
    scene: Scene, position: FloatArray, gripper: float, speed: float = 1.0, yaw: float = 0.0
) -> FloatArray:
    """The action (7,) that brings the tool to `position` (3,) [m], straight down and turned by `yaw` [rad].

    Each direction moves at most `speed` times the largest action; the turn at most half of it.
    """
    pose = scene.arm.pose
    move = (position - pose.position) / schema.DELTA_POSITION_M
    longest = float(np.abs(move).max())
    if longest > speed:
        move *= speed / longest
    turn = np.clip(([0.0, 0.0, yaw] - rpy_from_matrix(pose.rotation)) / schema.DELTA_ROTATION_RAD, -0.5, 0.5)
    return np.array([*move, *turn, gripper])


def settle(scene: Scene, gripper: float | None = None, seconds: float = 0.6) -> None:
    """Let `seconds` pass with the arm holding still, its gripper told to go to `gripper` if given."""
    setpoint = scene.arm.setpoint
    if gripper is not None:
        setpoint[6] = finger_travel(gripper)
    scene.arm.drive(setpoint, round(seconds / schema.PHYSICS_STEP_S))
    scene.data.qvel[:] = 0.0  # what still rolls on its side stops here
    scene.forward()


def around(centre: npt.ArrayLike, radius: float, angle: float) -> FloatArray:
    """The point (2,) [m] at `radius` [m] from `centre` (2,), in the direction `angle` [rad]."""
    return np.asarray(centre, np.float64) + radius * np.array([math.cos(angle), math.sin(angle)])


def place_arm(scene: Scene, position: FloatArray, gripper: float, yaw: float = 0.0) -> None:
    """Put the arm at rest above `position` (3,) [m], pointing down and turned by `yaw` [rad]."""
    rotation = matrix_from_rpy(np.array([0.0, 0.0, yaw]))
    scene.arm.place(Pose(np.asarray(position, np.float64), rotation), gripper)
