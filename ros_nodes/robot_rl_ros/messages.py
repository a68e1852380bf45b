"""Topics, their quality of service, and conversions between messages and arrays.

All names are relative: a namespace such as `/wx250s` puts the whole graph beside one driver.

| topic | type | from -> to | QoS |
|---|---|---|---|
| joint_states | sensor_msgs/JointState, 100 Hz | driver -> all | sensor: best effort, newest |
| camera/front | sensor_msgs/Image, rgb8 | camera -> policy | sensor |
| requested/joint_setpoints | sensor_msgs/JointState, 50 Hz | policy -> guard | command: reliable, newest |
| commands/joint_trajectory | trajectory_msgs/JointTrajectory, 50 Hz | guard -> driver | command |
| guard/reason | std_msgs/String | guard -> all | latched: reliable, the last one for late comers |
| sim/success | std_msgs/Bool, 5 Hz | sim_arm -> bringup | sensor |
| sim/real_time_factor | std_msgs/Float32, 1 Hz | sim_arm -> all | sensor |

A requested setpoint carries joints by name in `name` and `position`, when it was issued in
`header.stamp`, and its sequence number, in decimal, in `header.frame_id`. A joint is found by its name
and never by its index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_rl.safety import Command
from robot_rl.safety import JointState as Measured

SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

JOINT_STATES = "joint_states"
CAMERA = "camera/front"
REQUESTED = "requested/joint_setpoints"
DRIVER_TRAJECTORY = "commands/joint_trajectory"
REASON = "guard/reason"
SUCCESS = "sim/success"
REAL_TIME_FACTOR = "sim/real_time_factor"

ESTOP_SERVICE = "guard/estop"
RESET_GUARD_SERVICE = "guard/reset"
ENABLE_SERVICE = "policy/enable"
RESET_SIM_SERVICE = "sim/reset"

STOPS = frozenset(
    ("non_finite", "wrong_shape", "out_of_order", "stale_command", "stale_state", "inactive", "estop")
)
"""Reasons with which the guard holds the arm; the others let it go on, within its limits."""


def seconds(stamp: Time) -> float:
    """A stamp in seconds."""
    return float(stamp.sec) + stamp.nanosec * 1e-9


def by_name(found: Sequence[str], values: Sequence[float], wanted: Sequence[str]) -> list[float]:
    """The values of the `wanted` joints in that order; empty if one is missing or named twice."""
    if len(found) != len(values) or len(set(found)) != len(found):
        return []
    table = dict(zip(found, values, strict=True))
    return [float(table[name]) for name in wanted] if all(name in table for name in wanted) else []


def measured_from(message: JointState, names: Sequence[str]) -> Measured:
    """What the guard judges; a message without all of `names` becomes a state of the wrong shape."""
    return Measured(by_name(message.name, message.position, names), seconds(message.header.stamp))


def command_from(message: JointState, names: Sequence[str]) -> Command:
    """A requested setpoint as the guard judges it; what cannot be read becomes something it refuses."""
    digits = message.header.frame_id
    sequence: int = int(digits) if digits.isdecimal() and len(digits) < 19 else None  # type: ignore[assignment]
    return Command(by_name(message.name, message.position, names), seconds(message.header.stamp), sequence)


def request_message(
    names: Sequence[str], setpoint: npt.NDArray[np.float64], stamp: Time, sequence: int
) -> JointState:
    """A requested setpoint (J,) [rad or m]."""
    message = JointState(name=list(names), position=setpoint.tolist())
    message.header.stamp = stamp
    message.header.frame_id = str(sequence)
    return message


def trajectory_message(
    names: Sequence[str], setpoint: npt.NDArray[np.float64], stamp: Time, period_s: float
) -> JointTrajectory:
    """A setpoint (J,) to be reached one period from `stamp`."""
    point = JointTrajectoryPoint(positions=setpoint.tolist())
    point.time_from_start.nanosec = round(period_s * 1e9)
    message = JointTrajectory(joint_names=list(names), points=[point])
    message.header.stamp = stamp
    return message


def image_message(picture: npt.NDArray[np.uint8], stamp: Time) -> Image:
    """A picture (H, W, 3) as rgb8."""
    height, width, _ = picture.shape
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=picture.tobytes())
    message.header.stamp = stamp
    return message


def picture_from(message: Image) -> npt.NDArray[np.uint8] | None:
    """The picture (H, W, 3) of an rgb8 or bgr8 image; None for another encoding or a wrong size."""
    height, width, step = message.height, message.width, message.step
    if message.encoding not in ("rgb8", "bgr8") or step < 3 * width or len(message.data) != height * step:
        return None
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, : 3 * width]
    picture = rows.reshape(height, width, 3)
    return picture if message.encoding == "rgb8" else picture[:, :, ::-1]
