"""Faults while the arm moves, with the passivity filter on: stopped in time, within bounds, no resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from robot_rl.safety import Command, CommandGuard, Decision, GuardConfig, JointState, PassivityConfig

CONFIG = GuardConfig.widowx_250s(passivity=PassivityConfig.widowx_250s())
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
H = CONFIG.period_s
LOW, HIGH = np.array(CONFIG.lower), np.array(CONFIG.upper)
ONSET = 1.0
"""When the fault begins [s], the arm in full motion."""
LIMIT_S = 0.1


class Arm:
    """Follows its setpoint with a lag; a guard is stepped on time, whatever its inputs do."""

    def __init__(self) -> None:
        self.guard = CommandGuard(CONFIG)
        self.guard.reset(HOME, 0.0)
        self.position, self.setpoint = HOME.copy(), HOME.copy()
        self.decisions: list[tuple[float, Decision]] = []

    def step(self, command: Command | None, state: JointState | None, now: float) -> Decision:
        decision = self.guard.step(command, state, now)
        executed = decision.executed
        assert executed is not None
        assert ((executed >= LOW) & (executed <= HIGH)).all()
        assert np.isfinite(executed).all()
        assert decision.energy is not None
        assert 0.1 <= decision.energy <= 4.0
        self.decisions.append((now, decision))
        self.setpoint = executed
        self.position = self.position + 0.3 * (executed - self.position)
        return decision


def target(now: float) -> np.ndarray:
    return HOME + np.array([0.4, 0.3, 0.3, 0.4, 0.3, 0.5, 0.0]) * (1 - np.cos(2.0 * now)) / 2


class Inputs(NamedTuple):
    command: Command | None
    state: JointState | None
    now: float


Fault = Callable[[Inputs, Inputs, float], Inputs]
"""(good inputs, those at the onset, seconds since the onset) -> what the guard gets."""


def command(**changes: object) -> Fault:
    """The good command with `changes`; a callable change gets the good value and the last good command."""

    def apply(good: Inputs, onset: Inputs, since: float) -> Inputs:
        assert good.command is not None
        values = {
            name: change(getattr(good.command, name), onset.command, since) if callable(change) else change
            for name, change in changes.items()
        }
        return good._replace(command=good.command._replace(**values))

    return apply


def state(change: Callable[[JointState, JointState], JointState | None]) -> Fault:
    def apply(good: Inputs, onset: Inputs, since: float) -> Inputs:
        assert good.state is not None
        assert onset.state is not None
        return good._replace(state=change(good.state, onset.state))

    return apply


SIGNALLING = np.full(7, 0x7FF4000000000000, np.uint64).view(np.float64)
FAULTS: dict[str, tuple[Fault, str]] = {
    "NaN": (command(values=HOME * np.nan), "non_finite"),
    "signalling NaN": (command(values=SIGNALLING), "non_finite"),
    "inf": (command(values=HOME + np.inf), "non_finite"),
    "one joint short": (command(values=HOME[:6]), "wrong_shape"),
    "one joint too many": (command(values=np.append(HOME, 0.0)), "wrong_shape"),
    "names for numbers": (command(values=dict.fromkeys(CONFIG.names, 0.0)), "wrong_shape"),
    "duplicate number": (command(sequence=lambda s, last, t: last.sequence), "out_of_order"),
    "reordered": (command(sequence=lambda s, last, t: last.sequence - 3), "out_of_order"),
    "old stamp": (command(stamp=lambda s, last, t: last.stamp - 0.2), "out_of_order"),
    "future stamp": (command(stamp=lambda s, last, t: s + 1.0), "out_of_order"),
    "policy killed or stopped": (
        lambda good, onset, since: good._replace(command=onset.command),
        "stale_command",
    ),
    "policy gone": (lambda good, onset, since: good._replace(command=None), "stale_command"),
    "joint states dropped": (state(lambda good, last: None), "stale_state"),
    "joint states late": (state(lambda good, last: last), "stale_state"),
    "joint states frozen, stamps fresh": (
        state(lambda good, last: JointState(last.position, good.stamp)),
        "stale_state",
    ),
    "joint states NaN": (
        state(lambda good, last: JointState(np.full(7, np.nan), good.stamp)),
        "non_finite",
    ),
    "clock jumps ahead": (lambda good, onset, since: good._replace(now=good.now + 5.0), "stale_command"),
    "clock jumps back": (lambda good, onset, since: good._replace(now=good.now - 5.0), "out_of_order"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_motion_stops_the_arm_in_time_and_for_good(name: str) -> None:
    fault, reason = FAULTS[name]
    arm = Arm()
    onset: Inputs | None = None
    stopped_at = held = None
    for k in range(1, 150):
        now = k * H
        good = Inputs(Command(target(now), now, k), JointState(arm.position.copy(), now), now)
        if now < ONSET:
            decision = arm.step(*good)
            assert decision.reason in ("", "leash", "energy", "acceleration_limit")
            onset = good
            continue
        assert onset is not None
        since = now - onset.now
        # Half a second of the fault, then everything is well again.
        decision = arm.step(*(fault(good, onset, since) if since < 0.5 else good))
        if decision.latched and stopped_at is None:
            stopped_at, held = since, decision.executed
            assert decision.reason == reason
        if stopped_at is not None:
            assert (decision.latched, decision.reason) == (True, reason)
            np.testing.assert_array_equal(decision.executed, held)
    assert stopped_at is not None
    assert stopped_at <= LIMIT_S + 1e-9


def test_an_estop_in_motion_and_a_restart_while_latched() -> None:
    arm = Arm()
    for k in range(1, 60):
        now = k * H
        if k == 50:
            arm.guard.estop()
        decision = arm.step(Command(target(now), now, k), JointState(arm.position.copy(), now), now)
        assert decision.latched == (k >= 50)
    assert decision.reason == "estop"
    # A policy that starts again, counting from 0, moves nothing: only a reset of the guard does.
    held = decision.executed
    for k in range(60, 80):
        now = k * H
        decision = arm.step(Command(target(now), now, k - 60), JointState(arm.position.copy(), now), now)
        assert (decision.reason, decision.latched) == ("estop", True)
        np.testing.assert_array_equal(decision.executed, held)
    arm.guard.reset(arm.position, now)
    decision = arm.step(Command(arm.position, now + H, 0), JointState(arm.position, now + H), now + H)
    assert not decision.latched


def test_the_filters_account_survives_holds_and_late_steps() -> None:
    """S = tank + spring, with the refill of a damper that is sure, never rises, holds and pauses included."""
    budget = PassivityConfig.widowx_250s(mode="passive", power_w=0.0)
    guard = CommandGuard(GuardConfig.widowx_250s(passivity=budget))
    guard.reset(HOME, 0.0)
    assert guard.passivity is not None
    stiffness, damping = np.array(CONFIG.stiffness), np.array(CONFIG.damping)
    rng, q, now, setpoint = np.random.default_rng(0), HOME.copy(), 0.0, HOME
    tank = guard.passivity.tank.level
    for k in range(1, 400):
        pause = float(rng.choice([H, H, H, 3 * H]))
        now += pause
        moved = 0.2 * (setpoint - q) + rng.normal(0, 1e-3, 7)
        q = q + moved
        dissipated = float(damping @ moved**2) / pause
        before = tank + 0.5 * float(stiffness @ (setpoint - q) ** 2) + dissipated
        guard.set_active(k % 37 > 5)
        wanted = HOME + rng.normal(0, 0.1, 7) * np.array([1, 1, 1, 1, 1, 1, 0.02])
        decision = guard.step(Command(wanted, now, k), JointState(q, now), now)
        assert decision.executed is not None
        assert decision.energy is not None
        setpoint, tank = decision.executed, decision.energy
        assert tank + 0.5 * float(stiffness @ (setpoint - q) ** 2) <= before + 1e-9


POLICY = """
import sys, time
k = 0
while True:
    print(k, time.monotonic(), flush=True)
    k += 1
    time.sleep(0.02)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_policy_process_that_dies_or_stalls_is_noticed(name: str) -> None:
    """A real process sends commands; the guard's clock is its own. No assertion on wall time but the stop."""
    process = subprocess.Popen([sys.executable, "-c", POLICY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        config = GuardConfig.widowx_250s(passivity=PassivityConfig.widowx_250s(), max_command_age_s=0.08)
        guard = CommandGuard(config)
        guard.reset(HOME, 0.0)
        now, newest, sent, number, since, signalled = 0.0, None, 0, 0, 0.0, False
        for k in range(2000):
            time.sleep(0.002 if newest else 0.01)
            lines = process.stdout.readlines()
            if lines:  # stamped on arrival, by the guard's clock, which counts its own periods
                sent, number = sent + 1, number + 1
                newest = Command(HOME + 1e-3 * np.sin(0.1 * sent), now, number)
                since = 0.0
            elif newest is not None and signalled:
                since += H
            if newest is None:
                continue
            if sent >= 3 and not signalled:
                os.kill(process.pid, getattr(signal, name))
                signalled = True
            if not signalled:  # a slow sender on a slow machine is not what is tested
                number += 1
                newest = newest._replace(stamp=now, sequence=number)
            decision = guard.step(newest, JointState(HOME + 1e-9 * k, now), now)
            if decision.latched:
                break
            now += H
        assert signalled
        assert (decision.reason, decision.latched) == ("stale_command", True)
        assert since <= LIMIT_S + H
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
