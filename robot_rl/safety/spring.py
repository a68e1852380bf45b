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
from robot_rl.safety.tank import EnergyTank

Floats = npt.NDArray[np.float64]
HUGE = 1e9
"""Numbers whose magnitudes add up to more are no measurement and no command: treated as not finite."""
RESERVE = 1e-12
"""Left in the tank by every draw [J], so that rounding cannot take it below its floor."""


def finite(values: Any, size: int) -> tuple[list[float], str]:
    """`values` as `size` plain floats with the reason ""; or no floats and what is wrong with them."""
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


class Spring:
    """The energy accounts of J servos, in error coordinates: all a port needs but its kinematics."""

    def __init__(self, config: PassivityConfig, joints: int) -> None:
        self.config = config
        start = config.tank_max_j if config.tank_start_j is None else config.tank_start_j
        self.tank = EnergyTank(config.tank_min_j, config.tank_max_j, start)
        columns = [config.per_joint(name, joints) for name in ("leash", "torque_limit", "max_speed")]
        self._leash, self._torque, self._speed = columns
        self._leak = [config.leak_time(joint, joints) for joint in range(joints)]
        self._stiffest = [
            min(most, damping / leak)  # K needs a damping of K leak, which must be there
            for most, damping, leak in zip(
                config.per_joint("max_stiffness", joints),
                config.per_joint("max_damping", joints),
                self._leak,
                strict=True,
            )
        ]
        self._damped = config.per_joint("max_damping", joints)
        self._inertia = config.per_joint("inertia", joints) if config.inertia is not None else []
        self._power = config.power_w
        self._draw = math.inf if config.max_power_w is None else config.max_power_w
        self.stiffness = [0.0] * joints
        self.damping = [0.0] * joints
        self.error = [0.0] * joints
        """After the last step: where the next period's motion starts from."""

    def start(self, error: list[float], stiffness: list[float], damping: list[float]) -> None:
        """New books; what the springs hold now is given, not drawn."""
        start = self.config.tank_start_j
        self.tank.reset(self.config.tank_max_j if start is None else start)
        self.error, self.stiffness, self.damping = error, stiffness, damping

    def energy(self, error: list[float]) -> float:
        """e'Ke/2 [J]."""
        return 0.5 * sum(k * e * e for k, e in zip(self.stiffness, error, strict=True))

    def dissipated(self, error: list[float], moved: list[float], elapsed: float) -> float:
        """What the servos surely dissipated, net of their sampling leak, while they `moved` so far [J]. (1)

        Without a torque limit (D - K h/2) x^2 / t. With one, the damper may have been cut short: what is
        left of min((D - K h) v^2, m v), m the torque to spare, by its convex minorant: (1b).
        """
        h, total = self.config.servo_period_s, 0.0
        for i, x in enumerate(moved):
            if x == 0.0:
                continue
            k, d, torque = self.stiffness[i], self.damping[i], self._torque[i]
            way = abs(x)
            if way > self._speed[i] * elapsed:  # faster than the joint can be: nothing is sure
                continue
            if torque == math.inf:
                net = d - 0.5 * h * k
                if net > 0.0:
                    total += net * way * way / elapsed
                continue
            start, end = (self.error[i], error[i]) if x > 0.0 else (-self.error[i], -error[i])
            net, spare = d - h * k, torque + k * min(end, start)
            if net > 0.0 and spare > 0.0 and k * start <= torque * (1.0 + 1e-9):
                knee = 0.5 * spare * elapsed / net
                total += net * way * way / elapsed if way <= knee else spare * (way - 0.5 * knee)
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
        budget = self._draw * self.config.period_s
        reason = ""

        # (2) The leash, and whatever softens: both only return energy. `rise` is what stiffening costs.
        error = error.copy()
        held, reach, goals = self.stiffness, [], []
        returned = rise = 0.0
        for i, e in enumerate(error):
            k, goal = held[i], min(max(0.0, stiffness[i]), self._stiffest[i])
            if goal != stiffness[i]:
                reason = "energy"
            torque = self._torque[i]
            far = min(self._leash[i], torque / max(k, goal)) if k + goal > 0.0 else self._leash[i]
            if abs(e) > far:
                pull = abs(e)
                before = 0.5 * k * e * e
                if k * pull > torque:  # a saturated spring holds less than a linear one would
                    before = torque * (pull - 0.5 * torque / k)
                error[i] = e = math.copysign(far, e)
                returned += before - 0.5 * k * e * e
            change = 0.5 * (goal - k) * e * e
            if goal <= k:
                returned -= change
            else:
                rise += change
            reach.append(far)
            goals.append(goal)
        if returned > 0.0:
            tank.settle(-returned)

        # (3) Stiffening, as far as the tank pays for it.
        available = min(tank.level - tank.minimum - RESERVE, budget)
        share_k = 1.0
        if rise > 0.0 and rise > available:
            share_k = max(0.0, available) / rise
            reason = "energy"
        cost = 0.0
        now = []
        for k, goal, e in zip(held, goals, error, strict=True):
            new = goal if goal <= k or share_k == 1.0 else k + share_k * (goal - k)
            if new > k:
                cost += 0.5 * (new - k) * e * e
            now.append(new)
        if cost > 0.0:
            tank.settle(cost)
            budget -= cost
        self.stiffness = now

        # (4) The way to the setpoint, as far as the tank pays for it.
        a = b = 0.0
        leashed = False
        way, targets = [], []
        for k, e, far, target in zip(now, error, reach, wanted, strict=True):
            if not -far <= target <= far:
                target = math.copysign(far, target)
                leashed = True
            d = target - e
            a += k * d * e
            b += k * d * d
            way.append(d)
            targets.append(target)
        share = 1.0
        available = min(tank.level - tank.minimum - RESERVE, budget)
        if a + 0.5 * b > max(0.0, available):
            share = largest_share(a, b, max(0.0, available))
            targets = [e + share * d for e, d in zip(error, way, strict=True)]
            reason = "energy"
        elif leashed and not reason:
            reason = "leash"
        tank.settle(share * (a + 0.5 * share * b))

        # (5) Enough damping that the sampled spring does not leak.
        floors = []
        for k, d, leak, most in zip(now, damping, self._leak, self._damped, strict=True):
            floor = max(min(d, most), k * leak)
            if floor != d:
                reason = "energy"
            floors.append(floor)
        self.damping = floors

        if self._inertia:
            targets, capped = self._cap(targets, moved, elapsed or self.config.period_s)
            reason = "energy" if capped else reason
        self.error = targets
        return targets, share, share_k, reason

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
