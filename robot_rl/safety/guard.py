"""The command path at joint level: every setpoint that reaches an arm has passed `CommandGuard.step`.

Plain floats, no torch and no ROS: the simulator, the replayer and the robot call the same object. The
order of the checks is that of trusted systems (libfranka, MoveIt Servo): shape and finiteness ->
sequence, stamp and age -> age of the measured state -> latch and activity -> position margin ->
velocity and acceleration -> leash -> passivity filter. It is not a safety-rated function.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.errors import DataError
from robot_rl.safety.command import REASON_INDEX, Command, Decision, JointState
from robot_rl.safety.config import GuardConfig
from robot_rl.safety.passivity import PassivityFilter

CUTS = ("position_limit", "velocity_limit", "acceleration_limit", "leash")


def braking_speed(distance: float, max_acceleration: float, period: float) -> float:
    """The highest speed v that still stops within `distance` when v shrinks by a h every period h.

    With v = (n + f) a h, 0 <= f < 1, the way is  sum_{i=0}^{n} (n + f - i) a h^2 = (n + 1)(n/2 + f) a h^2,
    the step taken at v itself included. This is its inverse; 0 for a distance <= 0.
    """
    if distance <= 0.0:
        return 0.0
    steps = distance / (max_acceleration * period * period)
    n = math.floor((math.sqrt(1.0 + 8.0 * steps) - 1.0) / 2.0)
    return (steps / (n + 1) + n / 2.0) * max_acceleration * period


def braking_distance(speed: float, max_acceleration: float, period: float) -> float:
    """The way to a stop from `speed` >= 0: the inverse of `braking_speed`."""
    steps = speed / (max_acceleration * period)
    n = math.floor(steps)
    return (n + 1) * (steps - 0.5 * n) * max_acceleration * period * period


def _numbers(values: Any, size: int) -> tuple[list[float], str]:
    """`values` as `size` floats with the reason "" , or no floats and what is wrong with them."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return [], "wrong_shape"
    if array.shape != (size,):
        return [], "wrong_shape"
    numbers: list[float] = array.tolist()
    # A sum is finite only if every term is; finite terms that overflow are no joint position either.
    return (numbers, "") if math.isfinite(sum(map(abs, numbers))) else ([], "non_finite")


class CommandGuard:
    """Decides, once per `config.period_s`, which setpoint the arm gets.

    Promised for any input whatever, between `reset` and the next one:

    - every executed setpoint lies inside [lower, upper], and does not leave [lower + margin, upper - margin]
      unless the filter's leash draws it towards a pose measured outside;
    - from one step to the next it moves by at most `max_velocity` h and its velocity changes by at most
      `max_acceleration` h; only a stop and a leash move it faster, and then towards the measured pose, and
      only the passivity filter brakes it harder;
    - it stays within `leash` of a measured pose that is itself inside the margins;
    - `step` never raises; after a fault it holds the pose measured when the fault came (never
      torque-off: the arm would fall) until `reset` is called. An arm that is moved away from there, by hand
      or because its torque is off, is not driven back: the pose it was moved to is held.

    A stream of requests that meets all of this is executed unchanged, bit for bit.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.passivity = PassivityFilter(config.passivity) if config.passivity is not None else None
        self._stiffness, self._damping = list(config.stiffness), list(config.damping)
        self._joints = len(config.names)
        self._hard = list(zip(config.lower, config.upper, strict=True))
        self._limits = list(
            zip(
                [low + margin for low, margin in zip(config.lower, config.margin, strict=True)],
                [high - margin for high, margin in zip(config.upper, config.margin, strict=True)],
                config.max_velocity,
                config.max_acceleration,
                config.leash,
                # With more room than this a joint may go at its top speed.
                [
                    braking_distance(speed, acceleration, config.period_s) * (1 + 1e-9)
                    for speed, acceleration in zip(config.max_velocity, config.max_acceleration, strict=True)
                ],
                strict=True,
            )
        )
        self._active = True
        self._setpoint: list[float] = []  # empty: never reset
        self._velocity = [0.0] * self._joints
        self._target: list[float] = []
        self._measured: list[float] = []
        self._measured_at = self._filtered_at = -math.inf
        self._frozen_at = math.inf
        """Since when the setpoint has moved away while the measured pose repeats."""
        self._seen_setpoint: list[float] = []
        """The setpoint when the measured pose last changed."""
        self._last: Command | None = None
        self._last_step = -math.inf
        self._fault = ""
        self._holding = True
        self._scale = 1.0

    @property
    def fault(self) -> str:
        """The latched fault, one of `schema.FILTER_REASONS`; "" if there is none."""
        return self._fault

    def reset(self, measured: Any, now: float, earlier: JointState | None = None) -> None:
        """Forget faults, senders and sequences; start at rest at `measured` (J,), at time `now` [s].

        Args:
            earlier: the state before, if there is one, which must agree with `measured`.

        Raises:
            DataError: `measured` is not a finite pose of J joints, or too far from the `earlier` one.
        """
        numbers, wrong = _numbers(measured, self._joints)
        if wrong or not math.isfinite(now):
            raise DataError(
                f"guard cannot start from pose {measured!r} at {now!r} s ({wrong or 'non_finite'}); "
                f"expected {self._joints} finite positions of {', '.join(self.config.names)}"
            )
        if earlier is not None:
            before, wrong = _numbers(earlier.position, self._joints)
            if wrong or self._leaps(numbers, before, now - earlier.stamp):
                raise DataError(
                    f"guard cannot start from pose {numbers}: the state before was {earlier.position}, "
                    "further away than the arm can move in that time; try again once it is measured well"
                )
        self._measured = numbers
        self._fault = ""
        self._last = None
        self._last_step = -math.inf
        self._measured_at = self._filtered_at = now
        if self.passivity is not None:
            self.passivity.reset(numbers, self._nearest(numbers), self._stiffness, self._damping)
        self._hold()

    def estop(self) -> None:
        """Stop at the next step, whatever else is wrong, and stay stopped until `reset`."""
        self._stop("estop")

    def set_active(self, active: bool) -> None:
        """Deadman and lifecycle: while inactive the pose is held; nothing is latched."""
        self._active = bool(active)

    def step(self, requested: Command | None, state: JointState | None, now: float) -> Decision:
        """The setpoint for the coming period.

        Args:
            requested: the newest command, the same one again if no newer arrived, None if none did yet.
            state: the newest measured state.
            now: time on the clock of the stamps [s].
        """
        if not self._setpoint:
            return Decision(None, "inactive", True)
        values, command_fault = self._check_command(requested, now)
        state_fault = self._check_state(state, now)
        reason = command_fault or state_fault
        if self._holding and not state_fault and self._displaced():
            self._hold()
        if self._fault:
            return self._decide(self._fault)
        if reason:
            self._stop(reason)
            return self._decide(reason)
        if not self._active or requested is None:
            if not self._holding:
                self._hold()
            return self._decide("inactive")
        if 0.0 <= now - self._last_step < 0.5 * self.config.period_s:
            # The rate limits count steps: a caller that hurries gets the last setpoint again.
            return self._decide("velocity_limit" if values != self._setpoint else "")
        self._last_step = now
        self._holding = False
        return self._decide(self._move(values))

    def _check_command(self, requested: Command | None, now: float) -> tuple[list[float], str]:
        """The requested values and the reason to stop, or "". Remembers the command if it is in order."""
        if requested is None:
            # Silence before the first command is waiting; after it, a fault.
            return [], "stale_command" if self._last is not None else ""
        try:
            values, wrong = _numbers(requested.values, self._joints)
            if wrong:
                return [], wrong
            stamp, sequence, last = float(requested.stamp), int(requested.sequence), self._last
        except (AttributeError, TypeError, ValueError, OverflowError):
            return [], "wrong_shape"
        if last is not None and sequence <= last.sequence:
            if sequence != last.sequence or stamp != last.stamp or values != last.values:
                return [], "out_of_order"
        elif last is not None and not stamp >= last.stamp:
            return [], "out_of_order"
        age = now - stamp
        if not age >= -self.config.period_s:  # from the future, or no number at all
            return [], "out_of_order"
        if not age <= self.config.max_command_age_s:
            return [], "stale_command"
        self._last = Command(values, stamp, sequence)
        return values, ""

    def _check_state(self, state: JointState | None, now: float) -> str:
        """The reason to stop, or "". Remembers the measured pose if it is sound and fresh."""
        if state is None:
            return "stale_state"
        try:
            measured, wrong = _numbers(state.position, self._joints)
            if wrong:
                return wrong
            stamp = float(state.stamp)
        except (AttributeError, TypeError, ValueError, OverflowError):
            return "wrong_shape"
        if not -self.config.period_s <= now - stamp <= self.config.max_state_age_s:
            return "stale_state"
        if self._leaps(measured, self._measured, stamp - self._measured_at):
            return "implausible_state"
        self._measured_at = stamp
        if measured != self._measured:
            self._measured, self._seen_setpoint, self._frozen_at = measured, self._setpoint, math.inf
        else:
            pairs = zip(self._setpoint, self._seen_setpoint, strict=True)
            travel, most = max(abs(u - v) for u, v in pairs), self.config.frozen_travel
            self._frozen_at = min(self._frozen_at, now) if travel > 0.1 * most else math.inf
            patience = self.config.max_state_age_s - 2 * self.config.period_s
            if travel > most and now - self._frozen_at > patience:
                return "stale_state"
        return ""

    def _leaps(self, position: list[float], earlier: list[float], elapsed: float) -> bool:
        """Whether no arm measured at `earlier` (J,) can be at `position` (J,) `elapsed` seconds later.

        A driver that failed to read its motors publishes a pose of zeros with a new stamp. The leash would
        pull the setpoint there at once.
        """
        elapsed = max(elapsed, self.config.period_s)
        reach = zip(position, earlier, self.config.max_velocity, self.config.leash, strict=True)
        return any(abs(x - y) > slack + speed * elapsed for x, y, speed, slack in reach)

    def _displaced(self) -> bool:
        """Whether a joint is further than its leash from where it is held."""
        reach = zip(self._measured, self._setpoint, self.config.leash, strict=True)
        return any(abs(q - u) > slack for q, u, slack in reach)

    def _stop(self, reason: str) -> None:
        if self._setpoint and not self._fault:
            self._hold()
        if not self._fault or reason == "estop":
            self._fault = reason

    def _hold(self) -> None:
        """Take the measured pose as the setpoint, at rest."""
        self._setpoint = self._nearest(self._measured)
        if self.passivity is not None:
            self.passivity.hold(self._measured, self._setpoint)
        self._velocity = [0.0] * self._joints
        self._target = self._seen_setpoint = self._setpoint
        self._frozen_at = math.inf
        self._holding = True
        self._scale = 0.0

    def _nearest(self, pose: list[float]) -> list[float]:
        """`pose` within the position limits."""
        return [
            x if low <= x <= high else low if x < low else high
            for x, (low, high) in zip(pose, self._hard, strict=True)
        ]

    def _decide(self, reason: str) -> Decision:
        energy = None if self.passivity is None else self.passivity.tank.level
        return Decision(np.array(self._setpoint), reason, self._fault != "", energy, self._scale)

    def _move(self, values: list[float]) -> str:
        """Advance the setpoint towards `values`; returns the first limit that cut the way short."""
        h = self.config.period_s
        cut = set()
        setpoint, velocity, targets = [], [], []
        for i, (low, high, top_speed, acceleration, leash, clear) in enumerate(self._limits):
            u, v, q = self._setpoint[i], self._velocity[i], self._measured[i]
            target = values[i]
            if not low <= target <= high:
                target = min(max(target, low), high)
                cut.add("position_limit")
            # No faster than what can still be braked before the margin.
            up, down = top_speed, -top_speed
            if high - u < clear:
                up = min(top_speed, braking_speed(high - u, acceleration, h))
            if u - low < clear:
                down = -min(top_speed, braking_speed(u - low, acceleration, h))
            fastest, slowest = v + acceleration * h, v - acceleration * h
            if fastest > up:
                fastest = up
            if slowest < down:
                slowest = down
            # The target's own speed, unless it jumped; the gap to where it came from has to be closed.
            drift = (target - self._target[i]) / h
            if abs(drift) > top_speed:
                drift = 0.0
            wanted = (target - u) / h
            gap = target - u - drift * h
            if slowest <= wanted <= fastest and abs(gap) <= acceleration * h * h:
                new = target
            else:
                cut.add("velocity_limit" if abs(wanted) > top_speed else "acceleration_limit")
                # Close the gap at a speed that can be braked to the target's in time: no overshoot.
                catch_up = math.copysign(braking_speed(abs(gap), acceleration, h), gap)
                new = u + min(max(drift + catch_up, slowest), fastest) * h
            if not q - leash <= new <= q + leash:
                new = min(max(new, q - leash), q + leash)
                cut.add("leash")
                up = min(top_speed, braking_speed(high - new, acceleration, h))
                down = -min(top_speed, braking_speed(new - low, acceleration, h))
            if not low <= new <= high:
                new = min(max(new, min(low, u)), max(high, u))
            speed = (new - u) / h
            setpoint.append(new)
            velocity.append(speed if down <= speed <= up else min(max(speed, down), up))
            targets.append(target)
        reason = next(name for name in CUTS if name in cut) if cut else ""
        if self.passivity is not None:
            # Between the measurements, not between the steps: what moved is credited for its own time.
            elapsed, self._filtered_at = self._measured_at - self._filtered_at, self._measured_at
            self._scale, _, why = self.passivity.advance(
                self._measured, setpoint, self._stiffness, self._damping, elapsed
            )
            allowed = self._nearest(self.passivity.setpoint)
            if allowed != self.passivity.setpoint:
                self.passivity.clip(self._measured, allowed)
            if allowed != setpoint:
                velocity = [(new - u) / h for new, u in zip(allowed, self._setpoint, strict=True)]
                setpoint, reason = allowed, why or reason
        self._setpoint, self._velocity, self._target = setpoint, velocity, targets
        return reason


class GuardFilter:
    """`filter(requested (J,), measured (J,), time_s) -> (executed (J,), reason index)`.

    Requests and states are fresh by construction; what remains are the limits, the rates and the leash.
    `reset`, or a clock that jumps back, starts a new episode: at the measured pose, with the latch open.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.guard = CommandGuard(config)
        self._sequence = 0
        self._time = np.inf

    def reset(self) -> None:
        """Start a new episode with the next call."""
        self._time = np.inf

    def __call__(
        self, requested: npt.ArrayLike, measured: npt.ArrayLike, time_s: float
    ) -> tuple[npt.NDArray[np.float64], int]:
        if time_s < self._time:
            self.guard.reset(measured, time_s)
            self._sequence = 0
        self._time = time_s
        self._sequence += 1
        decision = self.guard.step(
            Command(requested, time_s, self._sequence), JointState(measured, time_s), time_s
        )
        assert decision.executed is not None  # it was reset above
        return decision.executed, REASON_INDEX[decision.reason]


def widowx_guard_factory(**changes: Any) -> GuardFilter:
    """A fresh `GuardFilter` of the WidowX 250 S; picklable by name, for environments in processes."""
    return GuardFilter(GuardConfig.widowx_250s(**changes))
