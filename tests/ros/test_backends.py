"""The ways to a driver: what each back end publishes, and that `sim_arm` understands all of them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from builtin_interfaces.msg import Time
from rclpy.node import Node
from robot_rl_ros import backends, interbotix, messages
from robot_rl_ros.safety import SafetyNode
from robot_rl_ros.sim_arm import SimArmNode
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from robot_rl.safety import GuardConfig
from tests.ros.conftest import Graph

pytestmark = pytest.mark.ros
NAMES = GuardConfig.widowx_250s().names
SETPOINT = np.array([0.1, -0.9, 1.1, 0.2, -0.3, 0.4, 0.02])


class Publishers:
    """Stands for a node: keeps what is published, by topic."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Any]] = {}

    def create_publisher(self, _: Any, topic: str, __: Any) -> Any:
        self.sent[topic] = []
        return SimpleNamespace(publish=self.sent[topic].append)


@pytest.fixture
def interbotix_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for interbotix_xs_msgs, which is generated on a robot."""
    root, msg = ModuleType("interbotix_xs_msgs"), ModuleType("interbotix_xs_msgs.msg")
    for name in ("JointGroupCommand", "JointSingleCommand"):
        msg.__dict__[name] = SimpleNamespace
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs", root)
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs.msg", msg)


def made(name: str, node: Any, arm: str = "arm_controller", gripper: str = "") -> backends.Backend:
    return backends.make_backend(name, node, NAMES, 0.02, arm, gripper)


def test_the_gripper_may_have_a_controller_of_its_own() -> None:
    node = Publishers()
    backend = made("joint_trajectory_controller", node, gripper="gripper_controller")
    backend.send(SETPOINT, Time(sec=3))
    assert backend.topics == ("arm_controller/joint_trajectory", "gripper_controller/joint_trajectory")
    (arm,), (gripper,) = node.sent.values()
    assert (tuple(arm.joint_names), tuple(gripper.joint_names)) == (NAMES[:6], NAMES[6:])
    np.testing.assert_array_equal([*arm.points[0].positions, *gripper.points[0].positions], SETPOINT)
    assert arm.points[0].time_from_start.nanosec == 20_000_000
    assert arm.header.stamp.sec == 3
    forward = Publishers()
    made("forward_command_controller", forward, arm="fwd").send(SETPOINT, Time())
    ((message,),) = forward.sent.values()
    np.testing.assert_array_equal(message.data, SETPOINT)


def test_what_goes_to_the_interbotix_driver_comes_out_of_it(interbotix_messages: None) -> None:
    node, taken = Publishers(), {}

    def take(names: Any, positions: Any) -> None:
        taken.update(zip(names, positions, strict=True))

    backend = made("interbotix", node)
    backend.send(SETPOINT, Time())
    assert backend.topics == ("commands/joint_group", "commands/joint_single")
    assert backend.others == ("commands/joint_trajectory",)
    (group,), (single,) = node.sent.values()
    assert (group.name, single.name) == ("arm", "gripper")
    assert single.cmd == pytest.approx(0.04)  # the opening is twice a finger's travel
    interbotix.joint_group(take)(group)
    interbotix.joint_single(take)(single)
    np.testing.assert_allclose([taken[name] for name in NAMES], SETPOINT)
    interbotix.joint_single(take)(SimpleNamespace(name="waist", cmd=0.7))
    assert taken["waist"] == 0.7


class Sender(Node):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sender", **kwargs)
        self.trajectory = self.create_publisher(
            JointTrajectory, "commands/joint_trajectory", messages.COMMAND_QOS
        )
        self.forward = self.create_publisher(
            Float64MultiArray, "arm_controller/commands", messages.COMMAND_QOS
        )


@pytest.mark.usefixtures("interbotix_messages")
def test_nobody_passes_the_guard_by_the_drivers_third_topic(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JointGroupCommand", "JointSingleCommand"):  # a publisher needs a message that exists
        monkeypatch.setitem(sys.modules["interbotix_xs_msgs.msg"].__dict__, name, Float64MultiArray)
    guard = graph.add(SafetyNode, backend="interbotix")
    assert guard._crowd() == ""
    sender = graph.add(Sender)
    graph.until(lambda: guard._crowd() != "")
    assert guard._crowd().startswith("1 publishers on commands/joint_trajectory (sender); expected at most 0")
    sender.destroy_publisher(sender.trajectory)
    graph.until(lambda: guard._crowd() == "")


def test_the_simulated_arm_takes_the_commands_of_each_driver(graph: Graph) -> None:
    arm = graph.add(SimArmNode, image_size=32, camera_hz=0.0)
    sender = graph.add(Sender)
    publishers = (sender.trajectory, sender.forward)
    graph.until(lambda: all(each.get_subscription_count() == 1 for each in publishers), 60.0)
    start = arm.setpoint.copy()
    only_waist = messages.trajectory_message(NAMES[:1], np.array([0.25]), Time(), 0.02)
    graph.until(lambda: (sender.trajectory.publish(only_waist), arm.setpoint[0] == 0.25)[1], 60.0)
    np.testing.assert_array_equal(arm.setpoint[1:], start[1:])
    whole = Float64MultiArray(data=SETPOINT.tolist())
    graph.until(lambda: (sender.forward.publish(whole), np.array_equal(arm.setpoint, SETPOINT))[1], 60.0)
    sender.forward.publish(Float64MultiArray(data=[float("nan")] * 7))
    sender.trajectory.publish(messages.trajectory_message(("knee",), np.array([1.0]), Time(), 0.02))
    graph.during(0.3)
    np.testing.assert_array_equal(arm.setpoint, SETPOINT)
