"""The guard node between a hostile policy and a driver that believes everything."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from rclpy.node import Node
from robot_rl_ros import messages
from robot_rl_ros.safety import SafetyNode
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_rl.errors import ConfigError, RobotRLError
from robot_rl.safety import GuardConfig
from tests.ros.conftest import Graph

pytestmark = pytest.mark.ros
CONFIG = GuardConfig.widowx_250s()
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
DRIVER = "arm_controller/joint_trajectory"
AGES = {"max_command_age_s": 2.0, "max_state_age_s": 2.0}


class Probe(Node):
    """The driver (joint states out, commands in) and the policy (requests out) in one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("probe", **kwargs)
        self.commands: list[np.ndarray] = []
        self.reasons: list[str] = []
        self.measured = HOME
        self.states = self.create_publisher(JointState, messages.JOINT_STATES, messages.SENSOR_QOS)
        self.requests = self.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
        self.create_subscription(JointTrajectory, DRIVER, self._on_command, messages.EVENT_QOS)
        self.create_subscription(
            String, messages.REASON, lambda m: self.reasons.append(m.data), messages.LATCHED_QOS
        )
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)
        self.estop = self.create_client(Trigger, messages.ESTOP_SERVICE)
        self.create_timer(0.01, self._drive)
        self.sequence = 0

    def _on_command(self, message: JointTrajectory) -> None:
        assert tuple(message.joint_names) == CONFIG.names
        self.commands.append(np.array(message.points[0].positions))

    def _drive(self) -> None:
        message = JointState(name=[*reversed(CONFIG.names), "gripper"])
        message.position = [*self.measured[::-1].tolist(), 0.0]
        message.header.stamp = self.get_clock().now().to_msg()
        self.states.publish(message)

    def request(self, values: np.ndarray, **changes: Any) -> None:
        message = messages.request_message(
            CONFIG.names, values, self.get_clock().now().to_msg(), self.sequence
        )
        self.sequence += 1
        if "names" in changes:
            message.name = changes["names"]
        if "sequence" in changes:
            message.header.frame_id = changes["sequence"]
        if "late_s" in changes:
            message.header.stamp.sec -= changes["late_s"]
        self.requests.publish(message)


def ready(graph: Graph, **parameters: Any) -> tuple[Probe, SafetyNode]:
    guard = graph.add(SafetyNode, **AGES | parameters)
    probe = graph.add(Probe)
    graph.until(lambda: guard._measured is not None and probe.requests.get_subscription_count() == 1)
    return probe, guard


def started(graph: Graph) -> tuple[Probe, SafetyNode]:
    probe, guard = ready(graph)
    assert graph.call(probe.reset, Trigger.Request()).success
    probe.request(HOME)
    graph.until(lambda: guard._reason == "" and len(probe.commands) > 3)
    return probe, guard


def assert_inside(commands: list[np.ndarray]) -> None:
    assert commands
    for command in commands:
        assert np.isfinite(command).all()
        assert (command >= np.array(CONFIG.lower)).all()
        assert (command <= np.array(CONFIG.upper)).all()


def test_nothing_is_sent_before_the_reset(graph: Graph) -> None:
    probe, guard = ready(graph)
    probe.request(HOME)
    graph.until(lambda: guard._requested is not None)
    graph.during(0.3)
    assert probe.commands == []
    assert graph.call(probe.reset, Trigger.Request()).success
    graph.until(lambda: len(probe.commands) > 3)
    np.testing.assert_allclose(probe.commands[0], HOME)


def test_a_request_that_came_during_a_stall_is_answered_before_the_clock(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step without it would leave its sender ahead of the guard's pace, and so waiting, for seconds."""
    probe, guard = started(graph)
    silent = []
    step = guard._step
    monkeypatch.setattr(guard, "_step", lambda **k: (silent.append(k), step(**k)))
    for _ in range(5):
        graph.during(0.1)
        probe.request(HOME)
        time.sleep(0.3)  # the node stalls: its timer is due, the request is there
        silent.clear()
        graph.until(lambda: bool(silent))
        assert silent[0] == {}


def test_no_reset_without_a_joint_state(graph: Graph) -> None:
    graph.add(SafetyNode)
    probe = graph.add(Probe)
    probe.destroy_timer(next(iter(probe.timers)))
    response = graph.call(probe.reset, Trigger.Request())
    assert not response.success
    assert "joint state" in response.message


def test_requests_reach_the_driver_inside_the_limits_and_from_the_guard_alone(graph: Graph) -> None:
    probe, _ = started(graph)
    target = HOME + np.array([9.0, 0.1, 0, 0, 0, 0, 0])
    for _ in range(40):
        probe.request(target)
        graph.during(0.02)
        probe.measured = probe.commands[-1]
    assert_inside(probe.commands)
    steps = np.abs(np.diff(probe.commands, axis=0))
    assert (steps <= np.array(CONFIG.max_velocity) * CONFIG.period_s + 1e-9).all()
    assert probe.commands[-1][0] > 0.3
    writers = probe.get_publishers_info_by_topic("/wx250s/" + DRIVER)
    assert [writer.node_name for writer in writers] == ["safety"]


@pytest.mark.parametrize(
    ("values", "changes", "reason"),
    [
        (HOME * math.nan, {}, "non_finite"),
        (HOME + math.inf, {}, "non_finite"),
        (HOME, {"names": ["joint"] * 7}, "wrong_shape"),
        (HOME, {"sequence": "frame"}, "wrong_shape"),
        (HOME + 0.01, {"sequence": "0"}, "out_of_order"),
        (HOME, {"late_s": 60}, "out_of_order"),
    ],
)
def test_a_bad_request_stops_the_arm_until_reset(
    graph: Graph, values: np.ndarray, changes: dict[str, Any], reason: str
) -> None:
    probe, guard = started(graph)
    probe.request(values, **changes)
    graph.until(lambda: bool(probe.reasons) and probe.reasons[-1] == reason)
    probe.request(HOME + np.array([0.2, 0, 0, 0, 0, 0, 0]))
    before = len(probe.commands)
    graph.until(lambda: len(probe.commands) > before + 5)
    assert_inside(probe.commands)
    np.testing.assert_allclose(np.array(probe.commands), np.tile(HOME, (len(probe.commands), 1)))
    assert guard.guard.fault == reason
    assert graph.call(probe.reset, Trigger.Request()).success
    probe.request(HOME)
    graph.until(lambda: probe.reasons[-1] == "")


def test_a_vanished_policy_and_vanished_joint_states_stop_the_arm(graph: Graph) -> None:
    for vanished, reason in (("policy", "stale_command"), ("driver", "stale_state")):
        other = {"policy": "max_state_age_s", "driver": "max_command_age_s"}[vanished]
        probe, guard = ready(graph, **{"max_command_age_s": 0.4, "max_state_age_s": 0.4, other: 60.0})
        assert graph.call(probe.reset, Trigger.Request()).success
        probe.request(HOME)
        if vanished == "driver":
            probe.destroy_timer(next(iter(probe.timers)))
        graph.until(lambda guard=guard, reason=reason: guard.guard.fault == reason)
        assert_inside(probe.commands)
        for node in (probe, guard):
            graph.executor.remove_node(node)
            graph.nodes.remove(node)
            node.destroy_node()


def test_the_emergency_stop_holds_the_measured_pose_within_five_commands(graph: Graph) -> None:
    """Five periods of 20 ms are 100 ms."""
    probe, _ = started(graph)
    target = HOME + np.array([1.0, 0, 0, 0, 0, 0, 0])
    for _ in range(10):
        probe.request(target)
        graph.during(0.02)
    before = len(probe.commands)
    assert graph.call(probe.estop, Trigger.Request()).success
    stopped_at = len(probe.commands)
    for _ in range(20):
        probe.request(target)
        graph.during(0.02)
    assert probe.commands[before - 1][0] > 0.01  # it was on its way
    assert len(probe.commands) > stopped_at + 10
    after = np.array(probe.commands[stopped_at + 5 :])
    np.testing.assert_allclose(after, np.tile(HOME, (len(after), 1)))
    assert probe.reasons[-1] == "estop"


def test_bad_settings_are_refused_in_one_line(graph: Graph) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown backend 'joint_trajectory': did you mean joint_trajectory_controller"
    ):
        graph.add(SafetyNode, backend="joint_trajectory")
    with pytest.raises(RobotRLError, match="interbotix_xs_msgs is not installed"):
        graph.add(SafetyNode, backend="interbotix")
