"""The safety node on a clock that the test sets: jumps of time, and the deadman switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from rclpy.node import Node
from robot_rl_ros import messages
from robot_rl_ros.safety import SafetyNode
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from robot_rl.safety import GuardConfig
from tests.ros.conftest import Graph

pytestmark = pytest.mark.ros
CONFIG = GuardConfig.widowx_250s()
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])


class SimulatedTime(Node):
    """A driver and a policy on a clock that the test sets."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("simulated_time", **kwargs)
        self.now, self.sequence, self.asked = 100.0, 0, 0.0
        self.clock_topic = self.create_publisher(Clock, messages.CLOCK, messages.SENSOR_QOS)
        self.states = self.create_publisher(JointState, messages.JOINT_STATES, messages.SENSOR_QOS)
        self.requests = self.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
        self.deadman = self.create_publisher(Bool, messages.DEADMAN, messages.SENSOR_QOS)
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)

    def tick(self, guard: SafetyNode) -> None:
        """Go on by one period once the guard has the present moment: clock, then state, then request."""
        stamp = messages.stamp_of(self.now)
        if guard.get_clock().now().nanoseconds != messages.nanoseconds(stamp):
            self.clock_topic.publish(Clock(clock=stamp))
        elif guard._measured is None or messages.stamp_of(guard._measured.stamp) != stamp:
            state = JointState(name=list(CONFIG.names), position=HOME.tolist())
            state.header.stamp = stamp
            self.states.publish(state)
        elif self.asked != self.now:
            self.asked = self.now
            self.requests.publish(messages.request_message(CONFIG.names, HOME, stamp, self.sequence))
            self.sequence += 1
        elif guard._requested is not None and guard._requested.sequence == self.sequence - 1:
            self.now += 0.02


def started(graph: Graph, **parameters: Any) -> tuple[SafetyNode, SimulatedTime]:
    guard = graph.add(SafetyNode, use_sim_time=True, max_command_age_s=5.0, max_state_age_s=5.0, **parameters)
    probe = graph.add(SimulatedTime)
    publishers = (probe.requests, probe.states, probe.clock_topic, probe.deadman)
    graph.until(lambda: all(each.get_subscription_count() >= 1 for each in publishers), 60.0)
    until(graph, probe, guard, lambda: guard._requested is not None)
    assert graph.call(probe.reset, Trigger.Request()).success
    probe.asked = 0.0  # a reset forgets what was requested
    return guard, probe


def until(graph: Graph, probe: SimulatedTime, guard: SafetyNode, condition: Callable[[], bool]) -> None:
    """Let time go on until `condition`."""

    def check() -> bool:
        probe.tick(guard)
        return condition()

    graph.until(check, 60.0)


@pytest.mark.parametrize("jump_s", [10.0, -10.0])
def test_a_clock_that_jumps_stops_the_arm(graph: Graph, jump_s: float) -> None:
    guard, probe = started(graph)
    until(graph, probe, guard, lambda: guard._reason == "")
    before = probe.now
    jumped = Clock(clock=messages.stamp_of(before + jump_s))
    graph.until(lambda: (probe.clock_topic.publish(jumped), guard.guard.fault != "")[1], 60.0)
    assert guard.guard.fault in ("stale_command", "stale_state", "out_of_order")
    probe.now = before + 1.0
    until(graph, probe, guard, lambda: probe.now > before + 1.3)
    assert guard.guard.fault != ""


def test_the_deadman_switch_and_the_lifecycle(graph: Graph) -> None:
    guard, probe = started(graph, deadman_timeout_s=30.0)
    until(graph, probe, guard, lambda: guard._reason == "inactive")
    for pressed, reason in ((True, ""), (False, "inactive"), (True, "")):
        word = Bool(data=pressed)
        until(
            graph,
            probe,
            guard,
            lambda word=word, reason=reason: (probe.deadman.publish(word), guard._reason == reason)[1],
        )
    guard.trigger_deactivate()
    until(graph, probe, guard, lambda: guard._reason == "inactive")
    guard.trigger_activate()
    until(graph, probe, guard, lambda: guard._reason == "")
