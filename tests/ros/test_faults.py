"""Faults injected into the running graph, one process a node, as an independent listener sees them.

Nothing here depends on how fast the machine is: what must happen is waited for, and times are judged by the
guard's own clock: at each of its steps, what it let through was young enough.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from robot_rl_ros import messages
from robot_rl_ros.bringup import _environment
from robot_rl_ros.network import loopback_environment
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_rl.safety import GuardConfig
from tests.ros.conftest import DOMAIN, Graph

pytestmark = [pytest.mark.ros, pytest.mark.slow]
CONFIG = GuardConfig.widowx_250s()
AGE_S = 2.0
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
DRIVER = "arm_controller/joint_trajectory"


class Listener(Node):
    """Writes down what reaches the driver, and what the guard says of it; and asks for things."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("listener", **kwargs)
        self.commands: list[np.ndarray] = []
        self.executed: list[messages.Executed] = []
        self.issued: dict[int, float] = {}
        self.reason = "inactive"
        listen = self.create_subscription
        listen(JointTrajectory, DRIVER, self._on_command, messages.EVENT_QOS)
        listen(JointState, messages.EXECUTED, self._on_executed, messages.EVENT_QOS)
        listen(JointState, messages.REQUESTED, self._on_request, messages.EVENT_QOS)
        listen(String, messages.REASON, self._on_reason, messages.LATCHED_QOS)
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)
        self.enable = self.create_client(SetBool, messages.enable_service("policy"))
        self.estop = self.create_client(Trigger, messages.ESTOP_SERVICE)
        self.arm = AsyncParameterClient(self, "sim_arm")

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.append(np.array(message.points[0].positions))

    def _on_executed(self, message: JointState) -> None:
        self.executed.append(messages.executed_from(message, CONFIG.names))

    def _on_request(self, message: JointState) -> None:
        if message.header.frame_id.isdecimal():
            self.issued[int(message.header.frame_id)] = messages.seconds(message.header.stamp)

    def _on_reason(self, message: String) -> None:
        self.reason = message.data


class World:
    """The running graph and the listener."""

    def __init__(self, graph: Graph, folder: Path, bundle: Path) -> None:
        self.graph, self.folder = graph, folder
        self.listener: Listener = graph.add(Listener)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.parameters: dict[str, dict[str, Any]] = {
            "sim_arm": {"image_size": 32, "camera_hz": 10.0},
            "safety": {"bundle": str(bundle)},
            "policy": {"bundle": str(bundle), "max_image_age_s": AGE_S, "max_skew_s": AGE_S},
        }
        for name in self.parameters:
            self.start(name)

    def start(self, name: str) -> None:
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": self.parameters[name]}}))
        command = [sys.executable, "-m", f"robot_rl_ros.{name}", "--ros-args", "-r", "__ns:=/wx250s"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*command, "--params-file", str(file)], env=_environment(), stdout=log, stderr=log
            )

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self.processes[name].wait()

    def restart(self, name: str) -> None:
        self.start(name)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def until(self, condition: Callable[[], bool], timeout_s: float = 600.0) -> None:
        self.graph.until(condition, timeout_s)

    def ask(self, client: Any, request: Any) -> Any:
        """The answer; asked again while the way to the node is not there yet."""
        deadline = time.monotonic() + 600.0
        while True:
            self.until(client.service_is_ready)
            future = client.call_async(request)
            end = time.monotonic() + 10.0
            while not future.done() and time.monotonic() < end:
                self.graph.executor.spin_once(timeout_sec=0.02)
            if future.done():
                return future.result()
            assert time.monotonic() < deadline, f"{client.srv_name} does not answer"

    def set_going(self) -> None:
        """Until the policy moves the arm."""
        listener = self.listener
        deadline = time.monotonic() + 600.0
        while True:
            assert time.monotonic() < deadline, "the arm does not get going"
            if not self.ask(listener.reset, Trigger.Request()).success:
                self.graph.during(0.2)
                continue
            if not self.ask(listener.enable, SetBool.Request(data=True)).success:
                self.graph.during(0.2)
                continue
            listener.commands.clear()
            end = time.monotonic() + 20.0
            while time.monotonic() < end and not self._moving():
                self.graph.executor.spin_once(timeout_sec=0.02)
            if self._moving():
                return

    def _moving(self) -> bool:
        commands, listener = self.listener.commands, self.listener
        return (
            listener.reason not in messages.STOPS
            and len(commands) > 10
            and bool(np.ptp(np.array(commands), axis=0)[:6].max() > 0.01)
        )

    def stopped(self) -> str:
        """Wait for the stop; why it was."""
        self.until(lambda: self.listener.reason in messages.STOPS)
        return self.listener.reason

    def assert_held(self, commands: int = 20) -> None:
        """The arm gets one and the same setpoint again and again, and does not set out again."""
        listener = self.listener
        self.graph.during(0.3)  # what was on its way
        listener.commands.clear()
        self.until(lambda: len(listener.commands) >= commands)
        held = np.array(listener.commands)
        np.testing.assert_array_equal(held, np.tile(held[0], (len(held), 1)))
        assert listener.reason in messages.STOPS

    def assert_guarded(self) -> None:
        """Nothing out of limits reached the driver, and nothing that was too old was let through."""
        listener = self.listener
        for command in listener.commands:
            assert np.isfinite(command).all()
            assert (command >= np.array(CONFIG.lower)).all()
            assert (command <= np.array(CONFIG.upper)).all()
        for each in listener.executed:
            assert np.isfinite(each.setpoint).all()
            assert (np.array(each.setpoint) >= np.array(CONFIG.lower)).all()
            assert (np.array(each.setpoint) <= np.array(CONFIG.upper)).all()
            if each.reason not in messages.STOPS and each.sequence in listener.issued:
                assert each.time_s - listener.issued[each.sequence] <= AGE_S + 1e-6


@pytest.fixture(scope="module")
def world(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import rclpy

    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    for name, value in loopback_environment(folder, 1 + DOMAIN % 100).items():
        patch.setenv(name, value)
    rclpy.init()
    graph = Graph()
    world = World(graph, folder, bundle)
    yield world
    world.close()
    for node in graph.nodes:
        node.destroy_node()
    graph.executor.shutdown()
    rclpy.shutdown()
    patch.undo()


def test_a_stalled_policy(world: World) -> None:
    world.set_going()
    world.signal("policy", signal.SIGSTOP)
    assert world.stopped() == "stale_command"
    world.assert_held()
    world.signal("policy", signal.SIGCONT)
    world.assert_held()
    world.assert_guarded()


def test_a_killed_and_restarted_policy(world: World) -> None:
    world.set_going()
    world.signal("policy", signal.SIGKILL)
    assert world.stopped() == "stale_command"
    world.restart("policy")
    world.until(lambda: bool(world.ask(world.listener.enable, SetBool.Request(data=True)).success))
    world.assert_held()
    world.assert_guarded()


def test_a_stalled_driver(world: World) -> None:
    world.set_going()
    world.signal("sim_arm", signal.SIGSTOP)
    assert world.stopped() in ("stale_state", "stale_command")  # without states the policy is silent, too
    world.assert_held()
    world.signal("sim_arm", signal.SIGCONT)
    world.assert_held()
    world.assert_guarded()


def test_a_stalled_guard(world: World) -> None:
    """The driver holds the last setpoint; the guard finds that time has passed, and stays stopped."""
    world.set_going()
    world.signal("safety", signal.SIGSTOP)
    time.sleep(AGE_S + 0.5)
    world.listener.commands.clear()
    world.graph.during(0.5)
    assert len(world.listener.commands) <= 2
    world.signal("safety", signal.SIGCONT)
    assert world.stopped() == "stale_command"
    world.assert_held()
    world.assert_guarded()


def test_a_killed_and_restarted_guard(world: World) -> None:
    world.set_going()
    world.signal("safety", signal.SIGKILL)
    world.graph.during(0.5)
    world.listener.commands.clear()
    world.restart("safety")
    world.listener.reason = ""
    world.until(lambda: world.listener.reason == "inactive")
    world.graph.during(0.5)
    assert world.listener.commands == []
    world.assert_guarded()


def test_lost_pictures(world: World) -> None:
    world.set_going()
    world.listener.arm.wait_for_services(10.0)
    future = world.listener.arm.set_parameters([Parameter("camera_hz", value=0.0)])
    world.until(future.done)
    assert world.stopped() == "stale_command"
    future = world.listener.arm.set_parameters([Parameter("camera_hz", value=10.0)])
    world.until(future.done)
    world.assert_held()
    world.assert_guarded()


@pytest.mark.parametrize("fault", ["nan", "reordered", "old", "second_policy", "flood"])
def test_hostile_messages_beside_a_working_policy(world: World, fault: str) -> None:
    world.set_going()
    listener = world.listener
    rogue = listener.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
    world.until(lambda: rogue.get_subscription_count() >= 1)
    target, sequence = HOME + 9.0, 10**9
    if fault == "reordered":
        sequence = 1
    end = time.monotonic() + 60.0
    while listener.reason not in messages.STOPS:
        assert time.monotonic() < end, "the guard takes it"
        for _ in range(200 if fault == "flood" else 1):
            stamp = listener.get_clock().now().to_msg()
            if fault == "old":
                stamp.sec -= 60
            values = target * np.nan if fault == "nan" else target
            rogue.publish(messages.request_message(CONFIG.names, values, stamp, sequence))
            sequence += 1
        world.graph.during(0.02)
    world.assert_held()
    assert not world.ask(listener.reset, Trigger.Request()).success  # not while there are two
    listener.destroy_publisher(rogue)
    world.assert_held()
    world.assert_guarded()


def test_a_second_writer_to_the_driver_stops_the_arm(world: World) -> None:
    world.set_going()
    second = world.listener.create_publisher(JointTrajectory, DRIVER, messages.COMMAND_QOS)
    assert world.stopped() == "estop"
    answer = world.ask(world.listener.reset, Trigger.Request())
    assert not answer.success
    assert "2 publishers on arm_controller/joint_trajectory" in answer.message
    world.listener.destroy_publisher(second)
    world.assert_held()
    world.assert_guarded()


def test_no_process_is_left(world: World) -> None:
    for process in world.processes.values():
        assert os.path.exists(f"/proc/{process.pid}")
    world.close()
    assert all(process.poll() is not None for process in world.processes.values())
