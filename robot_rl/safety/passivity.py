"""A discrete-time passivity filter: whatever a policy asks for, a spring gets no energy that is not there."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robot_rl.errors import DataError
from robot_rl.safety.passivity_config import PassivityConfig
from robot_rl.safety.spring import Floats, Spring, finite
from robot_rl.safety.tank import EnergyTank


class Filtered(NamedTuple):
    """What a filter lets through in one period, and why it differs from the request."""

    setpoint: Floats
    """Executed setpoint (J,) [rad or m]."""
    stiffness: Floats
    """Executed stiffness (J,) [Nm/rad or N/m]."""
    damping: Floats
    """Executed damping (J,) [Nm s/rad or N s/m]."""
    scale: float
    """Share in [0, 1] of the way to the requested setpoint (on its leash) that was executed."""
    tank: float
    """Energy in the tank after the step [J]."""
    reason: str
    """One of `schema.FILTER_REASONS`: "" if the request is executed unchanged; `non_finite` or `wrong_shape`
    if it latched; `leash` if only that cut the way; `energy` for all else that tank and servo demand."""
    stiffness_scale: float
    """Share in [0, 1] of the requested rise in stiffness that was executed."""
    spring: float
    """Energy in the springs after the step, e'Ke/2 [J]."""
    latched: bool
    """Stopped by a fault: holds the pose until `reset`."""


class PassivityFilter:
    """The joint-setpoint port.

    For every sequence of requests, and every passive environment, the total energy

        S = H + e'Ke/2 + tank + pending refill        (H: kinetic energy of the arm)

    rises from one step to the next by no more than the work done on the arm from outside (`passive`), plus
    `power_w` per second (`energy_bounded`), and the tank stays within its bounds. docs/safety.md has the
    proof and what it assumes of the servo.
    """

    def __init__(self, config: PassivityConfig | None = None) -> None:
        self.config = config or PassivityConfig()
        self._spring: Spring | None = None
        self._position: list[float] = []
        self._setpoint: list[float] = []
        self._fault = ""
        self._held = False
        self._running = False

    @property
    def tank(self) -> EnergyTank:
        """The tank and its books.

        Raises:
            DataError: before the first reset.
        """
        return self._started.tank

    @property
    def _started(self) -> Spring:
        if self._spring is None:
            raise DataError("passivity filter was never reset; expected reset(q, setpoint, ...) first")
        return self._spring

    def reset(
        self, q: npt.ArrayLike, setpoint: npt.ArrayLike, stiffness: npt.ArrayLike, damping: npt.ArrayLike
    ) -> None:
        """Start with `setpoint` (J,) applied at position `q` (J,), a fresh tank and no fault.

        Raises:
            DataError: a shape differs or a number is not finite. ConfigError: the config is for other joints.
        """
        joints = int(np.size(q))
        columns = {"q": q, "setpoint": setpoint, "stiffness": stiffness, "damping": damping}
        numbers = {}
        for name, values in columns.items():
            numbers[name], wrong = finite(values, joints)
            if wrong or not joints:
                raise DataError(
                    f"passivity filter cannot start with {name}={values!r} ({wrong or 'empty'}); "
                    f"expected {joints or 'some'} finite numbers"
                )
        spring = self._spring
        if spring is None or len(spring.error) != joints:
            spring = Spring(self.config, joints)
        error = [u - x for u, x in zip(numbers["setpoint"], numbers["q"], strict=True)]
        spring.start(error, numbers["stiffness"], numbers["damping"])
        self._spring = spring
        self._position, self._setpoint = numbers["q"], numbers["setpoint"]
        self._fault, self._held, self._running = "", False, False

    def step(
        self,
        *,
        q: npt.ArrayLike,
        setpoint: npt.ArrayLike,
        stiffness: npt.ArrayLike,
        damping: npt.ArrayLike,
        elapsed_s: float | None = None,
    ) -> Filtered:
        """What the servos get for the coming period.

        Args:
            q: position measured now (J,). setpoint, stiffness, damping: as requested (J,).
            elapsed_s: time since the last step or reset [s]; None: one period (unknown after a reset,
                when nothing is refilled or metered). A late step is thereby never credited too much.

        Whatever is not finite or has another shape latches the filter: the last good position is held, and
        nothing of it ever touches the tank.

        Raises:
            DataError: before the first reset, and only then.
        """
        joints = len(self._started.error)
        where, wrong = finite(q, joints)
        if wrong:
            return self._stop([], wrong)
        columns = []
        for values in (setpoint, stiffness, damping):
            numbers, wrong = finite(values, joints)
            if wrong:
                return self._stop(where, wrong)
            columns.append(numbers)
        if self._fault:
            return self._stop(where, self._fault)
        asked, stiff, damped = columns
        share, share_k, reason = self.advance(where, asked, stiff, damped, elapsed_s)
        return self._result(share, share_k, reason)

    def advance(
        self,
        where: list[float],
        setpoint: list[float],
        stiffness: list[float],
        damping: list[float],
        elapsed_s: float | None = None,
    ) -> tuple[float, float, str]:
        """`step` for numbers that are known to be finite: share of the way, of the stiffening, and reason."""
        spring, period = self._started, self.config.period_s
        if elapsed_s is None:
            elapsed = meter = period if self._running else 0.0
        else:
            known = 0.0 <= elapsed_s < math.inf
            elapsed, meter = (max(period, elapsed_s), elapsed_s) if known else (0.0, 0.0)
        self._running = True
        before = self._setpoint
        error = [u - x for u, x in zip(before, where, strict=True)]
        moved = [x - y for x, y in zip(where, self._position, strict=True)]
        wanted = [u - x for u, x in zip(setpoint, where, strict=True)]
        target, share, share_k, reason = spring.step(error, moved, wanted, stiffness, damping, elapsed, meter)
        # What was not changed stays as it was, bit for bit.
        self._setpoint = (
            setpoint
            if target == wanted
            else [
                asked if t == w else old if t == e else x + t
                for asked, old, x, t, w, e in zip(setpoint, before, where, target, wanted, error, strict=True)
            ]
        )
        self._position = where
        return share, share_k, reason

    def hold(self, q: list[float], setpoint: list[float]) -> None:
        """Somebody else moved the setpoint towards `q` (a stop): the spring's loss is nobody's gain."""
        self._position, self._setpoint = q, setpoint
        self._started.error = [u - x for u, x in zip(setpoint, q, strict=True)]

    def clip(self, q: list[float], setpoint: list[float]) -> None:
        """A limit moved the setpoint after `advance`: what that stretches is paid for, as far as there is
        anything to pay with, and what it relaxes is nobody's gain.

        What the step gave back by relaxing the spring towards a `q` beyond the limit is in the tank, so it
        is there to pay with.
        """
        spring = self._started
        before = spring.energy(spring.error)
        self.hold(q, setpoint)
        cost = spring.energy(spring.error) - before
        if cost > 0.0:
            spring.tank.settle(min(cost, spring.tank.available))

    def pending(self, q: npt.ArrayLike, elapsed_s: float | None = None) -> float:
        """The refill that a step at position `q` (J,), `elapsed_s` after the last one, would bring [J].

        Raises:
            DataError: before the first reset, or `q` is not J finite numbers.
        """
        spring = self._started
        where, wrong = finite(q, len(spring.error))
        if wrong:
            raise DataError(
                f"passivity filter: q={q!r} ({wrong}); expected {len(spring.error)} finite numbers"
            )
        error = [u - x for u, x in zip(self._setpoint, where, strict=True)]
        moved = [x - y for x, y in zip(where, self._position, strict=True)]
        return spring.dissipated(error, moved, max(self.config.period_s, elapsed_s or 0.0))

    @property
    def setpoint(self) -> list[float]:
        """The last executed setpoint (J,)."""
        return self._setpoint

    def _stop(self, where: list[float], fault: str) -> Filtered:
        """Latch; hold the position as soon as it is known. Relaxing a spring is always passive."""
        self._fault = self._fault or fault
        if where and not self._held:
            self.hold(where, where)
            self._held = True
        return self._result(0.0, 0.0, self._fault)

    def _result(self, share: float, share_k: float, reason: str) -> Filtered:
        spring = self._started
        return Filtered(
            np.array(self._setpoint),
            np.array(spring.stiffness),
            np.array(spring.damping),
            share,
            spring.tank.level,
            reason,
            share_k,
            spring.energy(spring.error),
            self._fault != "",
        )
