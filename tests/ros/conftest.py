"""A domain and a loopback interface for the tests of the nodes; without rclpy they are skipped."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("robot_rl_ros") is None:
    sys.path.insert(0, str(ROOT / "ros_nodes"))

HAS_RCLPY = importlib.util.find_spec("rclpy") is not None
DOMAIN = 1 + os.getpid() % 100


@pytest.fixture(autouse=True)
def _needs_rclpy(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("ros") and not HAS_RCLPY:
        pytest.skip("rclpy is not installed (requirements-ros.txt)")


class Graph:
    """Nodes in this process, spun by the test."""

    def __init__(self) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.executor = SingleThreadedExecutor()
        self.nodes: list[Any] = []

    def add(self, make: Callable[..., Any], **parameters: Any) -> Any:
        from rclpy.parameter import Parameter

        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = make(parameter_overrides=overrides, namespace="/wx250s")
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Spin until `condition`; a failure if it does not come."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            self.executor.spin_once(timeout_sec=0.02)

    def during(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    import rclpy
    from robot_rl_ros.network import loopback_environment

    for name, value in loopback_environment(tmp_path, DOMAIN).items():
        monkeypatch.setenv(name, value)
    rclpy.init()
    graph = Graph()
    yield graph
    for node in graph.nodes:
        node.destroy_node()
    graph.executor.shutdown()
    rclpy.shutdown()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy: it moves, to no purpose."""
    return untrained(tmp_path_factory.mktemp("bundle"), "widowx_250s")


@pytest.fixture(scope="session")
def ai_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the WidowX AI."""
    return untrained(tmp_path_factory.mktemp("ai_bundle"), "widowx_ai")


def untrained(folder: Path, robot: str) -> Path:
    from robot_rl.agents.policy import ActorPolicy, PolicyConfig
    from robot_rl.safety import GuardConfig
    from robot_rl.trainers.bundle import export_bundle

    policy = ActorPolicy(PolicyConfig(7, 7, image_shape=(32, 32), hidden=(16,), seed=1))
    policy.save(folder / "policy", {"task": "widowx/push"})
    export_bundle(
        folder / "policy",
        folder / "bundle",
        task="widowx/push",
        robot=robot,
        instruction="push the block",
        # Generous ages: the machine that tests may be busy. Their faults are injected on purpose.
        guard=GuardConfig.of_robot(robot, max_command_age_s=2.0, max_state_age_s=2.0),
    )
    return folder / "bundle"
