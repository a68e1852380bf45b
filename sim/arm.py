"""The arm's controller: 7-D actions at 5 Hz in, joint setpoints at 50 Hz out, through a command filter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.arm_model import ROBOTS, ArmParameters, arm_model
from sim.control import check_control_mode, make_drive
from sim.impedance import ImpedanceConfig
from sim.kinematics import ArmKinematics, Pose, matrix_from_rpy, rpy_from_matrix
from sim.randomisation import Imperfections
from sim.spec import CommandFilter, FloatArray

FINGER_CLOSED_M, FINGER_OPEN_M = 0.015, 0.037
UNREACHABLE = 0.003
"""Error of the inverse kinematics from which a target counts as out of reach."""
SETPOINTS_PER_STEP = schema.SETPOINT_HZ // schema.CONTROL_HZ
PHYSICS_STEPS_PER_SETPOINT = round(1 / (schema.SETPOINT_HZ * schema.PHYSICS_STEP_S))


@dataclass(frozen=True)
class Workspace:
    """Where the commanded tool pose may go. Equal bounds freeze a direction.

    Setpoints between two such poses are interpolated in the joints, and may bulge out by a few millimetres.

    Attributes:
        low, high: corners of a box for the tool, x, y, z [m].
        rpy_low, rpy_high: bounds of the tool's roll, pitch, yaw [rad]; zero points straight down.
        gripper_low, gripper_high: bounds of the gripper's opening, 0 = closed, 1 = open.
    """

    low: tuple[float, float, float] = (0.16, -0.20, 0.022)
    high: tuple[float, float, float] = (0.40, 0.20, 0.22)
    rpy_low: tuple[float, float, float] = (-0.3, -0.3, -1.0)
    rpy_high: tuple[float, float, float] = (0.3, 0.3, 1.0)
    gripper_low: float = 0.0
    gripper_high: float = 1.0

    def __post_init__(self) -> None:
        for low, high in ((self.low, self.high), (self.rpy_low, self.rpy_high)):
            if len(low) != 3 or len(high) != 3 or any(a > b for a, b in zip(low, high, strict=True)):
                raise ConfigError(
                    f"workspace bounds {low} .. {high}; expected three numbers each, low <= high"
                )
        if not 0 <= self.gripper_low <= self.gripper_high <= 1:
            raise ConfigError(
                f"workspace gripper {self.gripper_low} .. {self.gripper_high}; expected 0 <= low <= high <= 1"
            )

    def clip(self, pose: Pose) -> Pose:
        """The nearest pose inside, position and each angle on its own."""
        rpy = np.clip(rpy_from_matrix(pose.rotation), self.rpy_low, self.rpy_high)
        return Pose(np.clip(pose.position, self.low, self.high), matrix_from_rpy(rpy))


@dataclass(frozen=True)
class ArmConfig:
    """Which arm, and how it is driven.

    Attributes:
        robot: a name of `sim.arm_model.ROBOTS`.
        control_mode: one of `sim.control.CONTROL_MODES`.
        impedance: springs and dampers of the impedance modes.
        parameters: a file of identified parameters (`robot-rl sysid`); empty for the nominal ones.
        leash_m, leash_rad: how far the commanded pose may run ahead of the measured one before a new action
            is added.
    """

    robot: str = "widowx_250s"
    control_mode: str = "joint_position"
    impedance: ImpedanceConfig = field(default_factory=ImpedanceConfig)
    parameters: str = ""
    leash_m: float = 0.04
    leash_rad: float = 0.25

    def __post_init__(self) -> None:
        arm_model(self.robot)
        check_control_mode(self.control_mode)
        if not (self.leash_m > 0 and self.leash_rad > 0):
            raise ConfigError(f"leash {self.leash_m} m, {self.leash_rad} rad; expected both above 0")

    def load_parameters(self) -> ArmParameters | None:
        """What the file holds, or None without a file.

        Raises:
            DataError: it cannot be read. ConfigError: it is another arm's.
        """
        if not self.parameters:
            return None
        parameters = ArmParameters.load(self.parameters)
        if parameters.robot != self.robot:
            raise ConfigError(
                f"arm parameters {self.parameters} are those of {parameters.robot}; expected {self.robot}"
            )
        return parameters


class Executed(NamedTuple):
    """What became of an action: the executed one (7,), and why it differs (0 = it does not)."""

    action: npt.NDArray[np.float32]
    filter_reason: int


class ArmController:
    """Actions to joint setpoints, by kinematics alone: the simulator and the robot use the same one."""

    def __init__(self, workspace: Workspace, config: ArmConfig | None = None) -> None:
        self.workspace, self.config = workspace, config or ArmConfig()
        self.arm = arm_model(self.config.robot)
        self.kinematics = ArmKinematics(self.arm)
        self._max_speed = np.array(self.arm.max_speed)

    def state(self, measured: FloatArray) -> npt.NDArray[np.float32]:
        """`schema.STATE` (7,): tool x, y, z [m], roll, pitch, yaw [rad], gripper opening [0, 1].

        `measured` (7,): six joint angles [rad] and the finger's travel [m].
        """
        pose = self.kinematics.forward(measured[:6])
        opening = min(1.0, max(0.0, gripper_opening(measured[6])))
        return np.array([*pose.position, *rpy_from_matrix(pose.rotation), opening], np.float32)

    def ramp(self, action: npt.NDArray[np.float32], setpoint: FloatArray, measured: FloatArray) -> FloatArray:
        """Setpoints (SETPOINTS_PER_STEP, 7) for the `SETPOINT_HZ` ticks of one action (7,) in [-1, 1].

        The target is the commanded pose, that of the last `setpoint` (7,) (not the measured one: that would
        sag by the tracking error at each step), held on a leash to the `measured` pose (7,), plus the
        action's delta, clipped to the workspace. The arm holds still if that is out of reach.
        """
        goal = self._goal(action, setpoint, measured)
        share = np.arange(1, SETPOINTS_PER_STEP + 1)[:, None] / SETPOINTS_PER_STEP
        return setpoint + (goal - setpoint) * share

    def action_between(self, start: FloatArray, end: FloatArray) -> npt.NDArray[np.float32]:
        """The action whose undisturbed execution leads from setpoint `start` (7,) to `end` (7,)."""
        before, after = self.kinematics.forward(start[:6]), self.kinematics.forward(end[:6])
        move = (after.position - before.position) / schema.DELTA_POSITION_M
        turn = rpy_from_matrix(after.rotation @ before.rotation.T) / schema.DELTA_ROTATION_RAD
        action = np.array([*move, *turn, gripper_opening(end[6])], np.float32)
        return np.clip(action, -1.0, 1.0)

    def _goal(
        self, action: npt.NDArray[np.float32], setpoint: FloatArray, measured: FloatArray
    ) -> FloatArray:
        forward = self.kinematics.forward
        commanded = self._leashed(forward(setpoint[:6]), forward(measured[:6]))
        delta = matrix_from_rpy(action[3:6].astype(np.float64) * schema.DELTA_ROTATION_RAD)
        target = self.workspace.clip(
            Pose(commanded.position + action[:3] * schema.DELTA_POSITION_M, delta @ commanded.rotation)
        )
        joints, error = self.kinematics.inverse(target, setpoint[:6])
        step = joints - setpoint[:6] if error < UNREACHABLE else np.zeros(6)
        speed = np.abs(step) * schema.CONTROL_HZ
        fast = speed > self._max_speed
        if fast.any():
            step *= (self._max_speed[fast] / speed[fast]).min()
        gripper = min(self.workspace.gripper_high, max(self.workspace.gripper_low, float(action[6])))
        return np.append(setpoint[:6] + step, finger_travel(gripper))

    def _leashed(self, commanded: Pose, measured: Pose) -> Pose:
        offset = commanded.position - measured.position
        distance = math.sqrt(offset @ offset)
        if distance > self.config.leash_m:
            offset *= self.config.leash_m / distance
        turn = rpy_from_matrix(commanded.rotation @ measured.rotation.T)
        turn = np.clip(turn, -self.config.leash_rad, self.config.leash_rad)
        return Pose(measured.position + offset, matrix_from_rpy(turn) @ measured.rotation)


class WidowXArm:
    """Drives the arm inside a compiled scene that includes its MJCF."""

    action_size: int = len(schema.ACTION_NAMES)
    state_bounds: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = (
        (-1, -1, -1, -math.pi, -math.pi, -math.pi, 0),
        (1, 1, 1, math.pi, math.pi, math.pi, 1),
    )
    """Least and largest of each number of `state`."""

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        workspace: Workspace,
        config: ArmConfig | None = None,
    ) -> None:
        self.model, self.data = model, data
        self.controller = ArmController(workspace, config)
        self.config, self.kinematics = self.controller.config, self.controller.kinematics
        arm = self.controller.arm
        parameters = self.config.load_parameters()
        if parameters is not None:
            parameters.apply(model)
        self.delay_s = 0.0 if parameters is None else parameters.delay_s
        """Time that a setpoint takes to the servos [s]."""
        self.servos = make_drive(self.config.control_mode, model, data, self.config.impedance, arm)
        self.action_size = type(self).action_size + len(self.servos.stiffness_action)
        self.command_filter: CommandFilter | None = None
        self._imperfections: Imperfections | None = None
        self._qpos = np.array([model.joint(name).qposadr[0] for name in (*arm.joints, "left_finger")])
        self._right_finger = int(model.joint("right_finger").qposadr[0])
        self._setpoint = np.zeros(7)

    @property
    def measured(self) -> FloatArray:
        """Six joint angles [rad] and the finger's travel [m], (7,)."""
        return self.data.qpos[self._qpos]

    @property
    def setpoint(self) -> FloatArray:
        """The last executed setpoint (7,), same units."""
        return self._setpoint.copy()

    @property
    def pose(self) -> Pose:
        """The measured pose of the tool."""
        return self.kinematics.forward(self.measured[:6])

    def state(self) -> npt.NDArray[np.float32]:
        """`schema.STATE` (7,) as it is now."""
        return self.controller.state(self.measured)

    @property
    def reading(self) -> FloatArray:
        """`measured` (7,) as the sensors tell it."""
        return self.measured if self._imperfections is None else self._imperfections.reading()

    def observation(self) -> npt.NDArray[np.float32]:
        """`schema.STATE` (7,) as the sensors tell it; equal to `state` unless it is randomised."""
        return self.state() if self._imperfections is None else self.controller.state(self.reading)

    def past_positions(self) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Joint positions, and positions and quaternions of mocap bodies, as late as observations are; None
        if they are not."""
        return None if self._imperfections is None else self._imperfections.past_positions()

    def imperfect(self, imperfections: Imperfections | None) -> None:
        """From now on commands and measurements go through `imperfections`; None: they are perfect."""
        self._imperfections = imperfections
        if imperfections is not None:
            imperfections.start(self._setpoint, self.measured, self.data)

    def place(self, pose: Pose, gripper: float) -> None:
        """Put the arm at rest at `pose` with gripper opening `gripper` (no motion, for resets).

        Raises:
            ConfigError: this arm cannot reach it.
        """
        home = np.array(self.controller.arm.home)
        home[0] = math.atan2(pose.position[1], pose.position[0])
        joints, error = self.kinematics.inverse(pose, home, iterations=50)
        if error > UNREACHABLE:
            raise ConfigError(
                f"robot {self.controller.arm.name} cannot reach {pose.position.round(3).tolist()} m, where "
                f"this task puts it (off by {error:.3f}); choose another of {', '.join(ROBOTS)}"
            )
        self._setpoint = np.append(joints, finger_travel(gripper))
        self.data.qpos[self._qpos] = self._setpoint
        self.data.qpos[self._right_finger] = -self._setpoint[6]
        self.servos.place(self._setpoint)

    def go_on(self, setpoint: FloatArray) -> None:
        """Take up a saved `setpoint` (7,) as the last one; the physics is brought back apart from it."""
        self._setpoint = setpoint
        self.servos.place(setpoint)

    def begin(self) -> None:
        """An episode begins, with the arm as it is."""
        reset = getattr(self.command_filter, "reset", None)
        if reset is not None:
            reset()

    def apply(self, action: npt.NDArray[np.float32]) -> Executed:
        """Execute one action in [-1, 1] for 1 / `schema.CONTROL_HZ` seconds of physics.

        Seven numbers, and four more with variable impedance (`ImpedanceConfig.stiffness`).
        """
        motion, stiffness = action[:7], action[7:]
        self.servos.set_stiffness(stiffness)
        start = self._setpoint
        changed, first_reason = False, 0
        for requested in self.controller.ramp(motion, start, self.reading):
            executed = requested
            if self.command_filter is not None:
                executed, reason = self.command_filter(requested.copy(), self.reading, self.data.time)
                changed = changed or reason != 0 or not np.array_equal(executed, requested)
                first_reason = first_reason or int(reason)
            self._tick(executed)
        if not changed:
            return Executed(action, first_reason)
        return Executed(
            np.append(self.controller.action_between(start, self._setpoint), stiffness), first_reason
        )

    def _tick(self, setpoint: FloatArray) -> None:
        if self._imperfections is None:
            self.drive(setpoint, PHYSICS_STEPS_PER_SETPOINT)
            return
        self._setpoint = setpoint
        for arrived, steps in self._imperfections.commands(setpoint):
            self.servos.follow(arrived, steps)
        self._imperfections.record(self.measured, self.data)

    def drive(self, setpoint: FloatArray, physics_steps: int) -> None:
        """Give the servos a setpoint (7,) and let `physics_steps` of `schema.PHYSICS_STEP_S` pass."""
        self._setpoint = setpoint
        self.servos.follow(setpoint, physics_steps)
        if self._imperfections is not None:
            self._imperfections.start(setpoint, self.measured, self.data)


def finger_travel(opening: float) -> float:
    """Finger joint position [m] of a gripper opening in [0, 1]."""
    return FINGER_CLOSED_M + opening * (FINGER_OPEN_M - FINGER_CLOSED_M)


def gripper_opening(travel: float) -> float:
    """Gripper opening of a finger joint position [m]: 0 closed, 1 open."""
    return (float(travel) - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
