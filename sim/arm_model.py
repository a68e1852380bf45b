"""The arms: one model (six revolute joints, two coupled fingers, servos), two sets of parameters.

The MJCF holds what MuJoCo can hold: chain, limits, efforts, masses, inertias, friction and servo gains.
`ArmModel` adds names and what MJCF has no place for. `ArmParameters` is what system identification found, to
be laid over a compiled model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from robot_rl.errors import ConfigError, DataError, unknown
from sim.spec import FloatArray, SimulationError

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class ArmModel:
    """A robot arm that the tasks can be done with.

    Attributes:
        name: as in configurations and recordings.
        file: its MJCF, with bodies `gripper_link`, `left_finger_link`, `right_finger_link`, joints
            `left_finger`, `right_finger`, actuator `gripper`, site `tool`, and actuators named as the joints.
        joints: the six joints from the base on, as the robot's driver names them.
        max_speed: velocity limit of each joint [rad/s], (6,).
        home: joint angles (6,) [rad] that point the tool down in front of the base: where inverse kinematics
            start from, with the first joint turned towards the target.
        tool: distance of the site `tool` from `gripper_link`, along x [m].
    """

    name: str
    file: str
    joints: tuple[str, ...]
    max_speed: tuple[float, ...]
    home: tuple[float, ...]
    tool: float

    @property
    def path(self) -> Path:
        return ASSETS / self.file

    def compile(self) -> mujoco.MjModel:
        """The arm alone, without a table.

        Raises:
            SimulationError: its file is missing or does not parse.
        """
        try:
            return mujoco.MjModel.from_xml_path(str(self.path))
        except ValueError as error:
            raise unreadable(self.path.name, error) from error


def unreadable(what: str, error: ValueError) -> SimulationError:
    """The error for MJCF that MuJoCo refuses: what, why, in one line."""
    reason = " ".join(str(error).split()).removeprefix("XML Error: ")
    return SimulationError(f"{what} does not parse as MJCF: {reason}")


WIDOWX_250S = ArmModel(
    name="widowx_250s",
    file="wx250s.xml",
    joints=("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"),
    max_speed=(math.pi,) * 6,
    home=(0.0, -0.3, 0.6, 0.0, 1.2, 0.0),
    tool=0.0935,
)
# Of the published velocity limits the smaller ones: sources disagree.
WIDOWX_AI = ArmModel(
    name="widowx_ai",
    file="widowx_ai.xml",
    joints=("joint_0", "joint_1", "joint_2", "joint_3", "joint_4", "joint_5"),
    max_speed=(3.375, 3.375, 3.375, 7.0, 7.0, 7.0),
    home=(0.0, 1.6, 1.3, -1.2, 0.0, 0.0),
    tool=0.156062,
)
ROBOTS = {arm.name: arm for arm in (WIDOWX_250S, WIDOWX_AI)}


def links(model: mujoco.MjModel, arm: ArmModel) -> slice:
    """The bodies that the arm's joints move, without the fingers."""
    first = int(model.jnt_bodyid[model.joint(arm.joints[0]).id])
    return slice(first, int(model.body("left_finger_link").id))


def arm_model(name: str) -> ArmModel:
    """The arm of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ROBOTS:
        raise unknown("robot", name, ROBOTS)
    return ROBOTS[name]


@dataclass(frozen=True)
class JointParameters:
    """How one joint moves and how its servo drives it.

    torque of the servo = clip(kp (setpoint + offset - q) - kv dq, effort).

    Attributes:
        kp: [N m/rad]. kv: [N m s/rad]. damping: [N m s/rad], outside the effort limit. friction: dry
            friction [N m]. armature: the motor's inertia at the joint [kg m^2]. offset: [rad], what the servo
            takes for zero.
    """

    kp: float
    kv: float
    damping: float
    friction: float
    armature: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = -math.pi if field.name == "offset" else 0.0
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < 1e6:
                raise ConfigError(f"joint parameter {field.name}={value!r}; expected a number from {low:g}")


@dataclass(frozen=True)
class ArmParameters:
    """Identified parameters of an arm.

    Attributes:
        robot: which arm.
        joints: name -> parameters, for each of its joints.
        delay_s: time from a command to the servo [s].
        gravity_compensation: share of the arm's weight that the servos compensate by themselves.
    """

    robot: str
    joints: dict[str, JointParameters]
    delay_s: float = 0.0
    gravity_compensation: float = 1.0

    def __post_init__(self) -> None:
        names = arm_model(self.robot).joints
        if tuple(self.joints) != names:
            raise ConfigError(f"parameters for joints {', '.join(self.joints)}; expected {', '.join(names)}")
        if not 0 <= self.delay_s <= 1 or not 0 <= self.gravity_compensation <= 1:
            raise ConfigError(
                f"delay_s={self.delay_s}, gravity_compensation={self.gravity_compensation}; "
                "expected 0 .. 1 s and 0 .. 1"
            )

    @classmethod
    def nominal(cls, arm: ArmModel) -> ArmParameters:
        """What the MJCF says."""
        return cls.of(arm.compile(), arm)

    @classmethod
    def of(cls, model: mujoco.MjModel, arm: ArmModel) -> ArmParameters:
        """What a compiled model holds."""
        joints = {}
        for name in arm.joints:
            dof, servo = int(model.joint(name).dofadr[0]), int(model.actuator(name).id)
            kp = float(model.actuator_gainprm[servo, 0])
            joints[name] = JointParameters(
                kp=kp,
                kv=-float(model.actuator_biasprm[servo, 2]),
                damping=float(model.dof_damping[dof]),
                friction=float(model.dof_frictionloss[dof]),
                armature=float(model.dof_armature[dof]),
                offset=float(model.actuator_biasprm[servo, 0]) / kp,
            )
        share = float(model.body_gravcomp[model.body("gripper_link").id])
        return cls(arm.name, joints, gravity_compensation=share)

    def apply(self, model: mujoco.MjModel) -> None:
        """Put them into a compiled model, whose servos are position servos."""
        arm = arm_model(self.robot)
        dofs = np.array([int(model.joint(name).dofadr[0]) for name in arm.joints])
        servos = np.array([int(model.actuator(name).id) for name in arm.joints])
        values = self.table()
        model.actuator_gainprm[servos, 0] = values[:, 0]
        model.actuator_biasprm[servos, 0] = values[:, 0] * values[:, 5]
        model.actuator_biasprm[servos, 1] = -values[:, 0]
        model.actuator_biasprm[servos, 2] = -values[:, 1]
        model.dof_damping[dofs], model.dof_frictionloss[dofs] = values[:, 2], values[:, 3]
        model.dof_armature[dofs] = values[:, 4]
        model.body_gravcomp[links(model, arm)] = self.gravity_compensation

    def table(self) -> FloatArray:
        """(6, 6): a row a joint; kp, kv, damping, friction, armature, offset."""
        return np.array([dataclasses.astuple(joint) for joint in self.joints.values()], np.float64)

    def save(self, path: str | Path) -> None:
        """Write them as JSON."""
        Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ArmParameters:
        """Read what `save` wrote.

        Raises:
            DataError: there is no such file, or it holds something else. ConfigError: a value out of range.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text())
            joints = {name: JointParameters(**values) for name, values in content["joints"].items()}
            return cls(
                str(content["robot"]),
                joints,
                float(content["delay_s"]),
                float(content["gravity_compensation"]),
            )
        except OSError as error:
            raise DataError(
                f"arm parameters {path}: {error.strerror}; `robot-rl sysid` writes them"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"arm parameters {path} cannot be read ({type(error).__name__}: {error}); "
                "expected the JSON that `robot-rl sysid` writes"
            ) from error
