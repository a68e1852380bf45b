"""The other ports of the same tank: a Cartesian spring with a rotation, and bare joint torques.

A Cartesian spring without a rotation (a peg in a plane, a tool kept upright) needs nothing of this: its
displacements add like joint angles, so it is a `PassivityFilter` with metres for radians.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError, DataError
from robot_rl.safety.passivity_config import PassivityConfig
from robot_rl.safety.spring import Floats, Spring, finite
from robot_rl.safety.tank import RESERVE, EnergyTank


class CartesianFiltered(NamedTuple):
    """What the impedance controller gets for one period; the rest as in `Filtered`."""

    position: Floats
    """Executed setpoint (3,) [m]."""
    rotation: Floats
    """Executed setpoint (3, 3)."""
    stiffness: Floats
    """(6,): [N/m] along x, y, z, [Nm/rad] about them, these three equal."""
    damping: Floats
    """(6,): [N s/m] along x, y, z, [Nm s/rad] about them, these three equal."""
    scale: float
    tank: float
    reason: str
    stiffness_scale: float
    spring: float
    latched: bool


class CartesianPassivityFilter:
    """The port of a Cartesian impedance, F = K e - D v with e = (x_d - x, log(R_d R')) in the world frame.

    The rotation vector is the gradient of half its squared length only for one stiffness in all directions:
    of three different ones the least is executed. Setpoints move along e + s (e_requested - e), where the
    spring's energy is exactly quadratic; the geodesics of SO(3) spread no faster than straight lines, so
    the sampling leak and the refill of the joint port bound those of the rotation too (docs/safety.md).
    """

    def __init__(self, config: PassivityConfig | None = None) -> None:
        self.config = config or PassivityConfig()
        self._spring = Spring(self.config, 6)
        self._pose: list[Floats] = []
        self._target: list[Floats] = []
        self._fault, self._held, self._running = "", False, False

    @property
    def tank(self) -> EnergyTank:
        """The tank and its books."""
        return self._spring.tank

    def reset(
        self,
        pose: tuple[npt.ArrayLike, npt.ArrayLike],
        setpoint: tuple[npt.ArrayLike, npt.ArrayLike],
        stiffness: npt.ArrayLike,
        damping: npt.ArrayLike,
    ) -> None:
        """Start with `setpoint` applied at `pose`, each a position (3,) [m] and a rotation (3, 3).

        Raises:
            DataError: not six finite gains, or no pose.
        """
        parts = [_pose(pose), _pose(setpoint)]
        gains = [finite(values, 6) for values in (stiffness, damping)]
        if not all(parts) or any(wrong for _, wrong in gains):
            raise DataError(
                f"cartesian filter cannot start at {pose!r} with setpoint {setpoint!r}, "
                f"stiffness {stiffness!r}, damping {damping!r}; expected positions (3,), rotations (3, 3) "
                "and gains (6,), all finite"
            )
        self._pose, self._target = parts
        self._spring.start(_offset(*parts), *(_isotropic(values) for values, _ in gains))
        self._fault, self._held, self._running = "", False, False

    def step(
        self,
        *,
        pose: tuple[npt.ArrayLike, npt.ArrayLike],
        setpoint: tuple[npt.ArrayLike, npt.ArrayLike],
        stiffness: npt.ArrayLike,
        damping: npt.ArrayLike,
        elapsed_s: float | None = None,
    ) -> CartesianFiltered:
        """What the controller gets for the coming period; arguments and faults as in `PassivityFilter.step`.

        Raises:
            DataError: before the first reset, and only then.
        """
        if not self._pose:
            raise DataError("cartesian filter was never reset; expected reset(pose, setpoint, ...) first")
        where, asked = _pose(pose), _pose(setpoint)
        gains = [finite(values, 6) for values in (stiffness, damping)]
        wrong = "" if where and asked else "non_finite"
        wrong = wrong or next((reason for _, reason in gains if reason), "") or self._fault
        spring = self._spring
        if wrong:
            self._fault = self._fault or wrong
            if where and not self._held:
                self._pose, self._target, spring.error = where, where, [0.0] * 6
                self._held = True
            return self._result(0.0, 0.0, self._fault)
        period = self.config.period_s
        elapsed = meter = period if self._running else 0.0
        if elapsed_s is not None:
            known = 0.0 <= elapsed_s < math.inf
            elapsed, meter = (max(period, elapsed_s), elapsed_s) if known else (0.0, 0.0)
        self._running = True
        wanted = _offset(where, asked)
        before, moved = _offset(where, self._target), _offset(self._pose, where)
        stiff, damped = (_isotropic(values) for values, _ in gains)
        error, share, share_k, reason = spring.step(before, moved, wanted, stiff, damped, elapsed, meter)
        self._pose = where
        self._target = asked if error == wanted else _displaced(where, error)
        return self._result(share, share_k, reason)

    def _result(self, share: float, share_k: float, reason: str) -> CartesianFiltered:
        spring = self._spring
        return CartesianFiltered(
            self._target[0].copy(),
            self._target[1].copy(),
            np.array(spring.stiffness),
            np.array(spring.damping),
            share,
            spring.tank.level,
            reason,
            share_k,
            spring.energy(spring.error),
            self._fault != "",
        )


def impedance_torque(
    jacobian: Floats, error: Floats, velocity: Floats, stiffness: Floats, damping: Floats
) -> Floats:
    """J'(K e - D J dq): the joint torques (J,) [Nm] of a Cartesian spring.

    Args:
        jacobian: of the tool (6, J). error: (6,) [m], [rad]. velocity: of the joints (J,) [rad/s].
        stiffness, damping: (6,).
    """
    return jacobian.T @ (stiffness * error - damping * (jacobian @ velocity))


def rotation_vector(rotation: Floats) -> Floats:
    """log of a rotation (3, 3): axis times angle (3,) [rad], the angle in [0, pi]."""
    skew = 0.5 * np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(skew)), 0.5 * (float(np.trace(rotation)) - 1.0)
    angle = math.atan2(sine, cosine)
    if cosine > -0.99:
        return skew * (angle / sine if sine > 1e-9 else 1.0)
    # Near pi the axis stands in the symmetric part, 1 + cos (R + R')/2 = (1 - cos) a a' up to the identity.
    outer = (0.5 * (rotation + rotation.T) - cosine * np.eye(3)) / (1.0 - cosine)
    axis = outer[int(np.argmax(np.diag(outer)))]
    axis = axis / np.linalg.norm(axis)
    return axis * (angle if float(axis @ skew) >= 0.0 else -angle)


def rotation_matrix(vector: npt.ArrayLike) -> Floats:
    """exp of a rotation vector (3,) [rad] (Rodrigues)."""
    x, y, z = np.asarray(vector, np.float64)
    angle = math.sqrt(x * x + y * y + z * z)
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    first = math.sin(angle) / angle if angle > 1e-9 else 1.0
    second = (1.0 - math.cos(angle)) / angle**2 if angle > 1e-5 else 0.5
    return np.eye(3) + first * skew + second * (skew @ skew)


def _pose(pose: Any) -> list[Floats]:
    """Position (3,) and rotation (3, 3), or nothing if `pose` is none."""
    try:
        position, rotation = (np.array(part, np.float64) for part in pose)
    except (TypeError, ValueError, OverflowError):
        return []
    if position.shape != (3,) or rotation.shape != (3, 3):
        return []
    if not np.isfinite(position).all() or not np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-6:
        return []
    return [position, rotation]


def _offset(start: list[Floats], end: list[Floats]) -> list[float]:
    """(6,) from one pose to another, world frame."""
    turn = rotation_vector(end[1] @ start[1].T)
    return [*(end[0] - start[0]).tolist(), *turn.tolist()]


def _displaced(pose: list[Floats], offset: list[float]) -> list[Floats]:
    return [pose[0] + offset[:3], rotation_matrix(offset[3:]) @ pose[1]]


def _isotropic(gains: list[float]) -> list[float]:
    return gains[:3] + [min(gains[3:])] * 3


class FilteredTorque(NamedTuple):
    """What the motors get for one period."""

    torque: Floats
    """Executed (J,) [Nm], on top of gravity compensation."""
    scale: float
    """Share in [0, 1] of the requested torque."""
    tank: float
    """Energy in the tank [J], before the work of the coming period."""
    reason: str
    """One of `schema.FILTER_REASONS`: "", `energy`, `non_finite` or `wrong_shape`."""
    latched: bool


class TorquePassivityFilter:
    """The torque port: reserve before, settle after.

    A torque held over a period does exactly the work tau'dq, whatever happens in between, so H + tank is
    conserved but for dissipation, with no model of the arm. Before it is let out, sum |tau_i| v_max_i dt
    must be in the tank; so the tank stays above its floor as long as no joint is faster than `max_speed`
    and no step later than `period_s`. If one is, the tank pays in full, and nothing more goes out until
    the debt is worked off.

    Raises:
        ConfigError: the config has no `max_speed`, or a cap at contact.
    """

    def __init__(self, config: PassivityConfig) -> None:
        if config.max_speed is None:
            raise ConfigError("torque port: max_speed is None; expected rad/s of each joint")
        if config.contact_energy_j is not None:
            raise ConfigError(
                f"torque port: contact_energy_j is {config.contact_energy_j}; expected None: there is no "
                "spring to relax. Limit tank_max_j instead"
            )
        self.config = config
        start = config.tank_max_j if config.tank_start_j is None else config.tank_start_j
        self.tank = EnergyTank(config.tank_min_j, config.tank_max_j, start)
        self._speed: list[float] = []
        self._position: list[float] = []
        self._torque: list[float] = []
        self._fault = ""

    def reset(self, q: npt.ArrayLike) -> None:
        """Start without torque at position `q` (J,).

        Raises:
            DataError: `q` is not finite. ConfigError: the config is for another number of joints.
        """
        joints = int(np.size(q))
        position, wrong = finite(q, joints)
        if wrong or not joints:
            raise DataError(f"torque filter cannot start at q={q!r}; expected finite positions (J,)")
        self._speed = self.config.per_joint("max_speed", joints)
        self._limit = self.config.per_joint("torque_limit", joints)
        self._position, self._torque, self._fault = position, [0.0] * joints, ""
        start = self.config.tank_start_j
        self.tank.reset(self.config.tank_max_j if start is None else start)

    def step(
        self, *, q: npt.ArrayLike, torque: npt.ArrayLike, elapsed_s: float | None = None
    ) -> FilteredTorque:
        """The torque (J,) for the coming period; anything not finite latches it to zero.

        Raises:
            DataError: before the first reset, and only then.
        """
        if not self._speed:
            raise DataError("torque filter was never reset; expected reset(q) first")
        period, joints = self.config.period_s, len(self._speed)
        where, wrong = finite(q, joints)
        if wrong:  # the work is unknown: take the most it can have been
            self.tank.settle(self._reserve(self._torque))
        else:
            pairs = zip(self._torque, where, self._position, strict=True)
            self.tank.settle(sum(t * (x - y) for t, x, y in pairs))
            self._position = where
        asked, wrong_torque = finite(torque, joints)
        self._fault = self._fault or wrong or wrong_torque
        if self._fault:
            self._torque = [0.0] * joints
            return FilteredTorque(np.zeros(joints), 0.0, self.tank.level, self._fault, True)
        known = elapsed_s is not None and 0.0 <= elapsed_s < math.inf
        self.tank.meter(self.config.power_w * (elapsed_s if known and elapsed_s is not None else period))
        limited = [min(max(t, -most), most) for t, most in zip(asked, self._limit, strict=True)]
        most_w = math.inf if self.config.max_power_w is None else self.config.max_power_w
        available = max(0.0, min(self.tank.available - RESERVE, most_w * period))
        need = self._reserve(limited)
        scale = 1.0 if need <= available else available / need
        self._torque = limited if scale == 1.0 else [scale * t for t in limited]
        reason = "" if self._torque == asked else "energy"
        return FilteredTorque(np.array(self._torque), scale, self.tank.level, reason, False)

    def _reserve(self, torque: list[float]) -> float:
        """Most work that `torque` can do in a period [J]."""
        return self.config.period_s * sum(abs(t) * v for t, v in zip(torque, self._speed, strict=True))
