"""How an executed setpoint reaches a driver. Only the guard node uses these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from robot_rl.errors import RobotRLError, unknown
from robot_rl_ros.messages import COMMAND_QOS, DRIVER_TRAJECTORY, trajectory_message

Send = Callable[[npt.NDArray[np.float64]], None]
"""Takes a setpoint (7,): six joints [rad], travel of one finger [m]."""


def joint_trajectory(node: Node, names: Sequence[str], period_s: float) -> Send:
    """One-point trajectories: `sim_arm`, and by remapping a ros2_control joint_trajectory_controller."""
    publisher = node.create_publisher(JointTrajectory, DRIVER_TRAJECTORY, COMMAND_QOS)

    def send(setpoint: npt.NDArray[np.float64]) -> None:
        publisher.publish(trajectory_message(names, setpoint, node.get_clock().now().to_msg(), period_s))

    return send


def interbotix(node: Node, names: Sequence[str], period_s: float) -> Send:
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
            "source that workspace, or use backend:=joint_trajectory"
        ) from error
    group = node.create_publisher(JointGroupCommand, "commands/joint_group", COMMAND_QOS)
    single = node.create_publisher(JointSingleCommand, "commands/joint_single", COMMAND_QOS)

    def send(setpoint: npt.NDArray[np.float64]) -> None:
        group.publish(JointGroupCommand(name="arm", cmd=setpoint[:6].tolist()))
        single.publish(JointSingleCommand(name="gripper", cmd=2.0 * float(setpoint[6])))

    return send


BACKENDS = {"joint_trajectory": joint_trajectory, "interbotix": interbotix}


def make_backend(name: str, node: Node, names: Sequence[str], period_s: float) -> Send:
    """The sender of the back end `name`.

    Raises:
        ConfigError: unknown name. RobotRLError: its messages are not installed.
    """
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name](node, names, period_s)
