"""GRPO's advantages by hand, that it improves a policy, and the ways in which refinement is held back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.agents.grpo import GRPO, group_advantage
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.agents.ppo import PPOConfig
from robot_rl.errors import ConfigError
from robot_rl.trainers.imagined import RefineConfig, RefineLearner
from tests.agents.toys import PointToGoal


def _policy() -> ActorPolicy:
    return ActorPolicy(PolicyConfig(2, 1, None, hidden=(32, 32), min_std=0.2))


class Doubtful(PointToGoal):
    """A point whose every step is as uncertain as the action is large."""

    def step(self, actions: Any) -> tuple[Any, ...]:
        *result, info = super().step(actions)
        return (*result, info | {"uncertainty": np.abs(actions[:, 0])})


def test_advantages_compare_within_a_group_alone() -> None:
    reward = torch.tensor([[0.0, 1.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    assert group_advantage(reward, 2).tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-4)
    torch.testing.assert_close(group_advantage(reward + 7, 2), group_advantage(reward, 2))


def test_members_of_a_group_start_alike_and_stay_after_their_episode() -> None:
    config = RefineConfig(horizon=10, algorithm="grpo", group=4)
    learner = RefineLearner(PointToGoal(16, limit=6), _policy(), config)
    data, _ = learner._imagine(learner.env, learner.policy, 0, torch.Generator().manual_seed(0))
    first = data.features[0].unflatten(0, (4, 4))
    assert (first == first[:, :1]).all()
    assert (first[0] != first[1]).any()
    assert data.valid is not None
    assert data.valid[0].all()
    assert not data.valid[6:].any()
    assert not data.reward[~data.valid].any()


def test_grpo_improves_the_policy() -> None:
    config = RefineConfig(
        iterations=25,
        horizon=8,
        algorithm="grpo",
        group=8,
        ppo=PPOConfig(kl_weight=0.0, target_kl=None, lr=2e-3, value_warmup=2),
    )
    learner = RefineLearner(PointToGoal(64), _policy(), config)
    before = [value.clone() for value in learner.ppo.value.parameters()]
    history = [learner.update() for _ in range(learner.total_updates)]
    assert history[0]["imagined_success"] < 0.6
    assert history[-1]["best_validation_success"] > 0.8
    assert all(torch.equal(a, b) for a, b in zip(before, learner.ppo.value.parameters(), strict=True))


def test_pessimism_takes_the_uncertainty_off_the_reward() -> None:
    learner = RefineLearner(Doubtful(8), _policy(), RefineConfig(horizon=4, pessimism=0.5))
    data, _ = learner._imagine(learner.env, learner.policy, 0, torch.Generator().manual_seed(0))
    plain = RefineLearner(Doubtful(8), _policy(), RefineConfig(horizon=4))
    bare, _ = plain._imagine(plain.env, plain.policy, 0, torch.Generator().manual_seed(0))
    doubt = data.action.clamp(-1, 1).abs()[..., 0]
    torch.testing.assert_close(data.reward, bare.reward - 0.5 * doubt)
    certain = RefineLearner(PointToGoal(8), _policy(), RefineConfig(horizon=4, pessimism=0.5))
    with pytest.raises(ConfigError, match=r"pessimism=0\.5"):
        certain.update()


def test_refinement_stops_when_held_out_success_no_longer_rises() -> None:
    class Hopeless(PointToGoal):
        def step(self, actions: Any) -> tuple[Any, ...]:
            observation, reward, success, truncated, _ = super().step(actions)
            nothing = np.zeros_like(success)
            return observation, 0 * reward, nothing, truncated, {"success": nothing}

    config = RefineConfig(iterations=9, horizon=4, select_every=1, select_episodes=8, patience=2)
    learner = RefineLearner(PointToGoal(8), _policy(), config, Hopeless(8))
    history = [learner.update() for _ in range(learner.total_updates)]
    assert learner.stopped
    assert ["surrogate" in row for row in history] == [True, True] + [False] * 7
    again = RefineLearner(PointToGoal(8), _policy(), config, Hopeless(8))
    again.load_state_dict(learner.state_dict())
    assert again.stopped


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="grpo"):
        RefineConfig(algorithm="grp")
    with pytest.raises(ConfigError, match=r"multiple of refine\.group=3"):
        RefineLearner(PointToGoal(8), _policy(), RefineConfig(algorithm="grpo", group=3))
    with pytest.raises(ConfigError, match="at least 2 episodes"):
        GRPO(_policy(), _policy(), PPOConfig(), 1)
    with pytest.raises(ConfigError, match="pessimism=-1"):
        RefineConfig(pessimism=-1)
