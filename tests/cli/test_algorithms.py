"""`agent=NAME` in the offline and online stages: each learns, saves and goes on from what offline left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.cli import actions, practice, stages
from robot_rl.cli.actions import label
from robot_rl.cli.config import groups, resolve
from robot_rl.cli.context import Context
from robot_rl.data import Episode, schema
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, Interrupted
from robot_rl.trainers.loop import Silent
from robot_rl.trainers.protocols import Learner
from robot_rl.trainers.rollout import EpisodeOrigin
from robot_rl.trainers.run import Run
from tests.agents.toys import PointToGoal, metadata

AGENTS = ["wsrl", "retained", "rlpd", "calql", "cql", "iql", "td3bc", "famo2o"]
SMALL = [
    "preset=smoke",
    "offline.learner.updates=3",
    "offline.learner.critic_only=1",
    "online.practice.episodes=4",
    "online.practice.episodes_per_update=2",
    "online.practice.warmup_episodes=2",
]
ORIGIN = EpisodeOrigin("toy", "point", 5.0, "test")


class World(PointToGoal):
    """`PointToGoal` with all that a rollout asks a task for."""

    def reset(self, **kwargs: Any) -> Any:
        observations, info = super().reset(**kwargs)
        return observations, info | {"instruction": ["go there"] * self.num_envs}

    def step(self, actions: Any) -> Any:
        *result, info = super().step(actions)
        none = np.zeros(self.num_envs)
        info |= {"action": actions, "cost": none, "filter_reason": none.astype(int)}
        return *result, info | {"instruction": ["go there"] * self.num_envs}


def walks(count: int) -> list[Episode]:
    """Random walks of `PointToGoal`; the first ends at its goal."""
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(count):
        action = rng.uniform(-1, 1, (6, 1)).astype(np.float32)
        place = np.vstack([np.zeros((1, 1)), 0.25 * action.cumsum(0)])
        state = np.hstack([place, np.full((7, 1), 0.5)]).astype(np.float32)
        terminated = np.zeros(6, bool)
        terminated[-1] = number == 0
        reward = np.where(terminated, 0, -1)
        episodes.append(
            Episode.from_steps(
                {schema.STATE: state}, action, metadata(number), reward=reward, terminated=terminated
            )
        )
    return episodes


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context over toy episodes and a toy world, its judge believed."""
    monkeypatch.setattr(stages, "demos", lambda context: walks(6))
    monkeypatch.setattr(stages, "rollouts", lambda context: [])
    monkeypatch.setattr(stages, "refined_rollouts", lambda context: [])
    monkeypatch.setattr(stages, "load_reward", lambda context: None)
    monkeypatch.setattr(stages, "relabel", lambda episode, judge, rewards: episode)
    monkeypatch.setattr(practice, "RewardWrapper", lambda env, judge, rewards: env)
    read = stages.load_policy

    def load(context: Context, stage: str) -> ActorPolicy:
        if stage == "refine":
            policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(8,)))
            torch.nn.init.constant_(policy.trunk[0].bias, 0.7)  # type: ignore[arg-type]
            return policy
        return read(context, stage)

    monkeypatch.setattr(stages, "load_policy", load)
    monkeypatch.setattr(Context, "task", "toy")
    world = SimpleNamespace(vector_env=lambda n, **kwargs: World(n), origin=lambda source: ORIGIN)

    def build(*overrides: str) -> Context:
        run = Run.create(tmp_path / "run", "{}", ["test"])
        context = Context(resolve([*SMALL, *overrides]), run, Silent())
        context.__dict__["simulation"] = world
        return context

    return build


def test_every_agent_has_its_config() -> None:
    assert set(AGENTS) | {"recorded"} == set(groups()["agent"])


@pytest.mark.parametrize("agent", AGENTS)
def test_offline_and_online_stages_run_with_every_agent(agent: str, make: Any) -> None:
    context = make(f"agent={agent}")
    stages.fit_offline(context)
    before = stages.load_policy(context, "offline")
    assert (before.config.family is not None) == (agent == "famo2o")
    stages.fit_online(context)
    after = stages.load_policy(context, "online").trunk[0].bias
    went_on = np.allclose(after.detach(), 0.7, atol=0.1)
    assert went_on == (agent != "rlpd")  # which alone does not begin with the policy that it finds


def test_practice_can_be_recorded_once_whatever_is_repeated(make: Any) -> None:
    context = make("online.record=true")
    stages.fit_offline(context)
    for _ in range(2):  # the second as after a kill before anything was saved
        stages.fit_online(context)
        (context.run.stage_dir("online") / "state.pt").unlink()
        assert len(EpisodeStore(context.run.data_dir("online"))) == 4


def test_weighted_trajectories_train_any_of_them(make: Any) -> None:
    context = make("agent=iql", "offline.trajectory_weighting=0.1")
    assert stages.fit_offline(context)["transitions"] == 36


def test_practice_held_to_the_family_that_offline_left(make: Any) -> None:
    context = make("algorithm.offline=famo2o", "online.agent.sac.kl_weight=0.1")
    stages.fit_offline(context)
    stages.fit_online(context)
    assert stages.load_policy(context, "online").config.family is not None


def test_more_transitions_than_the_replay_holds_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"replay\.capacity=35 for 36 recorded transitions"):
        stages.fit_offline(make("offline.replay.capacity=35"))


def test_online_names_what_another_offline_algorithm_did_not_leave(make: Any) -> None:
    context = make("agent=iql", "algorithm.offline=calql")
    stages.fit_offline(context)
    with pytest.raises(DataError, match="'value'"):
        stages.fit_online(context)


def test_unknown_algorithms_are_named(make: Any) -> None:
    with pytest.raises(ConfigError, match="iql"):
        stages.fit_offline(make("algorithm.offline=iqll"))


def test_label_actions_writes_a_store_with_actions_in_every_episode(tmp_path: Path) -> None:
    EpisodeStore(tmp_path / "known", create=True).extend(walks(6))
    EpisodeStore(tmp_path / "videos", create=True).extend(walks(2))
    arguments = {
        "dataset": str(tmp_path / "known"),
        "action_free": str(tmp_path / "videos"),
        "out": str(tmp_path / "all"),
        "updates": "5",
    }
    label(arguments, [])
    episodes = list(EpisodeStore(tmp_path / "all"))
    assert len(episodes) == 8
    assert [bool(episode.metadata.extra) for episode in episodes] == [False] * 6 + [True] * 2
    with pytest.raises(DataError, match="choose another out="):
        label(arguments, [])
    with pytest.raises(DataError, match="every episode has its actions"):
        label({"dataset": str(tmp_path / "known"), "out": str(tmp_path / "other")}, [])


def test_label_actions_goes_on_with_its_own_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EpisodeStore(tmp_path / "known", create=True).extend(walks(6))
    EpisodeStore(tmp_path / "videos", create=True).extend(walks(2))
    arguments = {
        "dataset": str(tmp_path / "known"),
        "action_free": str(tmp_path / "videos"),
        "out": str(tmp_path / "all"),
        "updates": "5",
    }

    def interrupted(learner: Learner, run: Run, *rest: Any, **kwargs: Any) -> None:
        run.save_state("inverse_dynamics", {"learner": learner.state_dict(), "updates": 3, "time_s": 1.0})
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(actions, "train", interrupted)
        with pytest.raises(Interrupted):
            label(arguments, [])
    for other in ({"seed": "5"}, {"dataset": str(tmp_path / "videos")}):
        with pytest.raises(ConfigError, match=r"all\.training was made with other settings: remove it, or"):
            label(arguments | other, [])
    label(arguments, [])
    assert len(EpisodeStore(tmp_path / "all")) == 8
    assert not (tmp_path / "all.training").exists()
