"""Known parameters are found again from a simulated log, and the real log's held-out part is predicted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from robot_rl.errors import ConfigError, DataError
from sim.arm_model import WIDOWX_250S, ArmParameters, JointParameters
from sim.sysid import Identified, JointLog, Replay, SysIdConfig, identify, joint_error

NOMINAL = ArmParameters.nominal(WIDOWX_250S)
TRUTH = ArmParameters(
    "widowx_250s",
    {
        name: JointParameters(
            kp=joint.kp * kp,
            kv=joint.kv * kv,
            damping=joint.damping,
            friction=joint.friction * friction,
            armature=joint.armature * armature,
            offset=offset,
        )
        for (name, joint), kp, kv, friction, armature, offset in zip(
            NOMINAL.joints.items(),
            (0.5, 0.3, 0.4, 0.6, 0.5, 1.5),
            (0.7, 0.6, 0.5, 1.3, 0.6, 1.4),
            (3.0, 6.0, 4.0, 2.0, 3.0, 2.0),
            (2.0, 1.5, 1.7, 2.0, 0.5, 1.5),
            (0.01, -0.02, 0.015, -0.01, 0.005, 0.02),
            strict=True,
        )
    },
    delay_s=0.024,
    gravity_compensation=0.7,
)
REAL = Path(os.environ.get("ROBOT_RL_REAL_DATA", "../shared/data")) / "wx250s_triangle.csv"


def simulated_log(noise: float, seconds: float = 4.0, period: float = 0.02) -> JointLog:
    """Slow sweeps, which show friction and weight, and jumps, which show gains and inertia."""
    rng, times = np.random.default_rng(0), np.arange(0, seconds, period)
    command = np.tile([0.0, -0.3, 0.6, 0.0, 0.6, 0.0], (len(times), 1))
    for joint in range(6):
        for amplitude, frequency in ((0.25, 0.35), (0.12, 1.1), (0.05, 2.7)):
            phase = rng.uniform(0, 2 * np.pi)
            command[:, joint] += amplitude * (np.sin(2 * np.pi * frequency * times + phase) - np.sin(phase))
        for start in rng.uniform(0.5, seconds - 0.5, 3):
            command[times > start, joint] += rng.uniform(-0.25, 0.25)
    log = JointLog(command, command, np.zeros(len(times), np.int64), period)
    measured = Replay(log, WIDOWX_250S)([TRUTH])[0]
    return dataclasses.replace(log, measured=measured + rng.normal(0, noise, measured.shape))


@pytest.fixture(scope="module")
def log() -> JointLog:
    return simulated_log(noise=0.001)


@pytest.fixture(scope="module")
def found(log: JointLog) -> Identified:
    return identify(log, WIDOWX_250S, SysIdConfig(noise_rad=0.001))


def test_the_replay_is_the_simulator(log: JointLog) -> None:
    assert joint_error(TRUTH, log).max() < 1.2e-3
    assert joint_error(NOMINAL, log).min() > 5e-3


def test_the_error_falls_to_the_noise(log: JointLog, found: Identified) -> None:
    assert joint_error(found.parameters, log).max() < 1.3e-3


def test_known_parameters_are_found_again(found: Identified) -> None:
    truth, values = TRUTH.table(), found.parameters.table()
    np.testing.assert_allclose(values[:, 0], truth[:, 0], rtol=0.15, err_msg="kp")
    total, expected = values[:, 1] + values[:, 2], truth[:, 1] + truth[:, 2]
    np.testing.assert_allclose(total, expected, rtol=0.15, err_msg="kv + damping")
    np.testing.assert_allclose(values[:, 3], truth[:, 3], rtol=0.3, err_msg="friction")
    np.testing.assert_allclose(values[:, 4], truth[:, 4], rtol=0.4, err_msg="armature")
    np.testing.assert_allclose(values[:, 5], truth[:, 5], atol=2e-3, err_msg="offset")
    assert found.parameters.delay_s == pytest.approx(TRUTH.delay_s, abs=2e-3)
    assert found.parameters.gravity_compensation == pytest.approx(TRUTH.gravity_compensation, abs=0.1)


def test_it_says_what_the_log_determines(found: Identified) -> None:
    assert all(0 <= share <= 1 + 1e-9 for share in found.informed.values())
    assert found.informed["shoulder.kp"] > 0.9
    assert found.informed["delay_s"] > 0.9
    assert found.informed["waist.damping"] < 0.5  # a hundredth of what the servo does by itself


@pytest.mark.skipif(not REAL.exists(), reason=f"no real joint log at {REAL}: set ROBOT_RL_REAL_DATA")
def test_the_real_logs_held_out_error_is_halved() -> None:
    log = JointLog.load(REAL, WIDOWX_250S, period_s=0.05)
    fitted_on, held_out = log.split()
    assert (len(fitted_on.segment), len(held_out.segment)) == (160, 80)
    after = joint_error(identify(fitted_on, WIDOWX_250S, SysIdConfig(max_iterations=20)).parameters, held_out)
    before = joint_error(NOMINAL, held_out)
    assert np.linalg.norm(after) < 0.4 * np.linalg.norm(before)
    assert (after < 0.5 * before).all()


def test_a_log_is_read_and_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    columns = [f"{kind}_{joint}" for kind in ("command", "measured") for joint in WIDOWX_250S.joints]
    rows = ["time," + ",".join(columns)]
    rows += [f"{0.02 * index}," + ",".join(["0.1"] * 6 + ["0.2"] * 6) for index in range(9)]
    file.write_text("\n".join(rows))
    log = JointLog.load(file, WIDOWX_250S)
    assert log.period_s == pytest.approx(0.02)
    assert log.command.shape == (9, 6)
    first, last = log.split()
    assert (len(first.segment), len(last.segment)) == (6, 3)
    file.write_text("\n".join(row.split(",", 1)[1] for row in rows))
    with pytest.raises(ConfigError, match="period="):
        JointLog.load(file, WIDOWX_250S)
    file.write_text("\n".join([rows[0].replace("measured_elbow", "elbow"), *rows[1:]]))
    with pytest.raises(DataError, match="no column measured_elbow"):
        JointLog.load(file, WIDOWX_250S)
    file.write_text("\n".join([*rows, rows[-1].replace("0.2", "nan")]))
    with pytest.raises(DataError, match="non-finite"):
        JointLog.load(file, WIDOWX_250S)
    with pytest.raises(DataError, match="No such file"):
        JointLog.load(tmp_path / "none.csv", WIDOWX_250S)
