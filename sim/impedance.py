"""Cartesian impedance: springs and dampers between the tool and where it should be.

It stands alone: it needs a compiled scene that includes the arm and nothing of this package's environments.

    impedance = CartesianImpedance(model, data, ImpedanceConfig(translation=300.0))
    impedance.set_stiffness([50, 800, 800, 10, 10, 10])            # [N/m] x 3, [N m/rad] x 3, any time
    impedance.step(target, finger_travel=0.02, physics_steps=10)   # target: `Pose` of the tool, world frame
    impedance.error(target), impedance.velocity(), impedance.wrench(target), impedance.energy(target)

Making one turns the arm's six position servos of `model` into torque motors (the driver's current mode);
the fingers keep their position servo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError
from sim.arm_model import WIDOWX_250S, ArmModel, links
from sim.kinematics import TOOL_SITE, Pose, rotation_vector
from sim.spec import FloatArray

_SINGULAR = 1e-2
"""Added to the inverse operational-space inertia [1/kg, 1/(kg m^2)]: bounds it where the arm is singular."""


@dataclass(frozen=True)
class ImpedanceConfig:
    """Springs and dampers between the tool and its target.

    Attributes:
        translation: stiffness along each world axis [N/m].
        rotation: stiffness about each world axis [N m/rad].
        damping_ratio: 1 = critically damped for the arm's inertia at its present pose.
        translation_range, rotation_range: what a variable stiffness may be, same units, low > 0.
    """

    translation: float = 400.0
    rotation: float = 30.0
    damping_ratio: float = 1.0
    translation_range: tuple[float, float] = (30.0, 1500.0)
    rotation_range: tuple[float, float] = (2.0, 60.0)

    def __post_init__(self) -> None:
        for name in ("translation", "rotation"):
            low, high = getattr(self, f"{name}_range")
            if not 0 < low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"impedance {name}={getattr(self, name)} with range {low} .. {high}; "
                    "expected 0 < low <= stiffness <= high"
                )
        if not 0 < self.damping_ratio <= 2:
            raise ConfigError(f"damping_ratio={self.damping_ratio}; expected 0 < ratio <= 2")

    def stiffness(self, action: npt.ArrayLike) -> FloatArray:
        """Stiffness (6,) for x, y, z and all rotations (4,) in [-1, 1]; the logarithm is linear in it."""
        share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1) / 2
        if share.shape != (4,):
            raise ConfigError(f"stiffness action has shape {share.shape}; expected (4,)")
        ranges = np.log([self.translation_range] * 3 + [self.rotation_range])
        values = np.exp(ranges[:, 0] + share * (ranges[:, 1] - ranges[:, 0]))
        return np.array([*values[:3], *[values[3]] * 3])

    @property
    def neutral_action(self) -> FloatArray:
        """What `stiffness` maps to `translation` and `rotation` (4,)."""
        shares = [
            math.log(value / low) / math.log(high / low) if high > low else 0.5
            for value, (low, high) in (
                (self.translation, self.translation_range),
                (self.rotation, self.rotation_range),
            )
        ]
        return 2 * np.array([shares[0]] * 3 + [shares[1]]) - 1


class CartesianImpedance:
    """tau = J^T (K (x_d - x) - D J dq), clamped to the efforts, on top of the model's gravity compensation.

    Hogan, "Impedance control" (1985). K is diagonal in the world frame. D = 2 z Q sqrt(B) Q^T with the
    operational-space inertia L = Q Q^T and K = Q B Q^T (Albu-Schaeffer et al., 2003, eq. 28) is positive
    semidefinite and damps every direction with the same ratio z. Coriolis forces are not cancelled: that
    would cost the passivity of the arm towards what it touches. Torques are renewed at every physics step.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        config: ImpedanceConfig | None = None,
        arm: ArmModel = WIDOWX_250S,
    ) -> None:
        self.model, self.data, self.config = model, data, config or ImpedanceConfig()
        self._site = model.site(TOOL_SITE).id
        self._dofs = np.array([model.joint(name).dofadr[0] for name in arm.joints])
        self._motors = np.array([model.actuator(name).id for name in arm.joints])
        self._gripper = int(model.actuator("gripper").id)
        self._jacobian = np.zeros((6, model.nv))
        self._inertia = np.zeros((6, model.nv))
        self._units = np.eye(model.nv)[self._dofs]
        self._damping = np.zeros((6, 6))
        self.effort: FloatArray = model.actuator_forcerange[self._motors, 1].copy()
        """Largest torque of each joint [N m], (6,); what compensates gravity is part of it."""
        retune(model, self._motors, np.ones(6), np.zeros((6, 3)), self.effort)
        # No servo stiffness hides any weight now, not even that of the fingers.
        model.body_gravcomp[links(model, arm)] = 1.0
        model.body_gravcomp[[model.body(f"{side}_finger_link").id for side in ("left", "right")]] = 1.0
        self.set_stiffness([self.config.translation] * 3 + [self.config.rotation] * 3)

    @property
    def stiffness(self) -> FloatArray:
        """Diagonal of K (6,): [N/m] along x, y, z, [N m/rad] about x, y, z of the world."""
        return self._stiffness.copy()

    def set_stiffness(self, stiffness: npt.ArrayLike) -> None:
        """Put in a new K (6,), units of `stiffness`.

        Raises:
            ConfigError: wrong shape, or outside the config's ranges.
        """
        values = np.asarray(stiffness, np.float64)
        ranges = np.array([self.config.translation_range] * 3 + [self.config.rotation_range] * 3)
        slack = 1e-9 * ranges
        if values.shape != (6,) or not np.all(
            (values >= (ranges - slack)[:, 0]) & (values <= (ranges + slack)[:, 1])
        ):
            raise ConfigError(
                f"stiffness {values.tolist()}; expected six numbers, three in "
                f"{self.config.translation_range} N/m, three in {self.config.rotation_range} N m/rad"
            )
        self._stiffness: FloatArray = values

    def error(self, target: Pose) -> FloatArray:
        """x_d - x (6,): offset [m] and rotation vector [rad] from the tool to `target`, world frame."""
        position, rotation = self.data.site_xpos[self._site], self.data.site_xmat[self._site].reshape(3, 3)
        return np.concatenate([target.position - position, rotation_vector(target.rotation @ rotation.T)])

    def velocity(self) -> FloatArray:
        """Twist of the tool (6,): [m/s] and [rad/s], world frame."""
        return self._tool_jacobian() @ self.data.qvel[self._dofs]

    def wrench(self, target: Pose) -> FloatArray:
        """What springs and dampers put on the tool (6,): force [N] and torque [N m], world frame."""
        return self._stiffness * self.error(target) - self._damping @ self.velocity()

    def energy(self, target: Pose) -> float:
        """Energy stored in the springs, e^T K e / 2 [J]."""
        error = self.error(target)
        return 0.5 * float(error @ (self._stiffness * error))

    def torque(self, target: Pose) -> FloatArray:
        """Joint torques (6,) [N m], each within `effort`. Needs up to date poses (`mujoco.mj_step1`)."""
        jacobian = self._tool_jacobian()
        wrench = self._stiffness * self.error(target) - self._damping @ (
            jacobian @ self.data.qvel[self._dofs]
        )
        torque: FloatArray = (jacobian.T @ wrench).clip(-self.effort, self.effort)
        return torque

    def step(self, target: Pose, finger_travel: float, physics_steps: int) -> None:
        """Let `physics_steps` pass with the tool drawn to `target`, the fingers to `finger_travel` [m]."""
        self.data.ctrl[self._gripper] = finger_travel
        for index in range(physics_steps):
            mujoco.mj_step1(self.model, self.data)
            if index == 0:
                self._damping = self._critical_damping()
            self.data.ctrl[self._motors] = self.torque(target)
            mujoco.mj_step2(self.model, self.data)

    def _tool_jacobian(self) -> FloatArray:
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._dofs]

    def _critical_damping(self) -> FloatArray:
        """D (6, 6) [N s/m, N m s/rad] for the present pose and stiffness."""
        jacobian = self._tool_jacobian()
        for row, unit in zip(self._inertia, self._units, strict=True):
            mujoco.mj_mulM(self.model, self.data, row, unit)
        inertia = self._inertia[:, self._dofs]
        mobility = jacobian @ np.linalg.solve(inertia, jacobian.T) + _SINGULAR * np.eye(6)
        # With the Cholesky factor C C^T = L^-1: C^T K C = U B U^T, Q = C^-T U gives L = Q Q^T, K = Q B Q^T.
        factor = np.linalg.cholesky(mobility)
        eigenvalues, vectors = np.linalg.eigh(factor.T @ (self._stiffness[:, None] * factor))
        modes = np.linalg.solve(factor.T, vectors)
        return 2 * self.config.damping_ratio * (modes * np.sqrt(np.maximum(eigenvalues, 0))) @ modes.T


def retune(
    model: mujoco.MjModel,
    actuators: npt.NDArray[np.int_],
    gain: FloatArray,
    bias: FloatArray,
    limit: FloatArray,
) -> None:
    """Force = gain (6,) ctrl + bias (6, 3) . (1, q, dq) of six actuators, with |ctrl| <= limit (6,)."""
    model.actuator_gainprm[actuators, 0] = gain
    model.actuator_biasprm[actuators, :3] = bias
    model.actuator_ctrlrange[actuators] = np.stack([-limit, limit], axis=1)
