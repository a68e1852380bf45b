"""The ROS graph: latency, jitter, CPU share, the way of a picture, and a soak.

python -m benchmarks.ros [--quick] [--soak SECONDS] [--json FILE]

`safety` is the way of a request through the safety node to the driver's topic, `relay` that through a node
that only copies; what the safety node adds is their difference, from the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from robot_rl_ros import messages
from robot_rl_ros.bringup import _environment
from robot_rl_ros.network import loopback_environment
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from benchmarks.harness import Row, run
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.safety import GuardConfig
from robot_rl.trainers.bundle import export_bundle

CONFIG = GuardConfig.widowx_250s()
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
AGE_S = 1.0
COMMANDS = "arm_controller/joint_trajectory"
RELAYED = "relay_controller/joint_trajectory"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SOAK_S, QUICK_SOAK_S = 3600.0, 20.0


def nanoseconds(stamp: Any) -> int:
    """A ROS stamp as one number."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


class Relay(Node):
    """Copies each request to a driver's topic: what a node costs that does nothing."""

    def __init__(self) -> None:
        super().__init__("relay")
        self.out = self.create_publisher(JointTrajectory, RELAYED, messages.COMMAND_QOS)
        self.create_subscription(JointState, messages.REQUESTED, self._on_request, messages.COMMAND_QOS)

    def _on_request(self, message: JointState) -> None:
        setpoint = np.array(message.position)
        self.out.publish(messages.trajectory_message(message.name, setpoint, message.header.stamp, 0.02))


class Probe(Node):
    """The driver and the one that acts; times what comes back."""

    def __init__(self) -> None:
        super().__init__("probe", namespace="/wx250s")
        self.states = self.create_publisher(JointState, messages.JOINT_STATES, messages.EVENT_QOS)
        self.requests = self.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
        self.images = self.create_publisher(Image, "image_raw", messages.SENSOR_QOS)
        self.came: dict[str, list[float]] = {COMMANDS: [], RELAYED: []}
        for topic, times in self.came.items():
            self.create_subscription(
                JointTrajectory,
                topic,
                lambda _, times=times: times.append(time.perf_counter()),
                messages.EVENT_QOS,
            )
        self.shown: list[float] = []
        self.create_subscription(
            Image,
            messages.camera_topic("front"),
            lambda _: self.shown.append(time.perf_counter()),
            messages.EVENT_QOS,
        )
        self.stamps: dict[str, list[int]] = {COMMANDS: [], messages.EXECUTED: []}  # [ns]
        for kind, topic in ((JointTrajectory, COMMANDS), (JointState, messages.EXECUTED)):
            stamps = self.stamps[topic]
            self.create_subscription(
                kind,
                topic,
                lambda message, stamps=stamps: stamps.append(nanoseconds(message.header.stamp)),
                messages.EVENT_QOS,
            )
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)
        self.reset_sim = self.create_client(Trigger, messages.RESET_SIM_SERVICE)
        self.enable = self.create_client(SetBool, messages.enable_service("policy"))
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)

    def spin(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.executor_.spin_once(timeout_sec=left)

    def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        end = time.perf_counter() + seconds
        while not condition():
            if time.perf_counter() > end:
                raise TimeoutError("the graph does not come up")
            self.executor_.spin_once(timeout_sec=0.05)

    def ask(self, client: Any, request: Any) -> None:
        """Until it agrees."""
        self.until(client.service_is_ready)
        while True:
            future = client.call_async(request)
            end = time.perf_counter() + 5.0
            while not future.done() and time.perf_counter() < end:
                self.executor_.spin_once(timeout_sec=0.05)
            if future.done() and future.result().success:
                return
            self.spin(0.1)

    def publish_state(self) -> None:
        message = JointState(name=list(CONFIG.names), position=HOME.tolist())
        message.header.stamp = self.get_clock().now().to_msg()
        self.states.publish(message)

    def publish_request(self, sequence: int) -> None:
        stamp = self.get_clock().now().to_msg()
        self.requests.publish(messages.request_message(CONFIG.names, HOME, stamp, sequence))


@contextmanager
def started(folder: Path, nodes: dict[str, dict[str, Any]]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Each node in a process of its own; `relay` is this module's."""
    processes = {}
    try:
        for name, parameters in nodes.items():
            file = folder / f"{name}.yaml"
            file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
            module = ["benchmarks.ros", "--relay"] if name == "relay" else [f"robot_rl_ros.{name}"]
            command = [
                sys.executable,
                "-m",
                *module,
                "--ros-args",
                "-r",
                "__ns:=/wx250s",
                "--params-file",
                str(file),
            ]
            processes[name] = subprocess.Popen(command, env=_environment())
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def cpu_s(pid: int) -> float:
    """Processor time that a process has used [s]."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Resident memory of a process [MB]."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentiles(case: str, metric: str, seconds: Sequence[float]) -> list[Row]:
    """p50 and p99 [ms]."""
    values = 1e3 * np.array(seconds)
    return [Row(case, f"{metric} p{p}", float(np.percentile(values, p)), "ms") for p in (50, 99)]


def command_path(probe: Probe, folder: Path, seconds: float) -> list[Row]:
    """From a joint state, and the request made of it, to the driver's command; with the relay beside it."""
    nodes = {"safety": {"max_command_age_s": AGE_S, "max_state_age_s": AGE_S}, "relay": {}}
    with started(folder, nodes) as processes:
        probe.until(
            lambda: (
                probe.requests.get_subscription_count() == 2 and probe.states.get_subscription_count() == 1
            )
        )
        probe.publish_state()
        for _ in range(20):
            probe.publish_state()
            probe.spin(0.05)
        ask = probe.reset.call_async(Trigger.Request())
        while not ask.done():
            probe.publish_state()
            probe.spin(0.02)
        spent, began = cpu_s(processes["safety"].pid), time.perf_counter()
        sent, answers = [], {COMMANDS: [], RELAYED: []}
        next_at = time.perf_counter()
        for sequence in range(round(seconds * 50)):
            for times in probe.came.values():
                times.clear()
            probe.publish_state()
            sent.append(time.perf_counter())
            probe.publish_request(sequence)
            next_at = max(next_at + 0.02, time.perf_counter())
            while time.perf_counter() < next_at:
                probe.executor_.spin_once(timeout_sec=max(0.0, next_at - time.perf_counter()))
            for topic, times in probe.came.items():
                after = [t for t in times if t >= sent[-1]]
                if after:
                    answers[topic].append(after[0] - sent[-1])
        share = (cpu_s(processes["safety"].pid) - spent) / (time.perf_counter() - began)
    through, copied = answers[COMMANDS][25:], answers[RELAYED][25:]
    rows = percentiles("safety", "joint state to command", through)
    rows += percentiles("relay", "joint state to command", copied)
    for p in (50, 99):
        added = 1e3 * (np.percentile(through, p) - np.percentile(copied, p))
        rows.append(Row("safety - relay", f"added p{p}", float(added), "ms"))
    rows.append(Row("safety", "answered", 100 * len(answers[COMMANDS]) / len(sent), "%"))
    rows.append(Row("safety", "CPU share at 50 Hz", 100 * share, "% of a core"))
    return rows


def loop_jitter(probe: Probe, folder: Path, seconds: float) -> list[Row]:
    """Between commands while nobody requests: the safety node's own 50 Hz."""
    with started(folder, {"safety": {"max_command_age_s": AGE_S, "max_state_age_s": 60.0}}):
        probe.until(lambda: probe.states.get_subscription_count() == 1)
        ask = None
        while ask is None or not ask.done() or not ask.result().success:
            probe.publish_state()
            if ask is None or ask.done():
                ask = probe.reset.call_async(Trigger.Request())
            probe.spin(0.05)
        probe.came[COMMANDS].clear()
        probe.spin(seconds)
        gaps = np.diff(probe.came[COMMANDS])
    return [
        *percentiles("50 Hz loop", "|period - 20 ms|", np.abs(gaps - 0.02)),
        Row("50 Hz loop", "rate", float(1 / gaps.mean()), "Hz"),
    ]


def image_path(probe: Probe, folder: Path, seconds: float) -> list[Row]:
    """A 640 x 480 picture to the camera node, shrunk to 64 x 64, and back."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    latencies = []
    with started(folder, {"camera": {}}) as processes:
        probe.until(lambda: probe.images.get_subscription_count() == 1)
        probe.spin(0.5)
        spent, began = cpu_s(processes["camera"].pid), time.perf_counter()
        frames = round(seconds * 30)
        for _ in range(frames):
            probe.shown.clear()
            sent = time.perf_counter()
            probe.images.publish(messages.image_message(picture, probe.get_clock().now().to_msg()))
            probe.spin(max(0.0, 1 / 30 - (time.perf_counter() - sent)))
            if probe.shown:
                latencies.append(probe.shown[0] - sent)
        share = (cpu_s(processes["camera"].pid) - spent) / (time.perf_counter() - began)
    return [
        *percentiles("640x480 at 30 Hz", "picture to policy's topic", latencies),
        Row("640x480 at 30 Hz", "delivered", 100 * len(latencies) / frames, "%"),
        Row("640x480 at 30 Hz", "CPU share of the camera node", 100 * share, "% of a core"),
    ]


def soak(probe: Probe, folder: Path, seconds: float) -> list[Row]:
    """The whole graph for a long time: memory, and commands (by their stamps) that did not arrive."""
    policy = ActorPolicy(PolicyConfig(7, 7, image_shape=(64, 64), hidden=(64,), seed=1))
    policy.save(folder / "policy", {"task": "widowx/push"})
    guard = GuardConfig.widowx_250s(max_command_age_s=10.0, max_state_age_s=10.0)
    export_bundle(
        folder / "policy",
        folder / "bundle",
        task="widowx/push",
        robot="widowx_250s",
        instruction="push",
        guard=guard,
    )
    bundle = {"bundle": str(folder / "bundle")}
    ages = {"max_image_age_s": 10.0, "max_skew_s": 10.0}
    probe.destroy_publisher(probe.requests)
    with started(folder, {"sim_arm": {}, "safety": bundle, "policy": bundle | ages}) as processes:
        probe.ask(probe.reset_sim, Trigger.Request())
        probe.ask(probe.reset, Trigger.Request())
        probe.ask(probe.enable, SetBool.Request(data=True))
        probe.spin(max(5.0, 0.1 * seconds))  # until buffers and caches have their size
        memory = {name: resident_mb(process.pid) for name, process in processes.items()}
        began = probe.get_clock().now().nanoseconds
        probe.spin(seconds)
        ended = probe.get_clock().now().nanoseconds
        probe.spin(0.5)  # what is on its way arrives
        made = [stamp for stamp in probe.stamps[messages.EXECUTED] if began <= stamp < ended]
        arrived = set(probe.stamps[COMMANDS])
        case = f"soak of {seconds:g} s"
        return [
            Row(case, "commands", len(made), "1"),
            Row(case, "commands lost", len(set(made) - arrived), "1"),
            Row(case, "rate of commands", len(made) / (ended - began) * 1e9, "Hz"),
            *(
                Row(case, f"memory growth of {name}", resident_mb(process.pid) - memory[name], "MB")
                for name, process in processes.items()
            ),
        ]


def measure(soak_s: float) -> Callable[[bool], list[Row]]:
    """quick -> rows."""

    def rows(quick: bool) -> list[Row]:
        seconds = 10.0 if quick else 60.0
        with tempfile.TemporaryDirectory(prefix="robot_rl_ros_") as name:
            folder = Path(name)
            os.environ.update(loopback_environment(folder, 1 + os.getpid() % 100))
            rclpy.init()
            try:
                found = []
                for part in (command_path, loop_jitter, image_path):
                    probe = Probe()
                    found += part(probe, folder, seconds)
                    probe.destroy_node()
                probe = Probe()
                found += soak(probe, folder, soak_s or (QUICK_SOAK_S if quick else SOAK_S))
                probe.destroy_node()
            finally:
                rclpy.try_shutdown()
        return found

    return rows


def main() -> None:
    if "--relay" in sys.argv:
        rclpy.init()
        rclpy.spin(Relay())
        return
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    own, rest = parser.parse_known_args()
    run("ros", ("ros-rclpy", "numpy", "torch", "mujoco"), measure(own.soak), rest)


if __name__ == "__main__":
    main()
