"""The WidowX 250 S as a robosuite robot: import this, then `robosuite.make("Lift", robots="WidowX250S")`.

robosuite takes an arm and its gripper apart, drives the arm by torques and compensates gravity itself. Both
models are written out of the compiled MJCF of `sim.arm_model`, so chain, masses, limits, efforts, friction
and finger pads are those of every other WidowX here. The base stands on the table, behind the objects.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from functools import cache
from typing import Any

import mujoco
import numpy as np

from robot_rl.errors import MissingExtraError
from sim.arm import FINGER_OPEN_M
from sim.arm_model import WIDOWX_250S
from sim.kinematics import TOOL_SITE, ArmKinematics, Pose, rotation_vector
from sim.spec import FloatArray

try:
    from robosuite.models.grippers import register_gripper
    from robosuite.models.grippers.gripper_model import GripperModel
    from robosuite.models.robots.manipulators.manipulator_model import ManipulatorModel
    from robosuite.robots import register_robot_class
except ImportError as error:
    raise MissingExtraError("robosuite", "robosuite") from error

ROBOT = "WidowX250S"
BASE_BEHIND_TABLE_CENTRE_M, TABLE_HEIGHT_M = 0.28, 0.8
START = np.array([0.26, 0.0, 0.18])
"""Where the tool starts, from the base [m]."""

_HAND_QUAT = "0.70710678 0 0.70710678 0"  # robosuite's hand points along its z axis, ours along x
_FINGERS = ("left_finger_link", "right_finger_link")


@cache
def _arm() -> mujoco.MjModel:
    return WIDOWX_250S.compile()


def _text(numbers: Iterable[float]) -> str:
    return " ".join(f"{float(number):.9g}" for number in numbers)


def _element(tag: str, parent: ET.Element, **attributes: Any) -> ET.Element:
    return ET.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})


def _body(index: int, parent: ET.Element, name: str = "") -> ET.Element:
    """Body `index` of the arm's model under `parent`, without its children, nothing left to defaults."""
    m = _arm()
    body = _element(
        "body",
        parent,
        name=name or m.body(index).name,
        pos=_text(m.body_pos[index]),
        quat=_text(m.body_quat[index]),
    )
    _element(
        "inertial",
        body,
        pos=_text(m.body_ipos[index]),
        quat=_text(m.body_iquat[index]),
        mass=m.body_mass[index],
        diaginertia=_text(m.body_inertia[index]),
    )
    for j in range(m.body_jntadr[index], m.body_jntadr[index] + m.body_jntnum[index]):
        dof = m.jnt_dofadr[j]
        _element(
            "joint",
            body,
            name=m.joint(j).name,
            type=("free", "ball", "slide", "hinge")[m.jnt_type[j]],
            axis=_text(m.jnt_axis[j]),
            limited="true",
            range=_text(m.jnt_range[j]),
            damping=m.dof_damping[dof],
            frictionloss=m.dof_frictionloss[dof],
            armature=m.dof_armature[dof],
        )
    for g in range(m.body_geomadr[index], m.body_geomadr[index] + m.body_geomnum[index]):
        _geom(g, body, m.geom(g).name or f"{m.body(index).name}_{g}")
    return body


def _geom(index: int, body: ET.Element, name: str) -> None:
    """A geom twice, as robosuite has them: to be seen (group 1) and to collide (group 0)."""
    m = _arm()
    shape = {
        "type": mujoco.mjtGeom(m.geom_type[index]).name.removeprefix("mjGEOM_").lower(),
        "size": _text(m.geom_size[index]),
        "pos": _text(m.geom_pos[index]),
        "quat": _text(m.geom_quat[index]),
        "mass": 0,
    }
    rgba = _text(m.geom_rgba[index])
    _element("geom", body, name=f"{name}_visual", contype=0, conaffinity=0, group=1, rgba=rgba, **shape)
    if m.geom_contype[index]:
        _element(
            "geom",
            body,
            name=f"{name}_collision",
            group=0,
            contype=m.geom_contype[index],
            conaffinity=m.geom_conaffinity[index],
            condim=m.geom_condim[index],
            priority=m.geom_priority[index],
            friction=_text(m.geom_friction[index]),
            solref=_text(m.geom_solref[index]),
            **shape,
        )


def robot_xml() -> str:
    """MJCF of the arm up to the hand, with a torque motor for each joint."""
    m = _arm()
    root = ET.Element("mujoco", model="widowx_250s")
    _element("compiler", root, angle="radian")
    actuators = _element("actuator", root)
    body = _element("body", _element("worldbody", root), name="base")
    _element("camera", body, name="robotview", mode="fixed", pos="1 0 0.4", quat="0.653 0.271 0.271 0.653")
    _element("site", body, name="right_center", size="0.01", rgba="0 0 0 0", group=2)
    for index in range(1, m.nbody):
        if m.body(index).name not in _FINGERS:  # the links are a chain
            body = _body(index, body, "link_base" if index == 1 else "")
    hand = _element("body", body, name="right_hand", quat=_HAND_QUAT)
    _element("inertial", hand, pos="0 0 0", mass="1e-6", diaginertia="1e-9 1e-9 1e-9")
    _element("camera", hand, name="eye_in_hand", pos="0.05 0 0", quat="0 0.707108 0.707108 0", fovy=75)
    for name in WIDOWX_250S.joints:
        effort = m.jnt_actfrcrange[m.joint(name).id, 1]
        limits = {"ctrllimited": "true", "ctrlrange": f"{-effort} {effort}"}
        _element("motor", actuators, name=f"torq_{name}", joint=name, **limits)
    return ET.tostring(root, encoding="unicode")


def gripper_xml() -> str:
    """MJCF of the fingers on robosuite's hand, one servo for both."""
    m = _arm()
    root = ET.Element("mujoco", model="widowx_gripper")
    _element("compiler", root, angle="radian")
    w, x, y, z = _HAND_QUAT.split()
    hand = _element("body", _element("worldbody", root), name="right_gripper", quat=f"{w} {x} -{y} {z}")
    _element("inertial", hand, pos="0 0 0", mass="1e-6", diaginertia="1e-9 1e-9 1e-9")
    _element("site", hand, name="ft_frame", size="0.005", rgba="1 0 0 0", group=1)
    eef = _element("body", hand, name="eef", pos=_text(m.site(TOOL_SITE).pos), quat=_HAND_QUAT)
    _element("site", eef, name="grip_site", size="0.005", rgba="1 0 0 0.5", group=1)
    _element(
        "site", eef, name="grip_site_cylinder", type="cylinder", size="0.002 10", rgba="0 1 0 0", group=1
    )
    for axis, quat in (("x", "0.7071 0 0.7071 0"), ("y", "0.7071 0.7071 0 0"), ("z", "1 0 0 0")):
        line = {"type": "cylinder", "size": "0.002 0.1", "quat": quat, "rgba": "0 0 0 0", "group": 1}
        _element("site", eef, name=f"ee_{axis}", **line)
    for finger in _FINGERS:
        _body(m.body(finger).id, hand)
    equality = _element("equality", root)
    _element(
        "joint",
        equality,
        joint1="right_finger",
        joint2="left_finger",
        polycoef=_text(m.eq_data[0, :5]),
        solref=_text(m.eq_solref[0]),
    )
    servo, actuators = m.actuator("gripper"), _element("actuator", root)
    _element(
        "position",
        actuators,
        name="gripper",
        joint="left_finger",
        kp=servo.gainprm[0],
        kv=-servo.biasprm[2],
        ctrllimited="true",
        ctrlrange=_text(servo.ctrlrange),
        forcelimited="true",
        forcerange=_text(servo.forcerange),
    )
    sensors = _element("sensor", root)
    _element("force", sensors, name="force_ee", site="ft_frame")
    _element("torque", sensors, name="torque_ee", site="ft_frame")
    return ET.tostring(root, encoding="unicode")


@register_gripper
class WidowXGripper(GripperModel):
    """Two coupled fingers; action -1 opens, 1 closes, as robosuite's own grippers."""

    current_action: FloatArray

    def __init__(self, idn: int | str = 0) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:  # robosuite reads files only
            file.write(gripper_xml())
            file.flush()
            super().__init__(file.name, idn=idn)

    def format_action(self, action: FloatArray) -> FloatArray:
        """The servo's setpoint (1,) in [-1, 1] (1 = open), a step of `speed` towards the wish."""
        assert len(action) == self.dof
        self.current_action = np.clip(self.current_action - self.speed * np.sign(action), -1.0, 1.0)
        return self.current_action

    @property
    def speed(self) -> float:
        return 0.2

    @property
    def init_qpos(self) -> FloatArray:
        return np.array([FINGER_OPEN_M, -FINGER_OPEN_M])

    @property
    def _important_geoms(self) -> dict[str, list[str]]:
        return {
            f"{side}_{part}": [f"{side}_pad_collision"]
            for side in ("left", "right")
            for part in ("finger", "fingerpad")
        }


@register_robot_class("FixedBaseRobot")
class WidowX250S(ManipulatorModel):
    """The arm; robosuite registers the class under its name."""

    arms = ["right"]  # noqa: RUF012

    def __init__(self, idn: int | str = 0) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(robot_xml())
            file.flush()
            super().__init__(file.name, idn=idn)

    @property
    def default_base(self) -> str:
        return "NullMount"

    @property
    def default_gripper(self) -> dict[str, str]:
        return {"right": "WidowXGripper"}

    @property
    def default_controller_config(self) -> dict[str, str]:
        return {"right": "basic"}

    @property
    def init_qpos(self) -> FloatArray:
        joints, _ = ArmKinematics().inverse(Pose(START, np.eye(3)), np.array(WIDOWX_250S.home), 50)
        return joints

    @property
    def base_xpos_offset(self) -> dict[str, Any]:
        place = (-BASE_BEHIND_TABLE_CENTRE_M, 0.0, TABLE_HEIGHT_M)
        return {"bins": place, "empty": (*place[:2], 0.0), "table": lambda length: place}

    @property
    def top_offset(self) -> FloatArray:
        return np.array([0.0, 0.0, 0.4])

    @property
    def _horizontal_radius(self) -> float:
        return 0.25

    @property
    def arm_type(self) -> str:
        return "single"


_REACH_M, _TURN_RAD = 0.05, 0.5  # what an action of 1 asks of the controller
_GAIN = 3.0  # asks for more than the error: the controller is a spring, and the joints have friction
_ABOVE_M, _ALIGNED_M, _ALIGNED_RAD = 0.06, 0.0025, 0.04


def lift_expert(observed: dict[str, FloatArray], squeeze: float) -> FloatArray:
    """Above the cube with the fingers along its sides, down around it, close, up.

    The fingers open 46 mm wide and the cube measures 40 to 44 mm, so all depends on the alignment.

    Args:
        observed: robosuite's own observation, with the cube's pose.
        squeeze: setpoint of the fingers, -1 (open) to 1 (closed).
    """
    hand, cube = _matrix(observed["robot0_eef_quat"]), _matrix(observed["cube_quat"])
    offset = observed["cube_pos"] - observed["robot0_eef_pos"]
    turn = rotation_vector(_down(hand, cube) @ hand.T)
    aside, askew = float(np.hypot(offset[0], offset[1])), float(np.abs(turn).max())
    around = aside < 0.012 and abs(offset[2]) < 0.014
    action = np.zeros(7)
    action[3:6] = _GAIN * turn / _TURN_RAD
    action[6] = 1.0 if around else -1.0
    if around:
        action[2] = 0.6 if squeeze > 0.5 else 0.0
        return action
    descending = abs(offset[2]) < 0.8 * _ABOVE_M and aside < 2 * _ALIGNED_M
    if (aside < _ALIGNED_M and askew < _ALIGNED_RAD) or descending:
        action[:3] = _GAIN * offset / _REACH_M
    else:
        action[:3] = _GAIN * (offset + np.array([0.0, 0.0, _ABOVE_M])) / _REACH_M
    return action


def _matrix(quaternion: FloatArray) -> FloatArray:
    """Rotation matrix (3, 3) of robosuite's quaternion x, y, z, w."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.roll(quaternion, 1))
    return matrix.reshape(3, 3)


def _down(hand: FloatArray, cube: FloatArray) -> FloatArray:
    """The hand's rotation (3, 3) that points down with the fingers on the nearest two sides of the cube."""
    yaw = np.arctan2(hand[1, 1], hand[0, 1]) - np.arctan2(cube[1, 0], cube[0, 0])
    quarter = np.round(yaw / (np.pi / 2)) * (np.pi / 2) + np.arctan2(cube[1, 0], cube[0, 0])
    y = np.array([np.cos(quarter), np.sin(quarter), 0.0])
    z = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(y, z), y, z], axis=1)
