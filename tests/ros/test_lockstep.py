"""In lock-step the graph does what the simulator's own loop does, and the recorder writes it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from rclpy.node import Node
from robot_rl_ros import messages
from robot_rl_ros.policy import PolicyNode
from robot_rl_ros.recorder import RecorderNode
from robot_rl_ros.safety import SafetyNode
from robot_rl_ros.sim_arm import SimArmNode
from std_srvs.srv import SetBool, Trigger

import sim
from robot_rl.agents.policy import PolicyRunner
from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.store import EpisodeStore
from robot_rl.safety import ActionGuard, GuardFilter
from robot_rl.trainers.bundle import load_bundle
from tests.ros.conftest import Graph

pytestmark = pytest.mark.ros
SEED, STEPS = 9_000_123, 3


class Caller(Node):
    """What the conductor asks for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("caller", **kwargs)
        self.reset_sim = self.create_client(Trigger, messages.RESET_SIM_SERVICE)
        self.reset = self.create_client(Trigger, messages.RESET_SERVICE)
        self.enable = self.create_client(SetBool, messages.enable_service("policy"))
        self.record = self.create_client(SetBool, messages.RECORD_SERVICE)


def insist(graph: Graph, client: Any, request: Any) -> str:
    """Call until it succeeds: what the node waits for may still be on its way."""
    answers = []

    def succeeded() -> bool:
        answers.append(graph.call(client, request))
        return bool(answers[-1].success)

    graph.until(succeeded, 60.0)
    return str(answers[-1].message)


def simulated(bundle: Path, task: str = "widowx/push") -> Episode:
    """The same policy in the simulator's own loop: observations and actions."""
    loaded = load_bundle(bundle)
    assert loaded.guard is not None
    env = sim.make(task, image_size=32, hold_steps=STEPS + 1, robot=loaded.robot).unwrapped
    env.set_command_filter(GuardFilter(loaded.guard))
    runner, guard = PolicyRunner(loaded.policy), ActionGuard(1, 7, loaded.action_guard)
    observation, _ = env.reset(seed=SEED)
    seen, requested, executed = [observation], [], []
    for _ in range(STEPS):
        requested.append(runner.act({key: value[None] for key, value in observation.items()})[0])
        observation, _, _, _, info = env.step(guard.step(requested[-1][None])[0][0])
        seen.append(observation)
        executed.append(info["action"])
    env.close()
    return Episode.from_steps(
        {key: np.stack([each[key] for each in seen]) for key in seen[0]},
        action=np.array(executed),
        action_requested=np.array(requested),
        metadata=EpisodeMetadata(task, loaded.instruction, loaded.robot, loaded.control_hz, SEED),
    )


@pytest.mark.parametrize("robot", ["bundle", "ai_bundle"])
def test_an_episode_equals_the_simulators_own_and_is_recorded(
    graph: Graph, robot: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(robot)
    lockstep = {"lockstep": True, "bundle": str(bundle)}
    arm = graph.add(SimArmNode, image_size=32, seed=SEED, episode_s=STEPS / schema.CONTROL_HZ, **lockstep)
    graph.add(SafetyNode, **lockstep)
    graph.add(PolicyNode, **lockstep)
    graph.add(RecorderNode, bundle=str(bundle), store=str(tmp_path / "store"), truth=True, seed=SEED)
    caller = graph.add(Caller)
    expected = simulated(bundle)
    for number in range(2):
        insist(graph, caller.enable, SetBool.Request(data=False))
        insist(graph, caller.reset_sim, Trigger.Request())
        insist(graph, caller.reset, Trigger.Request())
        insist(graph, caller.record, SetBool.Request(data=True))
        insist(graph, caller.enable, SetBool.Request(data=True))
        graph.until(lambda: arm._over, 60.0)
        insist(graph, caller.enable, SetBool.Request(data=False))
        said = insist(graph, caller.record, SetBool.Request(data=False))
        assert said == f"committed episode {number} of {STEPS} steps"
        (episode,) = EpisodeStore(tmp_path / "store")[number:]
        for name, value in expected.arrays().items():
            if name.startswith(("observation", "action")):
                np.testing.assert_allclose(episode.arrays()[name], value, atol=1e-5, err_msg=name)
        assert episode.metadata.seed == SEED
        assert episode.metadata.robot == expected.metadata.robot
        assert episode.metadata.source == "policy"
        assert episode.metadata.instruction == "push the block"
        assert episode.truncated[-1]
        assert not episode.success.any()


def test_simulated_time_stands_still_while_nobody_acts(graph: Graph) -> None:
    arm = graph.add(SimArmNode, image_size=32, lockstep=True)
    caller = graph.add(Caller)
    insist(graph, caller.reset_sim, Trigger.Request())
    before = arm._now_ns
    graph.during(0.7)
    assert arm._now_ns == before
    assert arm.env.scene.data.time == 0.0
