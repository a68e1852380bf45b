"""Poses, forward kinematics and differential inverse kinematics of the arm, from its MJCF alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import mujoco
import numpy as np

from sim.arm_model import WIDOWX_250S, ArmModel
from sim.spec import FloatArray

ARM_XML = WIDOWX_250S.path
JOINTS = WIDOWX_250S.joints
TOOL_SITE = "tool"


class Pose(NamedTuple):
    """Position (3,) [m] and rotation matrix (3, 3), columns = axes of the body in the world."""

    position: FloatArray
    rotation: FloatArray


def rpy_from_matrix(rotation: FloatArray) -> FloatArray:
    """Roll, pitch, yaw (3,) [rad] with R = Rz(yaw) Ry(pitch) Rx(roll). Pitch lies in [-pi/2, pi/2]."""
    r = rotation.tolist()
    pitch = math.asin(min(1.0, max(-1.0, -r[2][0])))
    return np.array([math.atan2(r[2][1], r[2][2]), pitch, math.atan2(r[1][0], r[0][0])])


def matrix_from_rpy(rpy: FloatArray) -> FloatArray:
    """R = Rz(yaw) Ry(pitch) Rx(roll) (3, 3) from roll, pitch, yaw (3,) [rad]."""
    roll, pitch, yaw = (float(angle) for angle in rpy)
    cr, sr, cp, sp, cy, sy = (
        math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch), math.cos(yaw), math.sin(yaw)
    )  # fmt: skip
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rotation_vector(rotation: FloatArray) -> FloatArray:
    """Axis times angle (3,) [rad], angle in [0, pi]."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


class ArmKinematics:
    """Kinematics of an arm. Owns its own `MjData`: using it never disturbs a simulation."""

    def __init__(self, arm: ArmModel = WIDOWX_250S, damping: float = 0.01) -> None:
        self.arm, self._model = arm, arm.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(TOOL_SITE).id
        self._dofs = [int(self._model.joint(name).dofadr[0]) for name in arm.joints]
        limits = np.array([self._model.joint(name).range for name in arm.joints])
        self.lower: FloatArray = limits[:, 0]
        self.upper: FloatArray = limits[:, 1]
        self._regulariser = damping**2 * np.eye(6)
        self._jacobian = np.zeros((6, self._model.nv))
        # MuJoCo's arrays, looked up once: a view of them costs as much as the kinematics.
        self._qpos = self._data.qpos
        self._position, self._rotation = self._data.site_xpos[self._site], self._data.site_xmat[self._site]

    def forward(self, joints: FloatArray) -> Pose:
        """The tool's pose for joint angles (6,) [rad]."""
        self._qpos[self._dofs] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return Pose(self._position.copy(), self._rotation.reshape(3, 3).copy())

    def jacobian(self, joints: FloatArray) -> FloatArray:
        """d(position [m], rotation [rad]) / d(joints [rad]) in the world frame, (6, 6)."""
        self.forward(joints)
        return self._jacobian_here()

    def _jacobian_here(self) -> FloatArray:
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._dofs]

    def inverse(
        self, target: Pose, start: FloatArray, iterations: int = 12, tolerance: float = 1e-5
    ) -> tuple[FloatArray, float]:
        """Joint angles (6,) [rad] near `start` (6,) whose tool pose is closest to `target`.

        Damped least squares, dq = J^T (J J^T + lambda^2 I)^-1 e with e = (dp [m], dr [rad]), each
        iterate clipped to the joint limits.

        Returns:
            The joints, and the remaining error |e| (metres and radians added in quadrature): large
            when the target is out of reach.
        """
        joints, error = np.clip(start, self.lower, self.upper), math.inf
        for iteration in range(iterations + 1):
            pose = self.forward(joints)
            twist = np.concatenate(
                [target.position - pose.position, rotation_vector(target.rotation @ pose.rotation.T)]
            )
            error = math.sqrt(twist @ twist)
            if error < tolerance or iteration == iterations:
                break
            jacobian = self._jacobian_here()
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + self._regulariser, twist)
            joints = np.minimum(np.maximum(joints + step, self.lower), self.upper)  # np.clip takes 4 us more
        return joints, error
