"""Topics, their quality of service, and conversions between messages and arrays.

All names are relative: a namespace such as `/wx250s` puts the whole graph beside one driver. The table of
topics stands in docs/robot_bringup.md.

The graph needs no messages of its own. Where numbers need a stamp and names, a JointState carries them:

- a requested setpoint: joints by name in `name` and `position`, when it was issued in `header.stamp`, its
  sequence number, in decimal, in `header.frame_id`;
- an executed setpoint: the same, `header.stamp` is the time of the guard's step and `header.frame_id` the
  sequence number of the request that it answers, a blank, and the reason (`schema.FILTER_REASONS`);
- actions, judgements and the simulator's truth: `numbers_message`.

A joint is found by its name and never by its index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_rl.data import schema
from robot_rl.safety import Command
from robot_rl.safety import JointState as Measured

SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""The newest or nothing: what is late is of no use."""
HISTORY_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
"""For who writes down what sensors say."""
EVENT_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
"""Every one, in order."""
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

JOINT_STATES = "joint_states"
REQUESTED = "requested/joint_setpoints"
ACTION = "requested/action"
INSTRUCTION = "requested/instruction"
EXECUTED = "safety/executed"
REASON = "safety/reason"
HEARTBEAT = "safety/heartbeat"
DEADMAN = "safety/deadman"
DIAGNOSTICS = "/diagnostics"
JUDGEMENT = "reward/judgement"
TRUTH = "sim/truth"
REAL_TIME_FACTOR = "sim/real_time_factor"
CLOCK = "/clock"

ESTOP_SERVICE = "safety/estop"
RESET_SERVICE = "safety/reset"
RESET_SIM_SERVICE = "sim/reset"
RECORD_SERVICE = "recorder/record"

STOPS = frozenset(
    (
        "non_finite",
        "wrong_shape",
        "out_of_order",
        "stale_command",
        "stale_state",
        "implausible_state",
        "inactive",
        "estop",
    )
)
"""Reasons with which the guard holds the arm; the others let it go on, within its limits."""
FAULTS = STOPS - {"inactive"}
"""Those that are latched until the reset."""


def nanoseconds(stamp: Time) -> int:
    """A stamp in nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def seconds(stamp: Time) -> float:
    """A stamp in seconds."""
    return float(stamp.sec) + stamp.nanosec * 1e-9


def stamp_of(time_s: float) -> Time:
    """A time in seconds as a stamp."""
    nanoseconds = round(time_s * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def camera_topic(camera: str) -> str:
    """Where the pictures of a camera are."""
    return f"camera/{camera}"


def enable_service(node: str) -> str:
    """Where a node that acts is switched on and off."""
    return f"{node}/enable"


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


class Executed(NamedTuple):
    """What the guard made of a request."""

    setpoint: list[float]
    """(J,) [rad or m]; empty if a joint is missing."""
    time_s: float
    """Of the guard's step."""
    sequence: int
    """Of the request; -1 if there was none."""
    reason: str


def executed_message(
    names: Sequence[str], setpoint: npt.NDArray[np.float64], stamp: Time, sequence: int, reason: str
) -> JointState:
    """An executed setpoint (J,) [rad or m]."""
    message = JointState(name=list(names), position=setpoint.tolist())
    message.header.stamp = stamp
    message.header.frame_id = f"{sequence} {reason}"
    return message


def executed_from(message: JointState, names: Sequence[str]) -> Executed:
    """What `executed_message` says."""
    sequence, _, reason = message.header.frame_id.partition(" ")
    setpoint = by_name(message.name, message.position, names)
    number = int(sequence) if sequence.isdecimal() else -1
    return Executed(setpoint, seconds(message.header.stamp), number, reason)


def numbers_message(numbers: Mapping[str, float], stamp: Time, note: str = "") -> JointState:
    """Named numbers of one moment, and a word in `header.frame_id`."""
    message = JointState(name=list(numbers), position=[float(value) for value in numbers.values()])
    message.header.stamp = stamp
    message.header.frame_id = note
    return message


def numbers_from(message: JointState) -> dict[str, float]:
    """What `numbers_message` says."""
    return dict(zip(message.name, message.position, strict=False))


def action_from(numbers: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """The action (7,) among named numbers."""
    return np.array([numbers[name] for name in schema.ACTION_NAMES], np.float32)


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
