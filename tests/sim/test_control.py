"""Control modes: what the motors do, against the laws they claim to follow."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from robot_rl.errors import ConfigError
from sim.control import CONTROL_MODES, make_drive
from sim.impedance import CartesianImpedance, ImpedanceConfig
from sim.kinematics import ARM_XML, JOINTS, ArmKinematics, Pose, matrix_from_rpy

HOME = np.array([0.2, -0.3, 0.6, 0.1, 1.2, 0.0])


def scene(joints: np.ndarray = HOME) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_path(str(ARM_XML))
    data = mujoco.MjData(model)
    data.qpos[:8] = [*joints, 0.03, -0.03]
    mujoco.mj_forward(model, data)
    return model, data


def frictionless(model: mujoco.MjModel) -> None:
    model.dof_frictionloss[:] = 0
    model.dof_damping[:6] = 0


def test_impedance_reaches_its_target_and_rests() -> None:
    model, data = scene()
    frictionless(model)
    impedance = CartesianImpedance(model, data)
    here = ArmKinematics().forward(HOME)
    target = Pose(
        here.position + np.array([0.03, -0.02, 0.03]),
        here.rotation @ matrix_from_rpy(np.array([0.1, -0.1, 0.2])),
    )
    impedance.step(target, 0.03, 1500)
    assert np.abs(impedance.error(target)[:3]).max() < 2e-4
    assert np.abs(impedance.error(target)[3:]).max() < 2e-3
    assert np.abs(impedance.velocity()).max() < 1e-3


@pytest.mark.parametrize("stiffness", [200.0, 1000.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_push_on_the_tool_moves_it_by_force_over_stiffness(stiffness: float, axis: int) -> None:
    model, data = scene()
    frictionless(model)
    impedance = CartesianImpedance(model, data, ImpedanceConfig(translation=stiffness))
    target = ArmKinematics().forward(HOME)
    force = np.zeros(3)
    force[axis] = 1.5
    generalised = np.zeros(model.nv)
    mujoco.mj_applyFT(
        model, data, force, np.zeros(3), target.position, model.body("gripper_link").id, generalised
    )
    data.qfrc_applied[:] = generalised
    impedance.step(target, 0.03, 2000)
    np.testing.assert_allclose(impedance.error(target)[:3], -force / stiffness, atol=4e-4)


def test_damping_neither_rings_nor_creeps_whatever_the_stiffness() -> None:
    target = ArmKinematics().forward(HOME)
    for stiffness in (50.0, 400.0, 1500.0):
        model, data = scene()
        frictionless(model)
        impedance = CartesianImpedance(model, data, ImpedanceConfig(translation=stiffness, rotation=60.0))
        goal = Pose(target.position + np.array([0.0, 0.0, 0.02]), target.rotation)
        heights = []
        for _ in range(300):
            impedance.step(goal, 0.03, 5)
            heights.append(impedance.error(goal)[2])
        assert min(heights) > -0.1 * 0.02  # overshoot
        assert abs(heights[-1]) < 0.05 * 0.02


def test_torques_stay_within_the_efforts_and_the_joints_within_their_limits() -> None:
    model, data = scene()
    impedance = CartesianImpedance(model, data, ImpedanceConfig(translation=1500.0, rotation=60.0))
    dofs = [model.joint(name).dofadr[0] for name in JOINTS]
    kinematics, rng = ArmKinematics(), np.random.default_rng(0)
    for _ in range(40):  # a leash's length away, again and again, until it leans on the stops
        here = kinematics.forward(data.qpos[:6])
        turn = matrix_from_rpy(rng.uniform(-0.25, 0.25, 3))
        target = Pose(here.position + np.array([-0.04, 0.04, 0.04]), turn @ here.rotation)
        impedance.step(target, 0.03, 20)
        assert (np.abs(data.qfrc_actuator[dofs]) <= impedance.effort + 1e-9).all()
        assert (data.qpos[:6] > kinematics.lower - 0.05).all()
        assert (data.qpos[:6] < kinematics.upper + 0.05).all()


def test_energy_of_arm_and_springs_never_grows() -> None:
    model, data = scene()
    frictionless(model)
    model.opt.gravity[:] = 0
    impedance = CartesianImpedance(model, data)
    here = ArmKinematics().forward(HOME)
    target = Pose(here.position + np.array([0.04, 0.04, 0.02]), here.rotation)
    total = []
    for _ in range(200):
        impedance.step(target, 0.03, 1)
        mujoco.mj_energyVel(model, data)
        mujoco.mj_kinematics(model, data)
        total.append(data.energy[1] + impedance.energy(target))
    assert (np.diff(total) < 2e-3 * total[0]).all()
    assert total[-1] < 0.3 * total[0]


def test_stiffness_of_an_action_spans_the_ranges() -> None:
    config = ImpedanceConfig()
    np.testing.assert_allclose(config.stiffness([-1] * 4), [30, 30, 30, 2, 2, 2])
    np.testing.assert_allclose(config.stiffness([1] * 4), [1500, 1500, 1500, 60, 60, 60])
    with pytest.raises(ConfigError, match="expected \\(4,\\)"):
        config.stiffness([0, 0])


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"translation": 0.0}, "translation=0.0"),
        ({"rotation": 900.0}, "rotation=900.0"),
        ({"damping_ratio": -1.0}, "damping_ratio=-1.0"),
    ],
)
def test_bad_impedance_is_refused_by_name(bad: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ImpedanceConfig(**bad)


def test_bad_stiffness_and_mode_are_refused_by_name() -> None:
    model, data = scene()
    with pytest.raises(ConfigError, match="expected six numbers"):
        CartesianImpedance(model, data).set_stiffness([1e6] * 6)
    with pytest.raises(ConfigError, match=r"unknown control mode 'torque'.*cartesian_impedance"):
        make_drive("torque", model, data)


@pytest.mark.parametrize("mode", CONTROL_MODES)
def test_every_mode_follows_a_stream_of_setpoints(mode: str) -> None:
    model, data = scene()
    drive = make_drive(mode, model, data)
    start = np.append(HOME, 0.03)
    drive.place(start)
    goal = start + np.array([0.1, 0.05, -0.05, 0.05, 0.1, -0.1, 0.0])
    for share in np.linspace(0, 1, 30):
        drive.follow(start + share * (goal - start), 10)
    for _ in range(50):
        drive.follow(goal, 10)
    tool, wanted = ArmKinematics().forward(data.qpos[:6]), ArmKinematics().forward(goal[:6])
    assert np.linalg.norm(tool.position - wanted.position) < 4e-3
