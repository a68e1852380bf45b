"""The arm against the published facts, and its kinematics against their own definition."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.errors import ConfigError
from sim.arm import FINGER_CLOSED_M, FINGER_OPEN_M, Workspace
from sim.kinematics import (
    ARM_XML,
    JOINTS,
    ArmKinematics,
    Pose,
    matrix_from_rpy,
    rotation_vector,
    rpy_from_matrix,
)

LIMITS = {
    "waist": (-3.14158, 3.14158, 10),
    "shoulder": (-1.88496, 1.98968, 20),
    "elbow": (-2.14675, 1.6057, 15),
    "forearm_roll": (-3.14158, 3.14158, 2),
    "wrist_angle": (-1.74533, 2.14675, 5),
    "wrist_rotate": (-3.14158, 3.14158, 1),
}
MASSES = (0.5387, 0.4809, 0.4308, 0.2346, 0.2210, 0.0850, 0.1101, 0.0162, 0.0162)
# The chain of the description: (offset from the previous frame [m], axis) of each joint, then the fingers.
CHAIN = (
    ((0, 0, 0.072), 2),
    ((0, 0, 0.03865), 1),
    ((0.04975, 0, 0.25), 1),
    ((0.175, 0, 0), 0),
    ((0.075, 0, 0), 1),
    ((0.065, 0, 0), 0),
)
FINGERS = (0.066, 0, 0)

# Downward-pointing poses well inside the reachable space.
positions = st.tuples(st.floats(0.2, 0.4), st.floats(-0.18, 0.18), st.floats(0.03, 0.2))
tilts = st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(-0.8, 0.8))
HOME = np.array([0.0, -0.3, 0.6, 0.0, 1.2, 0.0])


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(ARM_XML))


@pytest.fixture(scope="module")
def kinematics() -> ArmKinematics:
    return ArmKinematics()


def chain(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and rotation of the finger frames' origin, written down from the facts."""
    position, rotation = np.zeros(3), np.eye(3)
    for (offset, axis), angle in zip(CHAIN, joints, strict=True):
        position = position + rotation @ offset
        turn = np.zeros(3)
        turn[axis] = angle
        rotation = rotation @ matrix_from_rpy(turn)
    return position + rotation @ FINGERS, rotation


def test_masses(model: mujoco.MjModel) -> None:
    np.testing.assert_allclose(model.body_mass[1:], MASSES, atol=1e-9)
    assert model.body_subtreemass[0] == pytest.approx(sum(MASSES))


@pytest.mark.parametrize("name", JOINTS)
def test_limits_and_efforts(model: mujoco.MjModel, name: str) -> None:
    low, high, effort = LIMITS[name]
    assert tuple(model.joint(name).range) == pytest.approx((low, high))
    assert tuple(model.jnt_actfrcrange[model.joint(name).id]) == pytest.approx((-effort, effort))
    assert tuple(model.actuator(name).forcerange) == pytest.approx((-effort, effort))


def test_finger_travel(model: mujoco.MjModel) -> None:
    assert tuple(model.joint("left_finger").range) == (FINGER_CLOSED_M, FINGER_OPEN_M) == (0.015, 0.037)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1.7, 1.6), min_size=6, max_size=6))
def test_forward_kinematics_are_the_published_chain(model: mujoco.MjModel, angles: list[float]) -> None:
    data = mujoco.MjData(model)
    data.qpos[[model.joint(name).qposadr[0] for name in JOINTS]] = angles
    data.joint("left_finger").qpos = 0.0  # the finger frame itself, without travel
    mujoco.mj_kinematics(model, data)
    position, rotation = chain(np.array(angles))
    np.testing.assert_allclose(data.body("left_finger_link").xpos, position, atol=1e-9)
    np.testing.assert_allclose(data.body("gripper_link").xmat.reshape(3, 3), rotation, atol=1e-9)


def test_tool_is_upright_when_pointing_down(kinematics: ArmKinematics) -> None:
    pose = kinematics.forward(np.array([0, 0, 0, 0, math.pi / 2, 0]))
    np.testing.assert_allclose(pose.rotation, np.eye(3), atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3)))
def test_rpy_round_trip(rpy: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(rpy_from_matrix(matrix_from_rpy(np.array(rpy))), rpy, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6))
def test_jacobian_is_the_finite_difference(kinematics: ArmKinematics, angles: list[float]) -> None:
    joints, h = np.array(angles), 1e-6
    jacobian = kinematics.jacobian(joints).copy()
    for column in range(6):
        step = np.zeros(6)
        step[column] = h
        ahead, behind = kinematics.forward(joints + step), kinematics.forward(joints - step)
        np.testing.assert_allclose(
            (ahead.position - behind.position) / (2 * h), jacobian[:3, column], atol=1e-6
        )
        turn = rotation_vector(ahead.rotation @ behind.rotation.T) / (2 * h)
        np.testing.assert_allclose(turn, jacobian[3:, column], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(positions, tilts)
def test_inverse_kinematics_reach_the_pose(
    kinematics: ArmKinematics, position: tuple[float, ...], tilt: tuple[float, ...]
) -> None:
    target = Pose(np.array(position), matrix_from_rpy(np.array(tilt)))
    joints, error = kinematics.inverse(target, HOME, iterations=50)
    assert error < 1e-4
    reached = kinematics.forward(joints)
    np.testing.assert_allclose(reached.position, target.position, atol=1e-4)
    np.testing.assert_allclose(reached.rotation, target.rotation, atol=2e-4)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-1, 2)),
    st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3)),
)
def test_inverse_kinematics_respect_the_limits_out_of_reach(
    kinematics: ArmKinematics, position: tuple[float, ...], rpy: tuple[float, ...]
) -> None:
    joints, _ = kinematics.inverse(Pose(np.array(position), matrix_from_rpy(np.array(rpy))), HOME)
    assert np.isfinite(joints).all()
    assert (joints >= kinematics.lower).all()
    assert (joints <= kinematics.upper).all()


@given(positions, tilts)
def test_workspace_clip_is_idempotent_and_inside(
    position: tuple[float, ...], tilt: tuple[float, ...]
) -> None:
    workspace = Workspace(
        low=(0.25, -0.1, 0.05), high=(0.3, 0.1, 0.1), rpy_low=(0, -0.1, 0), rpy_high=(0, 0.1, 0.5)
    )
    clipped = workspace.clip(Pose(np.array(position), matrix_from_rpy(np.array(tilt))))
    again = workspace.clip(clipped)
    assert (clipped.position >= workspace.low).all()
    assert (clipped.position <= workspace.high).all()
    rpy = rpy_from_matrix(clipped.rotation)
    assert (rpy >= np.array(workspace.rpy_low) - 1e-9).all()
    assert (rpy <= np.array(workspace.rpy_high) + 1e-9).all()
    np.testing.assert_allclose(again.rotation, clipped.rotation, atol=1e-9)


def test_workspace_refuses_reversed_bounds() -> None:
    with pytest.raises(ConfigError, match="low <= high"):
        Workspace(low=(0.5, 0, 0), high=(0.4, 0, 0))
