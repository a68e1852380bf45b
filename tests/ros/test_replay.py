"""Replay and teleoperation: a recording and a person act through the same guard as a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from rclpy.node import Node
from robot_rl_ros import messages
from robot_rl_ros.acting import refined
from robot_rl_ros.camera import fitted
from robot_rl_ros.deadman import DeadmanNode
from robot_rl_ros.replay import ReplayNode
from robot_rl_ros.safety import SafetyNode
from robot_rl_ros.sim_arm import SimArmNode
from robot_rl_ros.teleop import TeleopNode
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError
from tests.ros.conftest import Graph
from tests.ros.test_lockstep import SEED, STEPS, insist, simulated

pytestmark = pytest.mark.ros


class Caller(Node):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("caller", **kwargs)
        self.reset_sim = self.create_client(Trigger, messages.RESET_SIM_SERVICE)
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)
        self.replay = self.create_client(SetBool, messages.enable_service("replay"))
        self.step = self.create_client(Trigger, "replay/step")
        self.teleop = self.create_client(SetBool, messages.enable_service("teleop"))
        self.joy = self.create_publisher(Joy, "joy", messages.SENSOR_QOS)
        self.held: list[bool] = []
        self.actions: list[dict[str, float]] = []
        self.create_subscription(
            Bool, messages.DEADMAN, lambda m: self.held.append(m.data), messages.SENSOR_QOS
        )
        self.create_subscription(
            JointState,
            messages.ACTION,
            lambda m: self.actions.append(messages.numbers_from(m)),
            messages.EVENT_QOS,
        )


def recorded(bundle: Path, folder: Path) -> str:
    EpisodeStore(folder, create=True).append(simulated(bundle))
    return str(folder)


@pytest.fixture
def recording(bundle: Path, tmp_path: Path) -> str:
    return recorded(bundle, tmp_path / "store")


@pytest.mark.parametrize("robot", ["bundle", "ai_bundle"])
def test_a_recording_is_replayed_where_it_was(
    graph: Graph, robot: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(robot)
    recording = recorded(bundle, tmp_path / "store")
    graph.add(SimArmNode, image_size=32, seed=SEED, lockstep=True, bundle=str(bundle))
    graph.add(SafetyNode, bundle=str(bundle), lockstep=True)
    replay = graph.add(ReplayNode, dataset=recording, lockstep=True)
    caller = graph.add(Caller)
    insist(graph, caller.reset_sim, Trigger.Request())
    insist(graph, caller.reset, Trigger.Request())
    insist(graph, caller.replay, SetBool.Request(data=True))
    graph.until(lambda: len(replay.drift_m) == STEPS + 1, 60.0)
    assert max(replay.drift_m) < 1e-3
    # The arm is elsewhere now: no second start from here, unless it is put back.
    replay.max_start_m = min(replay.max_start_m, 0.5 * replay._away(replay.observer.state.position, 0))
    answer = graph.call(caller.replay, SetBool.Request(data=True))
    assert not answer.success
    assert "from where the episode began" in answer.message
    insist(graph, caller.reset_sim, Trigger.Request())
    insist(graph, caller.replay, SetBool.Request(data=True))


def test_single_steps(graph: Graph, bundle: Path, recording: str) -> None:
    graph.add(SimArmNode, image_size=32, seed=SEED, lockstep=True)
    graph.add(SafetyNode, bundle=str(bundle), lockstep=True)
    replay = graph.add(ReplayNode, dataset=recording, lockstep=True, single_step=True, speed=0.5)
    caller = graph.add(Caller)
    insist(graph, caller.reset_sim, Trigger.Request())
    insist(graph, caller.reset, Trigger.Request())
    insist(graph, caller.replay, SetBool.Request(data=True))
    graph.during(0.5)
    assert replay._next == 0
    insist(graph, caller.step, Trigger.Request())
    graph.until(lambda: len(replay.drift_m) == 2, 60.0)
    graph.during(0.3)
    assert replay._next == 1
    assert replay.drift_m[1] < 0.01  # slower, to the same place


def test_bad_settings_of_a_replay_are_refused(graph: Graph, recording: str) -> None:
    with pytest.raises(ConfigError, match=r"episode is 7; .* holds 0 \.\. 0"):
        graph.add(ReplayNode, dataset=recording, episode=7)
    with pytest.raises(ConfigError, match="speed is 2; expected 1, 1/2"):
        graph.add(ReplayNode, dataset=recording, speed=2.0)


def test_a_finer_ramp_has_the_same_way_and_end() -> None:
    start, ramp = np.zeros(2), np.cumsum(np.ones((10, 2)), axis=0)
    finer = refined(ramp, start, 4)
    assert finer.shape == (40, 2)
    np.testing.assert_allclose(finer[3::4], ramp)
    np.testing.assert_allclose(np.diff(finer, axis=0), 0.25)


def test_a_person_moves_the_arm_only_while_the_deadman_button_is_held(graph: Graph, bundle: Path) -> None:
    arm = graph.add(SimArmNode, image_size=32, lockstep=True)
    graph.add(SafetyNode, bundle=str(bundle), lockstep=True)
    teleop = graph.add(TeleopNode, lockstep=True)
    caller = graph.add(Caller)
    insist(graph, caller.reset_sim, Trigger.Request())
    insist(graph, caller.reset, Trigger.Request())
    insist(graph, caller.teleop, SetBool.Request(data=True))
    graph.until(lambda: caller.joy.get_subscription_count() == 1)

    def joystick(held: bool, condition: Any) -> None:
        joy = Joy(axes=[0.0, 1.0, 0.0, 0.0, 0.0], buttons=[0, 0, 0, 0, 0, int(held)])
        graph.until(lambda: (caller.joy.publish(joy), condition())[1], 60.0)

    before = arm.env.scene.arm.pose.position
    ticks = arm._ticks
    joystick(False, lambda: arm._ticks > ticks + 20)
    np.testing.assert_allclose(arm.env.scene.arm.pose.position, before, atol=2e-3)
    assert caller.actions == []
    joystick(True, lambda: arm.env.scene.arm.pose.position[0] > before[0] + 0.02)
    graph.until(lambda: caller.actions != [] and True in caller.held)
    assert caller.actions[0]["dx"] == pytest.approx(0.5)
    assert caller.actions[0]["intervention"] == 1.0
    assert teleop.intervention


def test_the_deadman_node_passes_on_the_buttons_while_it_is_active(graph: Graph, bundle: Path) -> None:
    graph.add(SimArmNode, image_size=32, camera_hz=0.0)
    guard = graph.add(SafetyNode, bundle=str(bundle), deadman_timeout_s=1.0)
    deadman = graph.add(DeadmanNode, deadman_button=2, estop_button=0)
    caller = graph.add(Caller)
    insist(graph, caller.reset, Trigger.Request())
    graph.until(lambda: caller.joy.get_subscription_count() == 1)

    def joystick(buttons: list[int], condition: Any) -> None:
        joy = Joy(buttons=buttons)
        graph.until(lambda: (caller.joy.publish(joy), condition())[1])

    joystick([0, 1, 0], lambda: caller.held[-3:] == [False] * 3)
    assert not guard._may_move()
    joystick([0, 0, 1], guard._may_move)
    graph.until(lambda: not guard._may_move())  # the joystick was pulled out
    joystick([0, 0, 1], guard._may_move)
    deadman.trigger_deactivate()
    joystick([0, 0, 1], lambda: not guard._may_move())
    deadman.trigger_activate()
    assert guard.guard.fault == ""
    joystick([1, 0, 1], lambda: guard.guard.fault == "estop")
    # Held down it stops once: a reset is possible, and the next press stops again.
    insist(graph, caller.reset, Trigger.Request())
    for _ in range(5):
        caller.joy.publish(Joy(buttons=[1, 0, 1]))
        graph.during(0.05)
    assert guard.guard.fault == ""
    joystick([0, 0, 1], lambda: caller.held[-1])
    graph.during(0.1)
    joystick([1, 0, 1], lambda: guard.guard.fault == "estop")


def test_pictures_are_cut_and_shrunk() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, 80:560] = 200
    picture[:240, 80:320] = 100
    small = fitted(picture, 64)
    assert small.shape == (64, 64, 3)
    assert (small[:32, :32] == 100).all()
    assert (small[32:] == 200).all()
