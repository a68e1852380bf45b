"""The Interbotix driver's own messages, as `sim_arm` takes them; without them installed, nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node

from robot_rl.safety import GuardConfig
from robot_rl_ros.messages import COMMAND_QOS

Take = Callable[[Sequence[str], Sequence[float]], None]
"""Takes setpoints [rad or m] of named joints."""
JOINTS = GuardConfig.widowx_250s().names


def joint_group(take: Take) -> Callable[[Any], None]:
    """What to do with a JointGroupCommand: group `arm` has the six joints in order [rad]."""

    def on_message(message: Any) -> None:
        if message.name == "arm":
            take(JOINTS[:6], message.cmd)

    return on_message


def joint_single(take: Take) -> Callable[[Any], None]:
    """What to do with a JointSingleCommand: a joint [rad], or the gripper's opening in linear_position
    mode, which is twice the travel of one finger [m]."""

    def on_message(message: Any) -> None:
        if message.name == "gripper":
            take(JOINTS[6:], [message.cmd / 2])
        else:
            take([message.name], [message.cmd])

    return on_message


def serve(node: Node, take: Take) -> bool:
    """Offer the driver's command topics and services on `node`; False if its messages are not installed.

    Torque and operating modes are not simulated: the services answer, and the arm holds.
    """
    try:
        from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
        from interbotix_xs_msgs.srv import OperatingModes, TorqueEnable
    except ImportError:
        return False
    node.create_subscription(JointGroupCommand, "commands/joint_group", joint_group(take), COMMAND_QOS)
    node.create_subscription(JointSingleCommand, "commands/joint_single", joint_single(take), COMMAND_QOS)
    node.create_service(TorqueEnable, "torque_enable", lambda request, response: response)
    node.create_service(OperatingModes, "set_operating_modes", lambda request, response: response)
    return True
