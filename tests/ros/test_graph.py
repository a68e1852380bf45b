"""Arm, policy and guard together in one process: an untrained policy moves a simulated arm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter
from robot_rl_ros import messages
from robot_rl_ros.observing import Observation
from robot_rl_ros.policy import PolicyNode
from robot_rl_ros.safety import SafetyNode
from robot_rl_ros.sim_arm import SimArmNode
from robot_rl_ros.teleop import TeleopNode
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import GuardConfig
from robot_rl.trainers.bundle import export_bundle
from tests.ros.conftest import ROOT, Graph

pytestmark = pytest.mark.ros
CONFIG = GuardConfig.widowx_250s()
DRIVER = "arm_controller/joint_trajectory"


class Listener(Node):
    """Stands beside the graph and writes down what passes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("listener", **kwargs)
        self.states: list[JointState] = []
        self.pictures: list[Image] = []
        self.commands: list[np.ndarray] = []
        self.truth: list[dict[str, float]] = []
        self.create_subscription(JointState, messages.JOINT_STATES, self.states.append, messages.SENSOR_QOS)
        self.create_subscription(
            Image, messages.camera_topic("front"), self.pictures.append, messages.SENSOR_QOS
        )
        self.create_subscription(
            JointTrajectory,
            DRIVER,
            lambda m: self.commands.append(np.array(m.points[0].positions)),
            messages.EVENT_QOS,
        )
        self.create_subscription(
            JointState,
            messages.TRUTH,
            lambda m: self.truth.append(messages.numbers_from(m)),
            messages.EVENT_QOS,
        )
        self.driver = self.create_publisher(JointTrajectory, DRIVER, messages.COMMAND_QOS)
        self.reset_sim = self.create_client(Trigger, messages.RESET_SIM_SERVICE)
        self.reset_guard = self.create_client(Trigger, messages.RESET_SERVICE)
        self.enable = self.create_client(SetBool, messages.enable_service("policy"))

    def pose(self) -> np.ndarray:
        state = self.states[-1]
        return np.array(messages.by_name(state.name, state.position, CONFIG.names))


def test_the_simulated_arm_behaves_like_the_driver(graph: Graph) -> None:
    arm = graph.add(SimArmNode, image_size=32, seed=5)
    listener = graph.add(Listener)
    graph.until(lambda: len(listener.states) > 3 and len(listener.pictures) > 1 and len(listener.truth) > 0)
    state, picture = listener.states[-1], listener.pictures[-1]
    assert tuple(state.name) == arm.reported
    assert len(state.position) == len(state.velocity) == len(state.effort) == 9
    assert (picture.height, picture.width, picture.encoding) == (32, 32, "rgb8")
    assert np.ptp(messages.picture_from(picture)) > 50
    assert listener.truth[-1]["success"] == 0
    assert listener.truth[-1]["seed"] == 5

    home = listener.pose()
    target = home + np.array([0.3, 0, 0, 0, 0, 0, 0])
    stamp = listener.get_clock().now().to_msg()
    graph.until(lambda: listener.driver.get_subscription_count() >= 1)
    listener.driver.publish(messages.trajectory_message(CONFIG.names, target, stamp, 0.02))
    graph.until(lambda: abs(listener.pose()[0] - target[0]) < 0.03)
    listener.driver.publish(messages.trajectory_message(CONFIG.names, target * np.nan, stamp, 0.02))
    graph.during(0.3)
    assert np.isfinite(listener.pose()).all()

    graph.call(listener.reset_sim, Trigger.Request())
    listener.states.clear()
    graph.until(lambda: len(listener.states) > 2)
    np.testing.assert_allclose(listener.pose(), home, atol=1e-3)
    arm.set_parameters([Parameter("seed", value=6)])
    graph.call(listener.reset_sim, Trigger.Request())
    other = arm.env.scene.position("block")
    arm.set_parameters([Parameter("seed", value=5)])
    graph.call(listener.reset_sim, Trigger.Request())
    assert np.abs(arm.env.scene.position("block") - other).max() > 1e-3


def test_an_episode_runs_through_the_whole_graph(graph: Graph, bundle: Path) -> None:
    graph.add(SimArmNode, image_size=32)
    guard = graph.add(SafetyNode, bundle=str(bundle))
    policy = graph.add(PolicyNode, bundle=str(bundle), max_image_age_s=2.0, max_skew_s=2.0)
    listener = graph.add(Listener)
    listener.destroy_publisher(listener.driver)
    graph.until(
        lambda: (
            not isinstance(policy.observer.newest(policy._now()), str)
            and guard._measured is not None
            and len(listener.states) > 0
        )
    )
    start = listener.pose()
    assert graph.call(listener.reset_guard, Trigger.Request()).success
    assert graph.call(listener.enable, SetBool.Request(data=True)).success
    graph.until(lambda: len(listener.commands) > 60)
    assert guard.guard.fault == ""
    assert np.abs(listener.pose() - start)[:6].max() > 0.02
    commands = np.array(listener.commands)
    assert (commands >= np.array(CONFIG.lower)).all()
    assert (commands <= np.array(CONFIG.upper)).all()
    writers = listener.get_publishers_info_by_topic("/wx250s/" + DRIVER)
    assert [writer.node_name for writer in writers] == ["safety"]

    # A policy that goes mad: the arm stops where it is, and stays.
    policy.controller.ramp = lambda *arguments: np.full((10, 7), np.nan)
    graph.until(lambda: guard.guard.fault == "non_finite")
    held = len(listener.commands)
    graph.until(lambda: len(listener.commands) > held + 20)
    last = np.array(listener.commands[held + 5 :])
    assert np.isfinite(last).all()
    np.testing.assert_array_equal(last, np.tile(last[0], (len(last), 1)))


def acting(graph: Graph, bundle: Path) -> tuple[SafetyNode, PolicyNode, Listener]:
    """Arm, guard and policy, which moves the arm."""
    graph.add(SimArmNode, image_size=32)
    guard = graph.add(SafetyNode, bundle=str(bundle))
    policy = graph.add(PolicyNode, bundle=str(bundle), max_image_age_s=2.0, max_skew_s=2.0)
    listener = graph.add(Listener)
    listener.destroy_publisher(listener.driver)
    graph.until(
        lambda: not isinstance(policy.observer.newest(policy._now()), str) and guard._measured is not None
    )
    assert graph.call(listener.reset_guard, Trigger.Request()).success
    enable(graph, listener)
    return guard, policy, listener


def enable(graph: Graph, listener: Listener) -> None:
    """Until the arm moves."""
    assert graph.call(listener.enable, SetBool.Request(data=True)).success
    listener.commands.clear()
    graph.until(
        lambda: len(listener.commands) > 10 and np.ptp(np.array(listener.commands), axis=0)[:6].max() > 0.01
    )


def assert_still(graph: Graph, listener: Listener) -> None:
    """The driver gets one setpoint again and again."""
    listener.commands.clear()
    graph.until(lambda: len(listener.commands) > 25)
    np.testing.assert_array_equal(np.ptp(np.array(listener.commands), axis=0), 0)


def test_a_reset_of_the_guard_moves_nothing_until_the_policy_is_enabled_again(
    graph: Graph, bundle: Path
) -> None:
    guard, _, listener = acting(graph, bundle)
    guard.guard.estop()
    graph.until(lambda: guard._reason == "estop")
    graph.during(0.5)
    assert graph.call(listener.reset_guard, Trigger.Request()).success
    assert_still(graph, listener)
    assert guard._reason == "inactive"
    enable(graph, listener)
    # Whoever is enabled first, and then the guard reset, moves nothing either.
    guard.guard.estop()
    graph.until(lambda: guard._reason == "estop")
    assert graph.call(listener.enable, SetBool.Request(data=True)).success
    graph.during(0.5)
    assert graph.call(listener.reset_guard, Trigger.Request()).success
    assert_still(graph, listener)


def test_a_new_guard_moves_nothing_until_the_policy_is_enabled_again(graph: Graph, bundle: Path) -> None:
    guard, policy, listener = acting(graph, bundle)
    graph.executor.remove_node(guard)
    graph.nodes.remove(guard)
    guard.destroy_node()
    graph.during(policy.max_image_age_s + 0.5)
    newer = graph.add(SafetyNode, bundle=str(bundle))
    graph.until(lambda: newer._measured is not None)
    graph.until(lambda: bool(graph.call(listener.reset_guard, Trigger.Request()).success))
    assert_still(graph, listener)
    enable(graph, listener)


def test_a_released_deadman_button_does_not_disable_the_policy(graph: Graph, bundle: Path) -> None:
    guard, _, listener = acting(graph, bundle)
    guard.deadman_timeout_s = 60.0
    graph.until(lambda: guard._reason == "inactive")
    assert_still(graph, listener)
    guard._deadman_at = time.monotonic()
    graph.until(lambda: guard._reason == "" and np.ptp(np.array(listener.commands), axis=0).max() > 0.01)


@pytest.mark.parametrize("end", ["trigger_deactivate", "trigger_shutdown"])
def test_neither_policy_nor_guard_moves_the_arm_after_its_end(graph: Graph, bundle: Path, end: str) -> None:
    guard, policy, listener = acting(graph, bundle)
    getattr(guard, end)()
    graph.until(lambda: guard._reason == "inactive")
    assert_still(graph, listener)
    getattr(policy, end)()
    sent = policy._sequence
    graph.during(0.3)
    assert policy._sequence == sent
    assert not graph.call(listener.enable, SetBool.Request(data=True)).success


@pytest.mark.parametrize("robot", ["bundle", "ai_bundle"])
def test_the_policy_does_as_in_the_simulator(
    graph: Graph, robot: str, request: pytest.FixtureRequest
) -> None:
    """One observation gives the node's setpoints and the simulator's."""
    import sim
    from robot_rl.agents.policy import PolicyRunner
    from robot_rl.trainers.bundle import load_bundle

    bundle = request.getfixturevalue(robot)
    node = graph.add(PolicyNode, bundle=str(bundle))
    env = sim.make("widowx/push", image_size=32, robot=load_bundle(bundle).robot).unwrapped
    observation, _ = env.reset(seed=3)
    measured = env.scene.arm.measured
    seen = Observation(0.0, measured, {"front": observation[schema.IMAGE]})
    thought = node._think(seen, env.scene.arm.setpoint, measured)
    assert thought is not None
    requested: list[np.ndarray] = []
    env.set_command_filter(lambda setpoint, _measured, _time: (requested.append(setpoint) or setpoint, 0))
    action = PolicyRunner(load_bundle(bundle).policy).act(
        {key: value[None] for key, value in observation.items()}
    )
    env.step(action[0])
    env.close()
    np.testing.assert_allclose(thought.ramp, requested, atol=1e-6)


def test_the_policy_is_silent_when_it_does_not_see(graph: Graph, bundle: Path) -> None:
    node = graph.add(PolicyNode, bundle=str(bundle))
    listener = graph.add(Listener)
    response = graph.call(listener.enable, SetBool.Request(data=True))
    assert not response.success
    assert response.message == "no joint state yet"
    node._enabled = True
    graph.during(0.2)
    assert node._sequence == 0


def test_a_damaged_bundle_is_refused(graph: Graph, bundle: Path, tmp_path: Path) -> None:
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    text = (damaged / "safety.json").read_text()
    (damaged / "safety.json").write_text(text.replace("3.14158", "9.14158"))
    for make in (SafetyNode, PolicyNode):
        with pytest.raises(DataError, match=r"safety\.json"):
            graph.add(make, bundle=str(damaged))


def test_bundles_of_two_arms_do_not_go_together_and_an_unknown_arm_is_refused(
    graph: Graph, bundle: Path, ai_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has robot 'widowx_ai'; expected 'widowx_250s', as the first"):
        graph.add(PolicyNode, bundle=str(bundle), more_bundles=[str(ai_bundle)])
    ActorPolicy(PolicyConfig(7, 7, hidden=(4,))).save(tmp_path / "policy", {})
    export_bundle(
        tmp_path / "policy", tmp_path / "strange", task="widowx/push", robot="widowx_9", instruction="push"
    )
    for make in (SimArmNode, TeleopNode, PolicyNode):
        with pytest.raises(ConfigError, match=r"unknown robot of bundle .*strange 'widowx_9'"):
            graph.add(make, bundle=str(tmp_path / "strange"))


def test_the_parameter_file_fits_the_nodes(graph: Graph, bundle: Path) -> None:
    settings = yaml.safe_load((ROOT / "ros_nodes/config/sim.yaml").read_text())
    for name, make in (("sim_arm", SimArmNode), ("policy", PolicyNode), ("safety", SafetyNode)):
        values = settings[f"/**/{name}"]["ros__parameters"]
        node = graph.add(make, **values | ({} if name == "sim_arm" else {"bundle": str(bundle)}))
        for key, value in values.items():
            assert node.get_parameter(key).value == value
