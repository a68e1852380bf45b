"""The guard's promises, for any input; and what each fault does."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data.schema import FILTER_REASONS
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import (
    Command,
    CommandGuard,
    Decision,
    GuardConfig,
    GuardFilter,
    JointState,
    PassivityConfig,
    widowx_guard_factory,
)
from robot_rl.safety.guard import braking_speed
from robot_rl.safety.passivity_config import ROBOTS
from sim.arm_model import arm_model

# isort: split
import mujoco  # after `sim`, which chooses the renderer

# Low accelerations, so that every limit matters.
CONFIG = GuardConfig.widowx_250s(max_acceleration=(5.0,) * 6 + (2.0,))
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
H = CONFIG.period_s
LOW, HIGH = np.array(CONFIG.lower), np.array(CONFIG.upper)
SOFT_LOW, SOFT_HIGH = LOW + CONFIG.margin, HIGH - CONFIG.margin
SPEED, ACCELERATION = np.array(CONFIG.max_velocity), np.array(CONFIG.max_acceleration)
LEASH = np.array(CONFIG.leash)
TINY = 1e-9

any_float = st.floats(allow_nan=True, allow_infinity=True)
joint_float = st.floats(-4.0, 4.0)
any_values = st.one_of(
    st.lists(joint_float, min_size=7, max_size=7).map(np.array),
    st.lists(any_float, min_size=7, max_size=7).map(np.array),
    st.lists(any_float, max_size=9).map(np.array),
    st.sampled_from([None, "home", {}, [[1.0], [2.0, 3.0]], np.zeros((7, 1)), object()]),
)
any_command = st.one_of(
    st.none(),
    st.builds(Command, any_values, any_float, st.integers(-2, 50)),
    st.sampled_from(["no command", Command(HOME, None, 3), Command(HOME, 0.0, math.nan)]),
)
any_state = st.one_of(
    st.none(),
    st.builds(JointState, any_values, any_float),
    st.sampled_from(["no state", JointState(HOME, None), JointState(HOME, "now")]),
)


def started(config: GuardConfig = CONFIG, pose: np.ndarray = HOME) -> CommandGuard:
    guard = CommandGuard(config)
    guard.reset(pose, 0.0)
    return guard


def inside(executed: np.ndarray | None) -> bool:
    return (
        executed is not None
        and executed.shape == (7,)
        and bool(((executed >= LOW) & (executed <= HIGH)).all())
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(any_command, any_state, st.one_of(any_float, st.floats(0, 1))), max_size=12))
def test_any_garbage_gives_a_command_inside_the_limits_and_no_exception(
    stream: list[tuple[Any, Any, float]],
) -> None:
    guard = started()
    for command, state, now in stream:
        decision = guard.step(command, state, now)
        assert inside(decision.executed)
        assert decision.reason in FILTER_REASONS
        assert decision.latched == (guard.fault != "")


@pytest.mark.parametrize("passivity", [None, PassivityConfig.widowx_250s()])
def test_a_pose_that_no_arm_can_have_come_to_stops_it_where_it_is(passivity: PassivityConfig | None) -> None:
    """A driver whose motors did not answer publishes all of them at -pi, with a new stamp."""
    guard = started(GuardConfig.widowx_250s(passivity=passivity))
    for k in range(5):
        guard.step(Command(HOME, k * H, k), JointState(HOME + 1e-4 * k, k * H), k * H)
    unread = np.append(np.full(6, -math.pi), HOME[6])
    for k in range(5, 9):
        decision = guard.step(Command(HOME, k * H, k), JointState(unread, k * H), k * H)
        assert decision.latched
        assert decision.reason == "implausible_state"
        assert decision.executed is not None
        assert np.abs(decision.executed - HOME).max() < 0.01
    guard.estop()
    decision = guard.step(None, JointState(unread, 9 * H), 9 * H)
    assert decision.executed is not None
    assert np.abs(decision.executed - HOME).max() < 0.01


def test_a_reset_on_a_pose_that_the_one_before_contradicts_is_refused() -> None:
    guard, unread = CommandGuard(CONFIG), np.append(np.full(6, -math.pi), HOME[6])
    for pose, earlier in ((unread, HOME), (HOME, unread), (HOME, np.zeros(3))):
        with pytest.raises(DataError, match="the state before was"):
            guard.reset(pose, H, JointState(earlier, 0.0))
    guard.reset(HOME + 0.005, H, JointState(HOME, 0.0))
    guard.reset(unread, 3600.0, JointState(HOME, 0.0))  # there was time enough


def test_a_joint_at_its_top_speed_is_believed() -> None:
    guard = started(pose=np.append(np.zeros(6), 0.02))
    for k in range(1, 20):
        pose = np.append(np.full(6, math.pi * k * H), 0.02)
        assert not guard.step(Command(pose, k * H, k), JointState(pose, k * H), k * H).latched


@pytest.mark.parametrize("passivity", [None, PassivityConfig.widowx_250s()])
def test_an_arm_that_is_moved_while_it_is_held_is_not_driven_back(passivity: PassivityConfig | None) -> None:
    guard = started(GuardConfig.widowx_250s(passivity=passivity))
    guard.step(Command(HOME, 0.0, 0), JointState(HOME, 0.0), 0.0)
    guard.estop()
    pose, most = HOME.copy(), 0.0
    for k in range(1, 101):
        pose[0] += 0.013  # by hand, the torque off
        decision = guard.step(Command(HOME, k * H, k), JointState(pose, k * H), k * H)
        assert decision.reason == "estop"
        assert decision.executed is not None
        most = max(most, np.abs(decision.executed - pose)[0])
    assert 0.2 < most <= LEASH[0] + TINY  # a push that ends within the leash is resisted


def test_a_limit_that_stretches_the_spring_again_is_paid_for() -> None:
    """The waist is pressed .1 rad past its limit: filter and limit pull at the setpoint in turns."""
    budget = PassivityConfig.widowx_250s(mode="passive", power_w=0.0, tank_start_j=0.1, tank_max_j=40.0)
    guard = started(GuardConfig.widowx_250s(passivity=budget), np.append(LOW[:6] + 0.06, 0.03))
    pose, levels = np.append(LOW[:6] + 0.06, 0.03), []
    for k in range(200):
        pose[0] = LOW[0] + 0.06 - min(0.16, 0.01 * k)
        decision = guard.step(Command(pose, k * H, k), JointState(pose, k * H), k * H)
        assert inside(decision.executed)
        levels.append(decision.energy)
    assert np.ptp(levels[20:]) < 1e-9  # nothing moves any more: nothing is gained


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 3.0, 100.0]), st.sampled_from([1, 5, 20]))
def test_rates_margins_and_leash_hold_for_any_request_and_any_arm(seed: int, size: float, hold: int) -> None:
    """Bang-bang and noise of every size; the arm lags, and is pushed at random."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(SOFT_LOW, SOFT_HIGH)
    pushed = bool(rng.integers(2))
    guard = started(pose=pose)
    before, velocity, measured, target = pose, np.zeros(7), pose.copy(), pose
    for k in range(120):
        if k % hold == 0:
            target = rng.choice([-1.0, 1.0], 7) * size if rng.integers(2) else rng.normal(0, size, 7)
        now = k * H
        if pushed and rng.random() < 0.1:
            push = np.clip(rng.normal(0, 0.5, 7), -LEASH / 3, LEASH / 3)  # an arm could come that far
            measured = np.clip(measured + push, SOFT_LOW, SOFT_HIGH)
        decision = guard.step(Command(target, now, k), JointState(measured, now), now)
        executed = decision.executed
        assert executed is not None
        assert not decision.latched
        assert (executed >= SOFT_LOW).all()
        assert (executed <= SOFT_HIGH).all()
        assert (np.abs(executed - measured) <= np.array(CONFIG.leash) + TINY).all()
        step = executed - before
        # A joint moves faster than its limits only where the leash pulls it towards the measured pose.
        leashed = np.isclose(np.abs(executed - measured), CONFIG.leash)
        assert (leashed | (np.abs(step) <= SPEED * H + TINY)).all()
        assert (leashed | (np.abs(step / H - velocity) <= ACCELERATION * H + TINY / H)).all()
        # What the guard goes on from after the leash: the speed limit.
        velocity = np.clip(step / H, -SPEED, SPEED)
        if pushed and leashed.any():
            velocity = np.array(guard._velocity)
        before = executed
        measured = measured + 0.7 * (executed - measured)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.0, 0.9), min_size=7, max_size=7),
    st.lists(st.floats(0.2, 3.0), min_size=7, max_size=7),
)
def test_a_safe_request_is_executed_bit_for_bit(share: list[float], rate: list[float]) -> None:
    """Sines inside position, velocity and acceleration limits pass unchanged."""
    omega = np.array(rate)
    room = np.minimum(SOFT_HIGH - HOME, HOME - SOFT_LOW)
    amplitude = np.array(share) * np.minimum(room, np.minimum(SPEED / omega, ACCELERATION / omega**2)) / 2
    guard = started()
    for k in range(1, 150):
        now = k * H
        # 1 - cos starts at rest, as the guard does.
        target = HOME + amplitude * (1 - np.cos(omega * now)) / 2
        decision = guard.step(Command(target, now, k), JointState(target, now), now)
        assert decision.reason == ""
        assert decision.executed is not None
        np.testing.assert_array_equal(decision.executed, target)


def test_a_far_target_is_reached_exactly_without_overshoot() -> None:
    guard = started()
    target = HOME + np.array([2.0, 1.0, -1.5, -1.0, 0.5, 3.0, -0.015])
    position, overshoot = HOME, 0.0
    for k in range(150):
        decision = guard.step(Command(target, k * H, k), JointState(position, k * H), k * H)
        assert decision.executed is not None
        position = decision.executed
        overshoot = max(overshoot, float(((position - target) * np.sign(target - HOME)).max()))
    assert decision.reason == ""
    np.testing.assert_array_equal(position, target)
    assert overshoot <= TINY


def test_a_moving_target_is_caught_up_with() -> None:
    """A limit on acceleration costs time once, not a lag for ever."""
    guard = started()
    position = HOME
    for k in range(60):
        target = HOME + np.array([1.0, 0, 0, 0, 0, 0, 0]) * k * H
        decision = guard.step(Command(target, k * H, k), JointState(position, k * H), k * H)
        assert decision.executed is not None
        position = decision.executed
    np.testing.assert_array_equal(position, target)


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_ramp_into_the_margin_is_braked_before_it(joint: int, sign: int) -> None:
    guard = started()
    position, velocity = HOME, 0.0
    soft = (SOFT_LOW, SOFT_HIGH)[sign > 0][joint]
    for k in range(250):
        target = HOME.copy()
        target[joint] += sign * 1.0 * k * H
        decision = guard.step(Command(target, k * H, k), JointState(position, k * H), k * H)
        assert decision.executed is not None
        speed = (decision.executed[joint] - position[joint]) / H
        assert abs(speed - velocity) <= ACCELERATION[joint] * H + TINY / H
        position, velocity = decision.executed, speed
    assert position[joint] == pytest.approx(soft)
    assert decision.reason == "position_limit"


@settings(deadline=None)
@given(st.floats(1e-4, 3.0), st.floats(0.5, 20.0))
def test_braking_speed_stops_within_the_distance_and_no_less(distance: float, acceleration: float) -> None:
    speed = braking_speed(distance, acceleration, H)
    way, v = 0.0, speed
    while v > 0:
        way += v * H
        v -= acceleration * H
    assert way == pytest.approx(distance, rel=1e-9)


def guard_target(k: int) -> np.ndarray:
    return HOME + np.array([0.4 * (1 - math.cos(2 * k * H)), 0, 0, 0, 0, 0, 0])


def run(guard: CommandGuard, steps: int = 20) -> float:
    """Move the waist for some steps; returns the time after the last."""
    for k in range(steps):
        now = k * H
        target = guard_target(k)
        decision = guard.step(Command(target, now, k), JointState(target, now), now)
        assert decision.reason == ""
    return steps * H


MEASURED = HOME + 0.005
FAULTS = {
    "NaN": (lambda t: Command(HOME * np.nan, t, 99), None, "non_finite"),
    "signalling NaN": (
        lambda t: Command(np.full(7, 0x7FF4000000000000, np.uint64).view(np.float64), t, 99),
        None,
        "non_finite",
    ),
    "inf": (lambda t: Command(HOME + np.inf, t, 99), None, "non_finite"),
    "sum overflows": (lambda t: Command(np.full(7, 1e308), t, 99), None, "non_finite"),
    "too short": (lambda t: Command(HOME[:6], t, 99), None, "wrong_shape"),
    "no array": (lambda t: Command("home", t, 99), None, "wrong_shape"),
    "duplicate sequence": (lambda t: Command(HOME, t, 19), None, "out_of_order"),
    "duplicate with another stamp": (lambda t: Command(guard_target(19), t, 19), None, "out_of_order"),
    "reordered": (lambda t: Command(HOME, t, 7), None, "out_of_order"),
    "stamp goes back": (lambda t: Command(HOME, t - 3 * H, 99), None, "out_of_order"),
    "future stamp": (lambda t: Command(HOME, t + 1.0, 99), None, "out_of_order"),
    "no stamp": (lambda t: Command(HOME, math.nan, 99), None, "out_of_order"),
    "sender vanished": (lambda t: None, None, "stale_command"),
    "state dropped": (lambda t: Command(HOME, t, 99), lambda t: None, "stale_state"),
    "state frozen": (lambda t: Command(HOME, t, 99), lambda t: JointState(MEASURED, t - 0.2), "stale_state"),
    "state NaN": (lambda t: Command(HOME, t, 99), lambda t: JointState(HOME * np.nan, t), "non_finite"),
    "state short": (lambda t: Command(HOME, t, 99), lambda t: JointState(HOME[:3], t), "wrong_shape"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_holds_the_measured_pose_and_stays_latched_until_reset(fault: str) -> None:
    command, state, reason = FAULTS[fault]
    guard = started()
    now = run(guard)
    measured = JointState(MEASURED, now)
    last_good = guard._measured
    decision = guard.step(command(now), measured if state is None else state(now), now)
    assert (decision.reason, decision.latched) == (reason, True)
    held = decision.executed
    np.testing.assert_array_equal(held, MEASURED if state is None else last_good)
    for k in range(1, 50):  # good input again, the arm sagging: nothing moves
        later = now + k * H
        sagging = JointState(MEASURED + 0.00001 * k, later)
        decision = guard.step(Command(HOME, later, 200 + k), sagging, later)
        assert (decision.reason, decision.latched) == (reason, True)
        np.testing.assert_array_equal(decision.executed, held)
    guard.reset(MEASURED, later)
    decision = guard.step(Command(MEASURED, later, 0), JointState(MEASURED, later), later)
    assert decision.reason == ""


def test_a_repeated_command_is_carried_on_until_it_is_stale() -> None:
    guard = started()
    command = Command(HOME, 0.0, 0)
    reasons = [guard.step(command, JointState(HOME, k * H), k * H).reason for k in range(8)]
    assert reasons == [""] * 5 + ["stale_command"] * 3  # 0.08 s are four periods


def test_clock_jumps_latch() -> None:
    for jump in (-5.0, 5.0):
        guard = started()
        now = run(guard)
        decision = guard.step(Command(HOME, now, 99), JointState(HOME, now), now + jump)
        assert decision.latched


def test_estop_wins_over_every_fault_and_is_latched() -> None:
    guard = started()
    now = run(guard)
    guard.step(Command(HOME * np.nan, now, 99), JointState(MEASURED, now), now)
    guard.estop()
    decision = guard.step(Command(HOME, now + H, 100), JointState(MEASURED, now + H), now + H)
    assert (decision.reason, decision.latched) == ("estop", True)
    guard.estop()
    guard.set_active(True)
    assert guard.step(Command(HOME, now + H, 101), JointState(HOME, now + H), now + H).reason == "estop"


def test_inactive_holds_and_resumes_from_rest_at_the_held_pose() -> None:
    guard = started()
    now = run(guard)
    guard.set_active(False)
    decision = guard.step(Command(HOME + 0.2, now, 50), JointState(MEASURED, now), now)
    assert (decision.reason, decision.latched) == ("inactive", False)
    np.testing.assert_array_equal(decision.executed, MEASURED)
    guard.set_active(True)
    now += H
    decision = guard.step(Command(HOME - 0.2, now, 51), JointState(MEASURED, now), now)
    assert decision.executed is not None
    assert (np.abs(decision.executed - MEASURED) <= ACCELERATION * H * H + TINY).all()


def test_nothing_is_sent_before_the_first_reset_and_waiting_is_no_fault() -> None:
    guard = CommandGuard(CONFIG)
    state = JointState(HOME, 0.0)
    assert guard.step(Command(HOME, 0.0, 0), state, 0.0) == Decision(None, "inactive", True)
    with pytest.raises(DataError, match="7 finite positions of waist"):
        guard.reset(HOME * np.nan, 0.0)
    guard.reset(HOME, 0.0)
    decision = guard.step(None, state, 0.0)
    assert (decision.reason, decision.latched) == ("inactive", False)


def test_an_arm_that_starts_outside_its_margins_only_moves_inwards() -> None:
    pose = HOME.copy()
    pose[0] = HIGH[0] - 0.01
    guard = started(pose=pose)
    previous = pose[0]
    for k in range(40):
        target = HOME.copy()
        target[0] = 3.2
        state = JointState(pose - 1e-6 * k, k * H)  # sags a little: a state that repeats is a dead one
        decision = guard.step(Command(target, k * H, k), state, k * H)
        assert decision.executed is not None
        assert decision.executed[0] <= previous + TINY
        previous = decision.executed[0]
    assert previous == pytest.approx(SOFT_HIGH[0])


def test_a_hurried_caller_does_not_move_the_arm_faster() -> None:
    guard = started()
    target = HOME + np.array([1.0, 0, 0, 0, 0, 0, 0])
    for k in range(100):
        now = k * H / 10
        decision = guard.step(Command(target, now, k), JointState(HOME, now), now)
    assert decision.executed is not None
    calm = started()
    for k in range(20):
        calm_decision = calm.step(Command(target, k * H, k), JointState(HOME, k * H), k * H)
    assert calm_decision.executed is not None
    assert decision.executed[0] <= calm_decision.executed[0]


def test_the_passivity_filter_stands_last() -> None:
    budget = PassivityConfig.widowx_250s(
        mode="passive", power_w=0.0, tank_max_j=0.2, tank_min_j=0.1, tank_start_j=0.1
    )
    guard = started(GuardConfig.widowx_250s(passivity=budget))
    target = HOME + np.array([1e-3, 0, 0, 0, 0, 0, 0])
    decision = guard.step(Command(target, 0.0, 0), JointState(HOME, 0.0), 0.0)
    assert (decision.reason, decision.latched) == ("energy", False)
    assert decision.energy == pytest.approx(0.1)  # an empty tank lets nothing through
    assert decision.scale == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(decision.executed, HOME, atol=1e-6)


def test_reasons_name_the_first_limit_in_order() -> None:
    for target, reason in [
        (HOME + np.array([9, 0, 0, 0, 0, 0, 0]), "position_limit"),
        (HOME + np.array([1, 0, 0, 0, 0, 0, 0]), "velocity_limit"),
        (HOME + np.array([0.01, 0, 0, 0, 0, 0, 0]), "acceleration_limit"),
    ]:
        decision = started().step(Command(target, 0.0, 0), JointState(HOME, 0.0), 0.0)
        assert decision.reason == reason
        assert FILTER_REASONS[decision.reason_index] == reason
    guard = started()
    guard.step(Command(HOME, 0.0, 0), JointState(HOME, 0.0), 0.0)
    far = JointState(HOME - np.array([0.34, 0, 0, 0, 0, 0, 0]), H)
    assert guard.step(Command(HOME, H, 1), far, H).reason == "leash"


def test_the_filter_of_the_simulator_restarts_with_the_clock() -> None:
    guard_filter = pickle.loads(pickle.dumps(widowx_guard_factory))()
    assert isinstance(guard_filter, GuardFilter)
    executed, reason = guard_filter(HOME, HOME, 0.0)
    assert reason == 0
    np.testing.assert_array_equal(executed, HOME)
    executed, reason = guard_filter(HOME * np.nan, MEASURED, H)
    assert FILTER_REASONS[reason] == "non_finite"
    executed, reason = guard_filter(HOME, MEASURED, 2 * H)
    assert FILTER_REASONS[reason] == "non_finite"  # latched to the end of the episode
    executed, reason = guard_filter(HOME, HOME, 0.0)
    assert reason == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lower": (0.0,) * 6}, "lower is .* expected 7 finite numbers"),
        ({"max_velocity": (0.0,) * 7}, "max_velocity .* above 0"),
        ({"margin": (2.0,) * 7}, "shoulder: .* leave a range of"),
        ({"max_command_age_s": 0.001}, "shorter than one period"),
        ({"period_s": math.nan}, "period_s is nan"),
        ({"names": ("waist",) * 7}, "each named once"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_figure(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        GuardConfig.widowx_250s(**changes)


def test_the_config_survives_json() -> None:
    import json

    assert GuardConfig(**json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_limits_are_those_of_the_simulated_arm(robot: str) -> None:
    arm, config = arm_model(robot), GuardConfig.of_robot(robot)
    model = arm.compile()
    assert config.names == (*arm.joints, "left_finger")
    ranges = np.array([model.joint(name).range for name in config.names])
    np.testing.assert_allclose(np.transpose([config.lower, config.upper]), ranges)
    np.testing.assert_allclose(config.max_velocity[:6], arm.max_speed)
    servos = [model.actuator(name).id for name in (*arm.joints, "gripper")]
    np.testing.assert_allclose(config.stiffness, model.actuator_gainprm[servos, 0])
    np.testing.assert_allclose(config.damping, -model.actuator_biasprm[servos, 2])


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_passivity_filter_counts_on_no_more_than_gravity_leaves(robot: str) -> None:
    arm, budget = arm_model(robot), PassivityConfig.of_robot(robot)
    GuardConfig.of_robot(robot, passivity=budget)
    model = arm.compile()
    model.body_gravcomp[:] = 0.0
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    dofs = [int(model.joint(name).dofadr[0]) for name in arm.joints]
    weight = np.zeros(6)
    for _ in range(1000):
        data.qpos[:] = rng.uniform(*model.jnt_range.T)
        mujoco.mj_forward(model, data)
        weight = np.maximum(weight, np.abs(data.qfrc_bias[dofs]))
    effort = model.actuator_forcerange[[model.actuator(name).id for name in arm.joints], 1]
    left = np.array(budget.per_joint("torque_limit", 7)[:6])
    assert (left <= effort - weight + 0.06).all()
    assert (left >= 0.8 * (effort - weight)).all()


def test_a_robot_without_limits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown robot 'widowx_a1'.*widowx_ai"):
        GuardConfig.of_robot("widowx_a1")
