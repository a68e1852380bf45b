"""The energy accounts of a spring whose setpoint, stiffness and damping a policy may ask for.

One port, in error coordinates: a servo pulls with K e - D v, where e = setpoint - position and K, D are
diagonal, and `Spring.step` decides which e, K, D it gets for the next period. The derivation, its proof and
its assumptions are in docs/safety.md; the equation numbers are those of that page. J joints.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.safety.passivity_config import PassivityConfig
from robot_rl.safety.tank import RESERVE, EnergyTank

Floats = npt.NDArray[np.float64]
_FLOAT64 = np.dtype(np.float64)
HUGE = 1e9
"""Numbers whose magnitudes add up to more are no measurement and no command: treated as not finite."""


def finite(values: Any, size: int) -> tuple[list[float], str]:
    """`values` as `size` plain floats with the reason ""; or no floats and what is wrong with them."""
    array = values
    if type(array) is not np.ndarray or array.dtype is not _FLOAT64:
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            return [], "wrong_shape"
    if array.shape != (size,):
        return [], "wrong_shape"
    numbers: list[float] = array.tolist()
    return (numbers, "") if sum(map(abs, numbers)) <= HUGE else ([], "non_finite")


def largest_share(a: float, b: float, available: float) -> float:
    """The largest s in [0, 1] with s a + s^2 b / 2 <= `available`, for b >= 0 and `available` >= 0. (4)

    s a + s^2 b / 2 [J] is what it costs to go the share s of the way; s = 0 is always feasible.
    """
    if a + 0.5 * b <= available:
        return 1.0
    root = math.hypot(a, math.sqrt(2.0 * available) * math.sqrt(b))
    share = 2.0 * available / (a + root) if a > 0.0 else (root - a) / b
    return share if 0.0 <= share <= 1.0 else 0.0


def _spring_energy(stiffness: float, error: float, torque: float) -> float:
    """Least energy in a spring whose pull may be cut at `torque` or anywhere above [J]. (2)"""
    if stiffness * abs(error) > torque:
        return torque * (abs(error) - 0.5 * torque / stiffness)
    return 0.5 * stiffness * error * error


class Spring:
    """The energy accounts of J servos, in error coordinates: all a port needs but its kinematics."""

    def __init__(self, config: PassivityConfig, joints: int) -> None:
        self.config = config
        start = config.tank_max_j if config.tank_start_j is None else config.tank_start_j
        self.tank = EnergyTank(config.tank_min_j, config.tank_max_j, start)
        self._leash = config.per_joint("leash", joints)
        torques = config.per_joint("torque_limit", joints)
        self._floor = [config.leak_time(joint, joints) for joint in range(joints)]
        # Torque limit, speed limit, and what the sampling of the spring takes of the damping (1).
        self._servos = list(zip(torques, config.per_joint("max_speed", joints), self._floor, strict=True))
        self._stiffest = [
            min(most, damping / floor)  # K needs a damping of K floor, which must be there
            for most, damping, floor in zip(
                config.per_joint("max_stiffness", joints),
                config.per_joint("max_damping", joints),
                self._floor,
                strict=True,
            )
        ]
        self._damped = config.per_joint("max_damping", joints)
        self._inertia = config.per_joint("inertia", joints) if config.inertia is not None else []
        self._power = config.power_w
        self._budget = math.inf if config.max_power_w is None else config.max_power_w * config.period_s
        self.stiffness = [0.0] * joints
        self.damping = [0.0] * joints
        self.error = [0.0] * joints
        """After the last step: where the next period's motion starts from."""
        self._set_reach()

    def start(self, error: list[float], stiffness: list[float], damping: list[float]) -> None:
        """New books; what the springs hold now is given, not drawn."""
        start = self.config.tank_start_j
        self.tank.reset(self.config.tank_max_j if start is None else start)
        self.error, self.stiffness, self.damping = error, stiffness, damping
        self._set_reach()

    def energy(self, error: list[float]) -> float:
        """e'Ke/2 [J]."""
        total = 0.0
        for k, e in zip(self.stiffness, error, strict=True):
            total += k * e * e
        return 0.5 * total

    def dissipated(self, error: list[float], moved: list[float], elapsed: float) -> float:
        """What the servos surely dissipated, net of their sampling leak, while they `moved` so far [J]. (1)

        Without a torque limit (D - K h/2) x^2 / t. With one, the damper may have been cut short: what is
        left of min((D - K h) v^2, m v), m the torque to spare, by its convex minorant: (1b).
        """
        total = 0.0
        for x, k, d, start, end, (torque, speed, leak) in zip(
            moved, self.stiffness, self.damping, self.error, error, self._servos, strict=True
        ):
            way = abs(x)
            net = d - k * leak
            if net <= 0.0 or way == 0.0 or way > speed * elapsed:
                continue  # faster than the joint can be: nothing is sure
            full = net * way * way / elapsed
            if torque < math.inf:
                if x < 0.0:
                    start, end = -start, -end
                spare = torque + k * min(start, end)
                if spare <= 0.0 or k * start > torque * (1.0 + 1e-9):
                    continue
                knee = 0.5 * spare * elapsed / net
                if way > knee:
                    full = spare * (way - 0.5 * knee)
            total += full
        return self.config.refill * total

    def step(
        self,
        error: list[float],
        moved: list[float],
        wanted: list[float],
        stiffness: list[float],
        damping: list[float],
        elapsed: float,
        meter: float,
    ) -> tuple[list[float], float, float, str]:
        """Advance by one period.

        Args:
            error: measured now, before anything changes (J,).
            moved: of the position since the last step (J,).
            wanted: the error that the request asks for (J,). stiffness, damping: requested (J,).
            elapsed: time since the last step [s]; 0 if unknown: nothing is refilled.
            meter: time to meter energy for [s].

        Returns:
            The error to have (J,), the share of the way, the share of the rise in stiffness, the reason.
        """
        tank = self.tank
        if elapsed > 0.0:
            tank.refill(self.dissipated(error, moved, elapsed))
        if self._power:
            tank.meter(self._power * meter)
        before = tank.drawn
        changed = False
        share_k = 1.0
        if stiffness != self.stiffness or damping != self.damping:
            changed, share_k, error = self._retune(error, stiffness, damping)

        # (2) The leash only ever returns energy. (4) The way to the setpoint costs s a + s^2 b / 2.
        a = b = returned = 0.0
        leashed = False
        starts, goals = error, wanted  # copied only if the leash bites
        for i, (k, e, goal, far) in enumerate(zip(self.stiffness, error, wanted, self._reach, strict=True)):
            if not -far <= e <= far:
                end = far if e > 0.0 else -far
                returned += _spring_energy(k, e, self._servos[i][0]) - 0.5 * k * end * end
                if starts is error:
                    starts = error.copy()
                starts[i] = e = end
            if not -far <= goal <= far:
                if goals is wanted:
                    goals = wanted.copy()
                goals[i] = goal = far if goal > 0.0 else -far
                leashed = True
            d = goal - e
            pull = k * d
            a += pull * e
            b += pull * d
        if returned > 0.0:
            tank.settle(-returned)
        available = min(tank.level - tank.minimum - RESERVE, self._budget - (tank.drawn - before))
        share = 1.0
        if a + 0.5 * b > available:
            share = largest_share(a, b, max(0.0, available))
            goals = [e + share * (goal - e) for e, goal in zip(starts, goals, strict=True)]
        tank.settle(share * (a + 0.5 * share * b))
        reason = "energy" if changed or share < 1.0 else "leash" if leashed else ""
        if self._inertia:
            goals, capped = self._cap(goals, moved, elapsed or self.config.period_s)
            reason = "energy" if capped else reason
        self.error = goals
        return goals, share, share_k, reason

    def _retune(
        self, error: list[float], stiffness: list[float], damping: list[float]
    ) -> tuple[bool, float, list[float]]:
        """(3) New stiffness as far as the tank pays for it, (5) and the damping that it needs.

        Returns:
            Whether that differs from the request, the share of the rise, the error on its new leash.
        """
        tank = self.tank
        changed = False
        returned = rise = 0.0
        goals, bounded = [], []
        for k, asked, e, most, leash, (torque, _, _) in zip(
            self.stiffness, stiffness, error, self._stiffest, self._leash, self._servos, strict=True
        ):
            goal = min(max(0.0, asked), most)
            changed = changed or goal != asked
            top = max(k, goal)
            far = min(leash, torque / top) if top > 0.0 else leash
            if not -far <= e <= far:
                end = far if e > 0.0 else -far
                returned += _spring_energy(k, e, torque) - 0.5 * k * end * end
                e = end
            change = 0.5 * (goal - k) * e * e
            if change > 0.0:
                rise += change
            else:
                returned -= change
            goals.append(goal)
            bounded.append(e)
        if returned > 0.0:
            tank.settle(-returned)
        available = max(0.0, min(tank.level - tank.minimum - RESERVE, self._budget))
        share = 1.0 if rise <= available else available / rise
        if share < 1.0:
            changed = True
            goals = [
                goal if goal <= k else k + share * (goal - k)
                for k, goal in zip(self.stiffness, goals, strict=True)
            ]
            rise = 0.5 * sum(
                (goal - k) * e * e
                for k, goal, e in zip(self.stiffness, goals, bounded, strict=True)
                if goal > k
            )
        if rise > 0.0:
            tank.settle(rise)
        floors = [
            max(min(d, most), k * floor)
            for k, d, most, floor in zip(goals, damping, self._damped, self._floor, strict=True)
        ]
        changed = changed or floors != damping
        self.stiffness, self.damping = goals, floors
        self._set_reach()
        return changed, share, bounded

    def _set_reach(self) -> None:
        self._reach = [
            min(leash, torque / k) if k > 0.0 else leash
            for k, leash, (torque, _, _) in zip(self.stiffness, self._leash, self._servos, strict=True)
        ]

    def _cap(self, error: list[float], moved: list[float], elapsed: float) -> tuple[list[float], bool]:
        """Spill, then relax the springs, until kinetic + spring + available energy is under the cap. (6)"""
        cap = self.config.contact_energy_j
        assert cap is not None
        kinetic = 0.5 * sum(m * x * x for m, x in zip(self._inertia, moved, strict=True)) / elapsed**2
        spring = self.energy(error)
        room = cap - kinetic
        self.tank.keep(room - spring)
        if spring <= max(0.0, room):
            return error, False
        shrink = math.sqrt(max(0.0, room) / spring)
        return [e * shrink for e in error], True
