"""The filter's promises for any input: bounds of the tank, its books, feasibility, identity, latch."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robot_rl.data.schema import FILTER_REASONS
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import (
    CartesianPassivityFilter,
    EnergyTank,
    GuardConfig,
    PassivityConfig,
    PassivityFilter,
    TorquePassivityFilter,
    impedance_torque,
)
from robot_rl.safety.ports import rotation_matrix, rotation_vector
from robot_rl.safety.spring import largest_share

K = np.array([200.0, 50.0, 20.0])
D = np.array([12.0, 2.0, 0.8])
ZERO = np.zeros(3)
H = 0.02

energies = st.floats(0, 1e3)
anything = st.one_of(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(np.array),
    st.sampled_from([None, "q", {}, [[1.0], [2.0, 3.0]], np.full(3, 1e308), np.zeros((3, 1)), object()]),
)
configs = st.sampled_from(
    [
        PassivityConfig(),
        PassivityConfig(tank_max_j=0.5, tank_min_j=0.0, tank_start_j=0.0, refill=1.0),
        PassivityConfig(mode="energy_bounded", power_w=2.0, max_power_w=5.0, leash=(0.3, None, 0.1)),
        PassivityConfig(torque_limit=(10.0, 4.5, 0.9), max_stiffness=300.0, max_damping=15.0),
        PassivityConfig(tank_max_j=0.5, contact_energy_j=0.5, inertia=(0.2, 0.05, 0.02), max_speed=3.0),
    ]
)  # fmt: skip


def started(config: PassivityConfig | None = None) -> PassivityFilter:
    passivity = PassivityFilter(config)
    passivity.reset(ZERO, ZERO, K, D)
    return passivity


def spring(stiffness: np.ndarray, setpoint: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(stiffness @ (setpoint - q) ** 2)


def booked(tank: EnergyTank) -> float:
    parts = (
        tank.start,
        tank.refilled,
        tank.returned,
        tank.metered,
        -tank.drawn,
        -tank.spilled,
        tank.rounding,
    )
    return math.fsum(parts)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), energies)
def test_the_largest_share_is_feasible_and_no_larger_one_is(a: float, b: float, available: float) -> None:
    share = largest_share(a, b, available)
    assert 0 <= share <= 1
    slack = 1e-9 * (1 + abs(a) + b)
    assert share * a + share**2 * b / 2 <= available + slack
    if share < 1:
        more = min(1.0, share + 1e-3)
        assert more * a + more**2 * b / 2 >= available - slack


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["refill", "meter", "settle", "keep"]), energies), max_size=60))
def test_the_tank_stays_in_its_bounds_and_its_books_prove_it(moves: list[tuple[str, float]]) -> None:
    tank = EnergyTank(0.1, 4.0, 2.0)
    for kind, energy in moves:
        if kind == "settle":
            energy = min(energy, tank.available) if energy < 500 else -energy
        getattr(tank, kind)(energy)
        assert 0.1 - 1e-15 <= tank.level <= 4.0
        assert tank.level == pytest.approx(booked(tank), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.1, 10.0]))
@example(PassivityConfig(tank_max_j=0.5, tank_min_j=0.0, tank_start_j=0.0, refill=1.0), 490, 0.1)
def test_no_step_brings_in_energy_that_the_account_does_not_hold(
    config: PassivityConfig, seed: int, size: float
) -> None:
    """tank + e'Ke/2 after a step <= the same before it + refill + inflow; the tank within its bounds."""
    rng = np.random.default_rng(seed)
    passivity = started(config)
    q, u, k = ZERO, ZERO, K
    tank = passivity.tank.level
    for step in range(200):
        q = q + rng.normal(0, 0.02, 3)
        pending = passivity.pending(q) if step else 0.0
        before = tank + spring(k, u, q) + pending + (config.power_w * H if step else 0.0)
        asked = (q + rng.normal(0, size, 3), K * rng.uniform(0, 2, 3), D * rng.uniform(0, 2, 3))
        result = passivity.step(q=q, setpoint=asked[0], stiffness=asked[1], damping=asked[2])
        tank, u, k = result.tank, result.setpoint, result.stiffness
        assert config.tank_min_j <= tank <= config.tank_max_j
        assert 0 <= result.scale <= 1
        assert 0 <= result.stiffness_scale <= 1
        assert tank + spring(k, u, q) <= before + 1e-9
        assert (result.damping >= k * config.servo_period_s / 2 - 1e-12).all()
        assert result.spring == pytest.approx(spring(k, u, q), abs=1e-9)
        assert result.reason in FILTER_REASONS
        reach = np.minimum(config.per_joint("leash", 3), np.array(config.per_joint("torque_limit", 3)) / k)
        assert (np.abs(u - q) <= reach + 1e-9).all()
    assert tank == pytest.approx(booked(passivity.tank), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_while_nothing_reaches_the_brim_no_energy_is_lost_either(seed: int) -> None:
    rng = np.random.default_rng(seed)
    passivity = started(PassivityConfig(tank_max_j=1e6, tank_start_j=5.0))
    q, u, k, tank = ZERO, ZERO, K, 5.0
    for step in range(200):
        q = q + rng.normal(0, 0.02, 3)
        expected = tank + spring(k, u, q) + (passivity.pending(q) if step else 0.0)
        result = passivity.step(
            q=q, setpoint=q + rng.normal(0, 0.3, 3), stiffness=K * rng.uniform(0, 2, 3), damping=D
        )
        tank, u, k = result.tank, result.setpoint, result.stiffness
        assert tank + spring(k, u, q) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.4, 2.0]))
def test_it_computes_the_equations_of_the_documentation(seed: int, size: float) -> None:
    """Against docs/passivity.md in arrays, without torque limits and cap."""
    leash, power = 0.3, 2.0
    config = PassivityConfig(mode="energy_bounded", power_w=power, tank_max_j=2.0, leash=leash)
    rng, passivity = np.random.default_rng(seed), started(config)
    q, u, k, d, tank = ZERO, ZERO, K, D, 2.0

    def fill(level: float, energy: float) -> float:
        return min(config.tank_max_j, level + energy)

    for step in range(60):
        moved = rng.normal(0, 0.02, 3)
        q, e = q + moved, u - q - moved
        asked, stiff = q + rng.normal(0, size, 3), K if rng.random() < 0.5 else K * rng.uniform(0, 2, 3)
        damp = D * rng.uniform(0, 2, 3)
        if step:  # (1) refill, and the inflow
            tank = fill(tank, 0.8 * float(np.maximum(0, d - k * 0.001) @ moved**2) / H)
            tank = fill(tank, power * H)
        # (2) the leash gives back, (3) so do joints that soften; the others stiffen together
        short, rise = np.clip(e, -leash, leash), np.maximum(0, stiff - k)
        tank = fill(tank, 0.5 * float(k @ (e**2 - short**2) + np.maximum(0, k - stiff) @ short**2))
        e, cost = short, 0.5 * float(rise @ short**2)
        share_k = min(1.0, (tank - config.tank_min_j) / cost) if cost else 1.0
        k = np.minimum(k, stiff) + share_k * rise
        tank -= share_k * cost
        # (4) the way to the setpoint on its leash
        way = np.clip(asked - q, -leash, leash) - e
        a, b, available = float(way @ (k * e)), float(way @ (k * way)), tank - config.tank_min_j
        root = math.sqrt(max(0.0, a * a + 2 * b * available))
        # Nowhere to go (b = 0) costs nothing, whatever rounding has left in the tank.
        free = b == 0 or a + b / 2 <= available
        share = 1.0 if free else (2 * available / (a + root) if a > 0 else (root - a) / b)
        e = e + share * way
        tank = fill(tank, -(share * a + share**2 * b / 2))
        u, d = q + e, np.maximum(damp, k * 0.001)  # (5)
        result = passivity.step(q=q, setpoint=asked, stiffness=stiff, damping=damp)
        np.testing.assert_allclose(result.setpoint, u, rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.stiffness, k, rtol=1e-9)
        np.testing.assert_allclose(result.damping, d, rtol=1e-9)
        assert result.tank == pytest.approx(tank, abs=1e-9)
        assert result.scale == pytest.approx(share, abs=1e-9)
        u, k, d, tank = result.setpoint, result.stiffness, result.damping, result.tank


def test_what_the_tank_can_pay_for_passes_bit_for_bit() -> None:
    passivity = started(PassivityConfig(leash=0.5))
    rng = np.random.default_rng(0)
    for _ in range(100):
        asked = rng.normal(0, 0.01, 3)
        result = passivity.step(q=ZERO, setpoint=asked, stiffness=K, damping=D)
        assert (result.reason, result.scale) == ("", 1.0)
        np.testing.assert_array_equal(result.setpoint, asked)
        np.testing.assert_array_equal(result.stiffness, K)
        np.testing.assert_array_equal(result.damping, D)


def test_an_empty_tank_gives_nothing_and_a_relaxing_request_always_passes() -> None:
    passivity = PassivityFilter(PassivityConfig(tank_start_j=0.1))
    setpoint = np.array([0.1, 0.2, 0.3])
    passivity.reset(ZERO, setpoint, K, D)
    result = passivity.step(q=ZERO, setpoint=2 * setpoint, stiffness=2 * K, damping=D)
    assert (result.scale, result.stiffness_scale, result.reason) == (0.0, 0.0, "energy")
    np.testing.assert_array_equal(result.setpoint, setpoint)
    result = passivity.step(q=ZERO, setpoint=0.5 * setpoint, stiffness=0.5 * K, damping=D)
    assert (result.scale, result.reason) == (1.0, "")
    assert result.tank == pytest.approx(0.1 + spring(K, setpoint, ZERO) - spring(K / 2, setpoint / 2, ZERO))


def test_nothing_is_refilled_for_a_time_nobody_knows() -> None:
    config = PassivityConfig(tank_start_j=1.0)
    moved = np.full(3, 0.01)

    def gained(*elapsed: float | None) -> float:
        passivity = started(config)
        q = ZERO
        for span in elapsed:
            q = q + moved
            level = passivity.tank.level
            passivity.step(q=q, setpoint=passivity.setpoint, stiffness=K, damping=D, elapsed_s=span)
            gain = passivity.tank.refilled
        assert level <= passivity.tank.maximum
        return gain

    assert gained(None) == 0.0
    assert gained(math.nan) == gained(-1.0) == 0.0
    once = gained(H)
    assert once == pytest.approx(0.8 * ((D - K * 0.001) @ moved**2) / H)
    assert gained(4 * H) == pytest.approx(once / 4)  # a late step: the same way, slower
    assert gained(H / 4) == pytest.approx(once)  # an early one is not trusted
    assert gained(None, None) == pytest.approx(once)


def test_a_saturated_servo_is_credited_for_less() -> None:
    moved = np.full(3, 0.015)
    pending = []
    for limit in (None, (2.0, 0.5, 0.2)):
        passivity = PassivityFilter(PassivityConfig(torque_limit=limit))
        passivity.reset(ZERO, np.full(3, 0.01), K, D)
        pending.append(passivity.pending(moved))
        assert passivity.pending(ZERO) == 0.0
    assert 0 < pending[1] < 0.5 * pending[0]
    pushed = PassivityFilter(PassivityConfig(torque_limit=1.0))
    pushed.reset(ZERO, -np.full(3, 0.1), K, D)  # springs saturated while the arm is pushed away
    assert pushed.pending(np.full(3, 0.01)) == 0.0


def test_the_cap_bounds_what_a_contact_could_get() -> None:
    config = PassivityConfig(tank_max_j=0.5, contact_energy_j=0.4 + 0.1, inertia=0.2, leash=0.3)
    passivity = started(config)
    rng, q = np.random.default_rng(0), ZERO
    for _ in range(300):
        step = rng.normal(0, 0.02, 3)
        q = q + step
        result = passivity.step(q=q, setpoint=q + rng.normal(0, 0.2, 3), stiffness=K, damping=D)
        kinetic = 0.5 * 0.2 * float(step @ step) / H**2
        if kinetic < 0.5:
            assert kinetic + result.spring + result.tank - 0.1 <= 0.5 + 1e-9
        else:
            assert result.spring == pytest.approx(0.0)
            assert result.tank == pytest.approx(0.1)


@settings(max_examples=150, deadline=None)
@given(anything, anything, anything, anything)
def test_garbage_latches_holds_and_never_touches_the_tank(q: Any, u: Any, k: Any, d: Any) -> None:
    passivity = started()
    passivity.step(q=ZERO, setpoint=np.full(3, 0.05), stiffness=K, damping=D)
    level = passivity.tank.level
    result = passivity.step(q=q, setpoint=u, stiffness=k, damping=d)
    assert np.isfinite([*result.setpoint, *result.stiffness, *result.damping, result.tank]).all()
    if not result.latched:
        return
    assert result.reason in ("non_finite", "wrong_shape")
    assert result.tank == level
    poses = []
    for shift in (1e-3, 2e-3, 3e-3):  # good input again: one measured pose is held, and held
        held = passivity.step(q=ZERO + shift, setpoint=ZERO, stiffness=K, damping=D)
        assert (held.latched, held.tank) == (True, level)
        poses.append(held.setpoint)
    np.testing.assert_array_equal(poses[0], poses[2])
    assert any(np.array_equal(poses[0], pose) for pose in (result.setpoint, ZERO + 1e-3))
    passivity.reset(ZERO, ZERO, K, D)
    assert not passivity.step(q=ZERO, setpoint=ZERO, stiffness=K, damping=D).latched


def test_before_the_first_reset_there_is_nothing_to_hold() -> None:
    with pytest.raises(DataError, match="never reset"):
        PassivityFilter().step(q=ZERO, setpoint=ZERO, stiffness=K, damping=D)
    with pytest.raises(DataError, match="stiffness="):
        PassivityFilter().reset(ZERO, ZERO, K * math.nan, D)
    with pytest.raises(ConfigError, match="3 numbers, one a joint"):
        PassivityFilter(PassivityConfig(leash=(0.1, 0.2))).reset(ZERO, ZERO, K, D)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mode": "safe"}, "unknown passivity mode 'safe'.*Valid: energy_bounded, passive"),
        ({"tank_max_j": 0.05}, r"tank_min_j < tank_max_j"),
        ({"tank_start_j": 9.0}, r"tank_start_j is 9.0; expected 0.1 .. 4.0 J"),
        ({"refill": 1.1}, "more would create energy"),
        ({"power_w": 1.0}, "an inflow is not passive"),
        ({"mode": "energy_bounded"}, "power_w is 0.0; expected watts above 0"),
        ({"max_power_w": 0.0}, "max_power_w is 0.0"),
        (
            {"leash": 0.3, "max_stiffness": 200.0, "torque_limit": 10.0},
            "= 60 Nm; expected at most",
        ),
        (
            {"max_stiffness": 2e4, "max_damping": 10.0},
            "needs damping of 20; expected at most",
        ),
        ({"servo_period_s": 0.1}, "servo_period_s <= period_s"),
        ({"contact_energy_j": 0.5}, "at least tank_max_j - tank_min_j = 3.9 J"),
        ({"contact_energy_j": 5.0}, "inertia is None"),
        ({"leash": (0.1, 0.2), "max_speed": (1.0, 1.0, 1.0)}, "the same number of joints"),
        ({"leash": -0.1}, "leash is -0.1"),
        ({"max_speed": (1.0, math.nan)}, "max_speed is"),
    ],
)
def test_a_config_that_cannot_hold_is_refused_with_the_figure(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PassivityConfig(**changes)


def test_the_guard_refuses_servos_that_the_budget_does_not_fit() -> None:
    budget = PassivityConfig.widowx_250s()
    for changes, text in (
        ({"passivity": PassivityConfig(period_s=0.01)}, "passivity period_s 0.01"),
        ({"passivity": budget, "stiffness": ()}, "expected 7 numbers above 0"),
        ({"passivity": budget, "stiffness": (900.0,) * 7}, "waist: stiffness 900.0; expected at most"),
        (
            {"passivity": PassivityConfig(servo_period_s=0.02), "damping": (1.0,) * 7},
            "needs damping of 2",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            GuardConfig.widowx_250s(**changes)
    config = GuardConfig.widowx_250s(passivity=budget)
    assert GuardConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert PassivityConfig(**json.loads(json.dumps(budget.to_dict()))) == budget


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 2.0]))
def test_the_torque_port_reserves_before_and_settles_after(seed: int, power: float) -> None:
    mode: Any = "energy_bounded" if power else "passive"
    config = PassivityConfig(mode=mode, power_w=power, max_speed=2.0, torque_limit=5.0)
    port = TorquePassivityFilter(config)
    port.reset(ZERO)
    rng, q, torque, level = np.random.default_rng(seed), ZERO, ZERO, config.tank_max_j
    for _ in range(200):
        moved = rng.uniform(-2.0 * H, 2.0 * H, 3)  # never faster than max_speed
        q = q + moved
        result = port.step(q=q, torque=rng.normal(0, 8, 3))
        work = float(torque @ moved)
        assert config.tank_min_j <= result.tank <= config.tank_max_j
        assert result.tank == pytest.approx(min(level - work + power * H, config.tank_max_j), abs=1e-9)
        assert (np.abs(result.torque) <= 5.0).all()
        torque, level = result.torque, result.tank
    stopped = port.step(q=q * np.nan, torque=torque)
    assert (stopped.reason, stopped.latched) == ("non_finite", True)
    assert not stopped.torque.any()
    assert stopped.tank >= config.tank_min_j


def test_the_torque_port_needs_a_speed_and_runs_up_a_debt_rather_than_forget_one() -> None:
    with pytest.raises(ConfigError, match="max_speed is None"):
        TorquePassivityFilter(PassivityConfig())
    port = TorquePassivityFilter(PassivityConfig(max_speed=1.0, tank_max_j=1.0))
    port.reset(ZERO)
    torque = port.step(q=ZERO, torque=np.full(3, 100.0)).torque
    assert float(torque.sum()) * H == pytest.approx(0.9)
    fast = port.step(q=np.full(3, 5 * H), torque=torque)  # five times the promised speed
    assert fast.tank == pytest.approx(1.0 - 5 * 0.9)
    assert not fast.torque.any()


@settings(deadline=None)
@given(st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3))
def test_rotations_and_their_vectors_are_inverse(vector: list[float]) -> None:
    rotation = rotation_matrix(vector)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    if np.linalg.norm(vector) < 3.1:
        np.testing.assert_allclose(rotation_vector(rotation), vector, atol=1e-8)


def test_the_cartesian_form_pays_for_translation_and_rotation() -> None:
    gains, damping = np.array([400.0, 400, 400, 30, 30, 30]), np.array([40.0, 40, 40, 3, 3, 3])
    rng = np.random.default_rng(0)
    config = PassivityConfig(tank_max_j=1e6, tank_start_j=2.0, leash=(0.1, 0.1, 0.1, 0.5, 0.5, 0.5))
    form = CartesianPassivityFilter(config)
    pose = [np.zeros(3), np.eye(3)]
    form.reset((pose[0], pose[1]), (pose[0], pose[1]), gains, damping)
    target, k, level, starved = pose, gains, 2.0, False

    def energy(stiffness: np.ndarray, setpoint: list[np.ndarray], at: list[np.ndarray]) -> float:
        e = np.concatenate([setpoint[0] - at[0], rotation_vector(setpoint[1] @ at[1].T)])
        return 0.5 * float(stiffness @ e**2)

    for step in range(300):
        last = pose
        pose = [pose[0] + rng.normal(0, 0.004, 3), rotation_matrix(rng.normal(0, 0.02, 3)) @ pose[1]]
        moved = np.concatenate([pose[0] - last[0], rotation_vector(pose[1] @ last[1].T)])
        refill = 0.8 * float((damping - 0.001 * k) @ moved**2) / H if step else 0.0
        expected = level + energy(k, target, pose) + refill
        asked = (pose[0] + rng.normal(0, 0.1, 3), rotation_matrix(rng.normal(0, 0.5, 3)) @ pose[1])
        stiffness = gains * np.concatenate([rng.uniform(0.2, 2, 3), np.full(3, rng.uniform(0.2, 2))])
        result = form.step(pose=(pose[0], pose[1]), setpoint=asked, stiffness=stiffness, damping=damping)
        target, k, level = [result.position, result.rotation], result.stiffness, result.tank
        assert level + energy(k, target, pose) == pytest.approx(expected, abs=1e-9)
        starved = starved or result.scale < 1
        assert level >= 0.1
    assert starved
    stopped = form.step(pose=(pose[0], pose[1] * 2), setpoint=asked, stiffness=gains, damping=damping)
    assert (stopped.latched, stopped.reason) == (True, "non_finite")


def test_the_law_that_the_cartesian_form_is_about() -> None:
    rng = np.random.default_rng(0)
    jacobian, error, velocity = rng.normal(size=(6, 7)), rng.normal(size=6), rng.normal(size=7)
    gains, damping = rng.uniform(1, 9, 6), rng.uniform(1, 9, 6)
    torque = impedance_torque(jacobian, error, velocity, gains, damping)
    twist = jacobian @ velocity
    assert float(torque @ velocity) == pytest.approx(float((gains * error) @ twist - damping @ twist**2))
