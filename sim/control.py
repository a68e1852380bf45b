"""How the arm's motors follow: joint position servos, joint velocity servos, or Cartesian impedance.

`WidowXConfig(control_mode=...)` chooses. Every mode takes the same stream of joint setpoints at
`schema.SETPOINT_HZ`, so a command filter guards each of them in the same way; the impedance modes hold the
tool at that setpoint's pose. `variable_impedance` has actions (11,): four more numbers in [-1, 1] are the
stiffness along x, y, z and about all axes, see `sim.impedance.ImpedanceConfig.stiffness`.
"""

from __future__ import annotations

from typing import Protocol

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import unknown
from sim.arm_model import WIDOWX_250S, ArmModel
from sim.impedance import CartesianImpedance, ImpedanceConfig, retune
from sim.kinematics import ArmKinematics
from sim.spec import FloatArray

VELOCITY_FEEDBACK = 10.0
"""Share of the position error that a velocity servo's command makes good in a second [1/s]."""
FEEDBACK_STEPS = round(1 / (schema.SETPOINT_HZ * schema.PHYSICS_STEP_S))
"""Physics steps between two of a velocity servo's commands."""


class Drive(Protocol):
    """Makes the motors follow a joint setpoint."""

    stiffness_action: FloatArray
    """The part of an action that leaves the stiffness as configured: (0,), or (4,) if it is variable."""

    def follow(self, setpoint: FloatArray, physics_steps: int) -> None:
        """Let `physics_steps` pass towards `setpoint` (7,): six joints [rad], finger travel [m]."""

    def place(self, setpoint: FloatArray) -> None:
        """The arm was put at rest at `setpoint` (7,), without motion."""

    def set_stiffness(self, action: npt.NDArray[np.float32]) -> None:
        """Take in that part of an action, in [-1, 1]."""


class PositionDrive:
    """The model's own joint position servos: torque = clip(kp (setpoint - q) - kv dq, effort)."""

    stiffness_action: FloatArray = np.zeros(0)

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, arm: ArmModel = WIDOWX_250S) -> None:
        self.model, self.data = model, data
        self._ctrl = np.array([model.actuator(name).id for name in (*arm.joints, "gripper")])

    def follow(self, setpoint: FloatArray, physics_steps: int) -> None:
        self.data.ctrl[self._ctrl] = setpoint
        mujoco.mj_step(self.model, self.data, nstep=physics_steps)

    def place(self, setpoint: FloatArray) -> None:
        self.data.ctrl[self._ctrl] = setpoint

    def set_stiffness(self, action: npt.NDArray[np.float32]) -> None:
        pass


class VelocityDrive(PositionDrive):
    """Joint velocity servos: torque = clip(kv (command - dq), effort), kv that of the position servo.

    command = the setpoint's velocity + `VELOCITY_FEEDBACK` (where it was - q), within the speed limit.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, arm: ArmModel = WIDOWX_250S) -> None:
        super().__init__(model, data, arm)
        self.max_speed = np.array(arm.max_speed)
        self._qpos = np.array([model.joint(name).qposadr[0] for name in arm.joints])
        self._previous = np.zeros(7)
        motors = self._ctrl[:6]
        gains = -model.actuator_biasprm[motors, 2]
        retune(model, motors, gains, np.stack([0 * gains, 0 * gains, -gains], axis=1), self.max_speed)

    def follow(self, setpoint: FloatArray, physics_steps: int) -> None:
        start, way = self._previous[:6], setpoint[:6] - self._previous[:6]
        forward = way / (physics_steps * schema.PHYSICS_STEP_S)
        for done in range(0, physics_steps, FEEDBACK_STEPS):
            lag = start + way * (done / physics_steps) - self.data.qpos[self._qpos]
            speed = np.clip(forward + VELOCITY_FEEDBACK * lag, -self.max_speed, self.max_speed)
            super().follow(np.append(speed, setpoint[6]), min(FEEDBACK_STEPS, physics_steps - done))
        self._previous = setpoint.copy()

    def place(self, setpoint: FloatArray) -> None:
        self._previous = setpoint.copy()
        super().place(np.append(np.zeros(6), setpoint[6]))


class ImpedanceDrive:
    """`CartesianImpedance` towards the pose of the joint setpoint."""

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        config: ImpedanceConfig | None = None,
        arm: ArmModel = WIDOWX_250S,
        variable: bool = False,
    ) -> None:
        self.impedance = CartesianImpedance(model, data, config, arm)
        self.stiffness_action = self.impedance.config.neutral_action if variable else np.zeros(0)
        self._kinematics = ArmKinematics(arm)

    def follow(self, setpoint: FloatArray, physics_steps: int) -> None:
        self.impedance.step(self._kinematics.forward(setpoint[:6]), float(setpoint[6]), physics_steps)

    def place(self, setpoint: FloatArray) -> None:
        config, data = self.impedance.config, self.impedance.data
        self.impedance.set_stiffness([config.translation] * 3 + [config.rotation] * 3)
        data.actuator("gripper").ctrl = setpoint[6]

    def set_stiffness(self, action: npt.NDArray[np.float32]) -> None:
        if len(self.stiffness_action):
            self.impedance.set_stiffness(self.impedance.config.stiffness(action))


CONTROL_MODES = ("joint_position", "joint_velocity", "cartesian_impedance", "variable_impedance")


def check_control_mode(mode: str) -> None:
    """Raises:
    ConfigError: there is no such control mode.
    """
    if mode not in CONTROL_MODES:
        raise unknown("control mode", mode, CONTROL_MODES)


def make_drive(
    mode: str,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    config: ImpedanceConfig | None = None,
    arm: ArmModel = WIDOWX_250S,
) -> Drive:
    """The drive of a control mode; all but `joint_position` retune the actuators of `model`.

    Raises:
        ConfigError: unknown mode.
    """
    check_control_mode(mode)
    if mode == "joint_position":
        return PositionDrive(model, data, arm)
    if mode == "joint_velocity":
        return VelocityDrive(model, data, arm)
    return ImpedanceDrive(model, data, config, arm, variable=mode == "variable_impedance")
