"""Both arms against their published chains and masses, and inverse kinematics over all of the workspace."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np
import pytest

import sim
from robot_rl.errors import ConfigError, DataError
from sim.arm import Workspace
from sim.arm_model import ROBOTS, WIDOWX_250S, WIDOWX_AI, ArmModel, ArmParameters, JointParameters
from sim.kinematics import ArmKinematics, Pose, matrix_from_rpy, rotation_vector

GRAVITY = 9.81


class Link(NamedTuple):
    """Joint's place in the parent's frame [m], axis, mass [kg], centre of mass [m]."""

    offset: tuple[float, float, float]
    axis: tuple[float, float, float]
    mass: float
    centre: tuple[float, float, float]


# Written down once more from the manufacturer's descriptions: nothing here is read from the MJCF.
LINKS = {
    "widowx_250s": (
        Link((0, 0, 0.072), (0, 0, 1), 0.4809, (0, 0, 0.0066)),
        Link((0, 0, 0.03865), (0, 1, 0), 0.4308, (0.0172, 0, 0.1913)),
        Link((0.04975, 0, 0.25), (0, 1, 0), 0.2346, (0.1080, 0.0001, 0)),
        Link((0.175, 0, 0), (1, 0, 0), 0.2210, (0.0374, 0.0052, 0)),
        Link((0.075, 0, 0), (0, 1, 0), 0.0850, (0.0424, 0, 0.0106)),
        Link((0.065, 0, 0), (1, 0, 0), 0.1101, (0.0325, 0, 0.0091)),
    ),
    "widowx_ai": (
        Link((0, 0, 0.05725), (0, 0, 1), 0.15270428, (-0.00011075, 0.00171176, 0.02044592)),
        Link((0.02, 0, 0.04625), (0, 1, 0), 1.15316319, (-0.13121451, -0.00292583, 0.00021345)),
        Link((-0.264, 0, 0), (0, -1, 0), 0.68666638, (0.18083602, -0.0009409, 0.05554937)),
        Link((0.245, 0, 0.06), (0, -1, 0), 0.45789905, (0.05797842, 0.00027145, 0.05884447)),
        Link((0.06775, 0, 0.0455), (0, 0, -1), 0.3669391, (0.00412447, -0.00001138, -0.04283184)),
        Link((0.02895, 0, -0.0455), (1, 0, 0), 0.55469347, (0.04572768, -0.00000726, 0.00001402)),
    ),
}
# What the last link carries: mass [kg], centre of mass in its frame [m] without the fingers' travel along y.
CARRIED = {
    "widowx_250s": ((0.0162, (0.0798, 0, 0)), (0.0162, (0.0798, 0, 0))),
    "widowx_ai": (
        (0.05036313, (0.07760398, -0.00403515 + 0.008, -0.00457908)),
        (0.03090787, (0.10543993, -0.00901223 + 0.008, -0.00215453)),
        (0.05036313, (0.07760398, 0.00403514 - 0.008, 0.00457901)),
        (0.03090786, (0.10543989, 0.00901216 - 0.008, -0.00215461)),
        (0.0451801, (0.0422338, 0.00679835, 0.0500669)),  # the camera's mount
        (0.072, (0.058645, 0.009, 0.056046)),  # the camera
    ),
}
TOOL = {"widowx_250s": 0.0935, "widowx_ai": 0.156062}
EFFORTS = {"widowx_250s": (10, 20, 15, 2, 5, 1), "widowx_ai": (27, 27, 27, 7, 7, 7)}
LIMITS = {
    "widowx_250s": (
        (-3.14158, 3.14158), (-1.88496, 1.98968), (-2.14675, 1.6057),
        (-3.14158, 3.14158), (-1.74533, 2.14675), (-3.14158, 3.14158),
    ),
    "widowx_ai": (
        (-3.05433, 3.05433), (0, math.pi), (0, 3 * math.pi / 4),
        (-math.pi / 2, math.pi / 2), (-math.pi / 2, math.pi / 2), (-math.pi, math.pi),
    ),
}  # fmt: skip
MASS = {"widowx_250s": 2.134, "widowx_ai": 4.11}
arms = pytest.mark.parametrize("arm", ROBOTS.values(), ids=list(ROBOTS))


def frames(arm: ArmModel, angles: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Origin, axis and rotation of each joint's frame in the world, by Rodrigues' formula."""
    position, rotation, found = np.zeros(3), np.eye(3), []
    for link, angle in zip(LINKS[arm.name], angles, strict=True):
        position = position + rotation @ link.offset
        axis = np.array(link.axis, np.float64)
        skew = np.cross(np.eye(3), axis)
        turned = rotation @ (np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew)
        found.append((position, rotation @ axis, turned))
        rotation = turned
    return found


def gravity_torques(arm: ArmModel, angles: np.ndarray) -> np.ndarray:
    """Torque of each joint [N m] that holds the weight of all beyond it."""
    chain = frames(arm, angles)
    weights = [(link.mass, index, link.centre) for index, link in enumerate(LINKS[arm.name])]
    weights += [(mass, 5, centre) for mass, centre in CARRIED[arm.name]]
    torques = np.zeros(6)
    for mass, index, centre in weights:
        at = chain[index][0] + chain[index][2] @ np.array(centre)
        for joint in range(index + 1):
            lever = np.cross(at - chain[joint][0], [0, 0, -mass * GRAVITY])
            torques[joint] -= chain[joint][1] @ lever
    return torques


def random_joints(arm: ArmModel, number: int, seed: int = 0) -> np.ndarray:
    low, high = np.array(LIMITS[arm.name]).T
    return np.random.default_rng(seed).uniform(low, high, (number, 6))


@arms
def test_limits_efforts_and_masses(arm: ArmModel) -> None:
    model = arm.compile()
    for joint, limits, effort in zip(arm.joints, LIMITS[arm.name], EFFORTS[arm.name], strict=True):
        np.testing.assert_allclose(model.joint(joint).range, limits, atol=1e-4)
        assert tuple(model.jnt_actfrcrange[model.joint(joint).id]) == (-effort, effort)
        assert tuple(model.actuator(joint).forcerange) == (-effort, effort)
    assert model.site("tool").pos[0] == arm.tool == TOOL[arm.name]
    assert model.body_subtreemass[0] == pytest.approx(MASS[arm.name], abs=0.08)


def test_the_ai_weighs_what_is_published() -> None:
    assert WIDOWX_AI.compile().body_subtreemass[0] == pytest.approx(4.11, abs=0.005)


@arms
def test_forward_kinematics_are_those_of_the_published_chain(arm: ArmModel) -> None:
    kinematics = ArmKinematics(arm)
    for angles in random_joints(arm, 200):
        position, _, rotation = frames(arm, angles)[-1]
        tool = position + rotation @ [TOOL[arm.name], 0, 0]
        assert np.abs(kinematics.forward(angles).position - tool).max() < 1e-4


@arms
def test_gravity_torques_are_those_of_the_published_masses(arm: ArmModel) -> None:
    model = arm.compile()
    data = mujoco.MjData(model)
    joints = [model.joint(name).qposadr[0] for name in arm.joints]
    dofs = [model.joint(name).dofadr[0] for name in arm.joints]
    largest = 0.0
    for angles in random_joints(arm, 200):
        data.qpos[joints] = angles
        data.joint("left_finger").qpos = 0.015
        data.joint("right_finger").qpos = -0.015
        mujoco.mj_forward(model, data)
        torques = gravity_torques(arm, angles)
        assert np.abs(data.qfrc_bias[dofs] - torques).max() < 0.02
        largest = max(largest, np.abs(torques).max())
    assert largest > 3.0  # the comparison was about something


@arms
def test_the_servos_bear_the_arm_everywhere(arm: ArmModel) -> None:
    for angles in random_joints(arm, 300):
        assert (np.abs(gravity_torques(arm, angles)) < EFFORTS[arm.name]).all()


def pose_error(kinematics: ArmKinematics, joints: np.ndarray, target: Pose) -> tuple[float, float]:
    """[m], [degrees]."""
    reached = kinematics.forward(joints)
    turn = rotation_vector(reached.rotation @ target.rotation.T)
    return math.dist(reached.position, target.position), math.degrees(np.linalg.norm(turn))


def reachable(target: Pose) -> bool:
    """Whether the 250 S can take on a pose, in closed form: its last three axes meet in the wrist.

    Waist from the wrist's place, shoulder and elbow from the triangle of upper arm and forearm (two ways to
    bend), the wrist's turns from R = Rx Ry Rx (two ways).
    """
    low, high = np.array(LIMITS["widowx_250s"]).T
    tool = target.rotation @ [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # tool frame to that of the gripper, x ahead
    wrist = target.position - (0.065 + TOOL["widowx_250s"]) * tool[:, 0]
    upper, fore, lean = math.hypot(0.25, 0.04975), 0.25, math.atan2(0.04975, 0.25)
    for waist in (math.atan2(wrist[1], wrist[0]), math.atan2(-wrist[1], -wrist[0])):
        ahead = wrist[0] * math.cos(waist) + wrist[1] * math.sin(waist)
        up = wrist[2] - 0.072 - 0.03865
        cosine = (ahead**2 + up**2 - upper**2 - fore**2) / (2 * upper * fore)
        if abs(cosine) > 1:
            continue
        for bend in (math.acos(cosine), -math.acos(cosine)):  # of the forearm from the line of the upper arm
            first = math.atan2(ahead, up) - math.atan2(fore * math.sin(bend), upper + fore * math.cos(bend))
            shoulder, elbow = first - lean, bend + lean - math.pi / 2
            forearm = frames(WIDOWX_250S, np.array([waist, shoulder, elbow, 0, 0, 0]))[2][2]
            r = forearm.T @ tool
            for turn in (math.acos(np.clip(r[0, 0], -1, 1)), -math.acos(np.clip(r[0, 0], -1, 1))):
                side = math.copysign(1, turn)
                roll = math.atan2(side * r[1, 0], -side * r[2, 0])
                rotate = math.atan2(side * r[0, 1], side * r[0, 2])
                joints = np.array([waist, shoulder, elbow, roll, turn, rotate])
                if (joints >= low).all() and (joints <= high).all():
                    return True
    return False


def start_towards(arm: ArmModel, target: Pose) -> np.ndarray:
    start = np.array(arm.home)
    start[0] = math.atan2(target.position[1], target.position[0])
    return start


def test_inverse_kinematics_hold_every_reachable_pose_of_the_workspace() -> None:
    kinematics, workspace, rng = ArmKinematics(), Workspace(), np.random.default_rng(0)
    held = 0
    for _ in range(10_000):
        rpy = rng.uniform(workspace.rpy_low, workspace.rpy_high)
        target = Pose(rng.uniform(workspace.low, workspace.high), matrix_from_rpy(rpy))
        start = start_towards(WIDOWX_250S, target)
        joints, _ = kinematics.inverse(target, start, iterations=100, tolerance=2e-4)
        assert (joints >= kinematics.lower).all()
        assert (joints <= kinematics.upper).all()
        metres, degrees = pose_error(kinematics, joints, target)
        good = metres < 1e-3 and degrees < 0.5
        assert good or not reachable(target), (
            f"{target} is reachable; missed by {metres} m, {degrees} degrees"
        )
        held += good
    assert held > 9_900


def test_inverse_kinematics_of_the_ai() -> None:
    kinematics, rng = ArmKinematics(WIDOWX_AI), np.random.default_rng(0)
    for _ in range(1_000):
        joints = np.array(WIDOWX_AI.home) + rng.uniform(-0.35, 0.35, 6)
        joints[0] += rng.uniform(-0.6, 0.6)
        target = kinematics.forward(np.clip(joints, kinematics.lower, kinematics.upper))
        found, _ = kinematics.inverse(target, start_towards(WIDOWX_AI, target), 100, 2e-4)
        assert (found >= kinematics.lower).all()
        assert (found <= kinematics.upper).all()
        metres, degrees = pose_error(kinematics, found, target)
        assert metres < 1e-3
        assert degrees < 0.5


@arms
def test_inverse_kinematics_follow_to_any_pose_near_by(arm: ArmModel) -> None:
    kinematics, rng = ArmKinematics(arm), np.random.default_rng(1)
    for angles in random_joints(arm, 500, seed=1):
        target = kinematics.forward(angles)
        start = np.clip(angles + rng.uniform(-0.15, 0.15, 6), kinematics.lower, kinematics.upper)
        joints, _ = kinematics.inverse(target, start, iterations=50)
        assert (joints >= kinematics.lower).all()
        assert (joints <= kinematics.upper).all()
        metres, degrees = pose_error(kinematics, joints, target)
        assert metres < 1e-3
        assert degrees < 0.5


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_arm_holds_its_commanded_pose(robot: str) -> None:
    env = sim.make("widowx/reach", cameras=(), robot=robot)
    arm = env.unwrapped.scene.arm  # type: ignore[attr-defined]
    kinematics = ArmKinematics(ROBOTS[robot])
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(5):
            env.step(np.zeros(7, np.float32))
        metres, degrees = pose_error(kinematics, arm.measured[:6], kinematics.forward(arm.setpoint[:6]))
        assert metres < 1e-3
        assert degrees < 0.5


@pytest.mark.parametrize("task", ["reach", "push", "pick_place", "candy_sweep"])
def test_the_experts_work_with_the_other_arm(task: str) -> None:
    env = sim.make(f"widowx/{task}", cameras=(), robot="widowx_ai")
    assert env.unwrapped.task_spec.robot == "widowx_ai"  # type: ignore[attr-defined]
    wins = 0
    for seed in range(3):
        env.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
            done = terminated or truncated
        wins += info["success"]
    assert wins >= 2


def test_unknown_robot_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown robot 'panda'.*widowx_250s, widowx_ai"):
        sim.make("widowx/push", robot="panda")


def test_parameters_change_the_arm_and_survive_the_file(tmp_path: Path) -> None:
    nominal = ArmParameters.nominal(WIDOWX_250S)
    joints = {
        name: JointParameters(30.0 + index, 2.0, 0.3, 0.2, 0.02, 0.01 * index)
        for index, name in enumerate(nominal.joints)
    }
    parameters = ArmParameters("widowx_250s", joints, delay_s=0.03, gravity_compensation=0.5)
    parameters.save(tmp_path / "arm.json")
    assert ArmParameters.load(tmp_path / "arm.json") == parameters
    env = sim.make("widowx/reach", cameras=(), arm_parameters=str(tmp_path / "arm.json"))
    scene = env.unwrapped.scene  # type: ignore[attr-defined]
    np.testing.assert_allclose(ArmParameters.of(scene.model, WIDOWX_250S).table(), parameters.table())
    assert scene.arm.delay_s == 0.03
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    assert np.abs(scene.arm.measured - scene.arm.setpoint)[1:3].max() > 1e-3  # it sags now


def test_nominal_parameters_change_nothing() -> None:
    model, other = WIDOWX_250S.compile(), WIDOWX_250S.compile()
    ArmParameters.nominal(WIDOWX_250S).apply(model)
    for field in ("actuator_gainprm", "actuator_biasprm", "dof_damping", "dof_frictionloss", "dof_armature"):
        np.testing.assert_array_equal(getattr(model, field), getattr(other, field))
    np.testing.assert_array_equal(model.body_gravcomp, other.body_gravcomp)


def test_bad_parameter_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "arm.json"
    with pytest.raises(DataError, match="No such file"):
        ArmParameters.load(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        ArmParameters.load(file)
    ArmParameters.nominal(WIDOWX_AI).save(file)
    with pytest.raises(ConfigError, match="those of widowx_ai; expected widowx_250s"):
        sim.make("widowx/push", arm_parameters=str(file))
    content = json.loads(file.read_text())
    content["joints"]["joint_0"]["friction"] = -1
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="friction=-1"):
        ArmParameters.load(file)
