"""How an executed setpoint reaches a driver. Only the safety node uses these.

| back end | driver | topics |
|---|---|---|
| `joint_trajectory_controller` | ros2_control, `sim_arm` | CONTROLLER/joint_trajectory |
| `forward_command_controller` | ros2_control, `sim_arm`; has no time-out of its own | CONTROLLER/commands |
| `interbotix` | Interbotix xs_sdk | commands/joint_group, commands/joint_single |

CONTROLLER is `arm_controller`; the gripper goes along with it, or to `gripper_controller` if that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from robot_rl.errors import RobotRLError, unknown
from robot_rl_ros.messages import COMMAND_QOS, trajectory_message

Setpoint = npt.NDArray[np.float64]


class Backend(NamedTuple):
    """A way to a driver."""

    send: Callable[[Setpoint, Time], None]
    """Takes a setpoint (7,), six joints [rad] and the travel of one finger [m], and its time."""
    topics: tuple[str, ...]
    """On which it publishes, and nobody else should."""
    others: tuple[str, ...] = ()
    """On which the driver listens as well, and nobody should publish."""


def _groups(arm: str, gripper: str, joints: int) -> list[tuple[str, slice]]:
    """Controller -> which of the joints it drives."""
    if not gripper:
        return [(arm, slice(0, joints))]
    return [(arm, slice(0, joints - 1)), (gripper, slice(joints - 1, joints))]


def joint_trajectory(node: Node, names: Sequence[str], period_s: float, arm: str, gripper: str) -> Backend:
    """One-point trajectories, to be reached one period from now."""
    groups = _groups(arm, gripper, len(names))
    topics = tuple(f"{controller}/joint_trajectory" for controller, _ in groups)
    publishers = [node.create_publisher(JointTrajectory, topic, COMMAND_QOS) for topic in topics]

    def send(setpoint: Setpoint, stamp: Time) -> None:
        for publisher, (_, part) in zip(publishers, groups, strict=True):
            publisher.publish(trajectory_message(names[part], setpoint[part], stamp, period_s))

    return Backend(send, topics)


def forward_command(node: Node, names: Sequence[str], period_s: float, arm: str, gripper: str) -> Backend:
    """Positions, in the order of the controller's own `joints`, which must be that of the guard's names."""
    groups = _groups(arm, gripper, len(names))
    topics = tuple(f"{controller}/commands" for controller, _ in groups)
    publishers = [node.create_publisher(Float64MultiArray, topic, COMMAND_QOS) for topic in topics]

    def send(setpoint: Setpoint, stamp: Time) -> None:
        for publisher, (_, part) in zip(publishers, groups, strict=True):
            publisher.publish(Float64MultiArray(data=setpoint[part].tolist()))

    return Backend(send, topics)


def interbotix(node: Node, names: Sequence[str], period_s: float, arm: str, gripper: str) -> Backend:
    """The Interbotix driver: group `arm` in position mode, the gripper in linear_position mode.

    Its moving profile must be shorter than `period_s`; the driver's default of 2 s is not for streaming.

    Raises:
        RobotRLError: the driver's messages are not there.
    """
    try:
        from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
    except ImportError as error:
        raise RobotRLError(
            "interbotix_xs_msgs is not installed: it is generated on the robot with the Interbotix driver; "
            "source that workspace, or use backend:=joint_trajectory_controller"
        ) from error
    topics = ("commands/joint_group", "commands/joint_single")
    group = node.create_publisher(JointGroupCommand, topics[0], COMMAND_QOS)
    single = node.create_publisher(JointSingleCommand, topics[1], COMMAND_QOS)

    def send(setpoint: Setpoint, stamp: Time) -> None:
        group.publish(JointGroupCommand(name="arm", cmd=setpoint[:6].tolist()))
        single.publish(JointSingleCommand(name="gripper", cmd=2.0 * float(setpoint[6])))

    return Backend(send, topics, ("commands/joint_trajectory",))


BACKENDS = {
    "joint_trajectory_controller": joint_trajectory,
    "forward_command_controller": forward_command,
    "interbotix": interbotix,
}


def make_backend(
    name: str, node: Node, names: Sequence[str], period_s: float, arm: str, gripper: str
) -> Backend:
    """The back end `name`.

    Raises:
        ConfigError: unknown name. RobotRLError: its messages are not installed.
    """
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name](node, names, period_s, arm, gripper)
