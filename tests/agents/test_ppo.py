"""PPO: its targets by hand, its anchors, and that it improves a policy."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from robot_rl.agents.policy import HEADS, ActorPolicy, PolicyConfig
from robot_rl.agents.ppo import PPO, PPOConfig, Rollout, generalised_advantage
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.trainers.imagined import RefineConfig, RefineLearner
from tests.agents.toys import PointToGoal


def rollout(policy: ActorPolicy, ppo: PPO, steps: int = 4, members: int = 3, seed: int = 0) -> Rollout:
    g = torch.Generator().manual_seed(seed)
    observations = {schema.STATE: torch.randn(steps, members, policy.config.state_dim, generator=g)}
    if policy.config.image_shape:
        size = (steps, members, *policy.config.image_shape, 3)
        observations[schema.IMAGE] = torch.randint(0, 256, size, generator=g, dtype=torch.uint8)
    flat = policy.features({key: value.flatten(0, 1) for key, value in observations.items()}).detach()
    action = torch.rand(len(flat), policy.config.action_dim, generator=g) * 2 - 1
    log_prob = policy(flat).log_prob(action).detach()
    shape = (steps, members)
    return Rollout(
        features=flat.unflatten(0, shape),
        action=action.unflatten(0, shape),
        log_prob=log_prob.unflatten(0, shape),
        value=ppo.values(flat).unflatten(0, shape),
        next_value=torch.randn(shape, generator=g),
        reward=torch.randn(shape, generator=g),
        terminated=torch.zeros(shape, dtype=torch.bool),
        ended=torch.zeros(shape, dtype=torch.bool),
        observations=observations,
    )


def test_advantage_bootstraps_truncated_steps_and_not_terminated_ones() -> None:
    def advantage(terminated: bool, ended: bool) -> torch.Tensor:
        column = torch.tensor([[1.0], [2.0]])
        end = torch.tensor([[ended], [False]])
        stop = torch.tensor([[terminated], [False]])
        data = Rollout(column, column, column, 0.5 * column, 10 * column, column, stop, end)
        return generalised_advantage(data, gamma=0.9, gae_lambda=0.5)[:, 0]

    # deltas: 1 + 9 - .5 = 9.5 (terminated: 1 - .5), 2 + 18 - 1 = 19
    assert advantage(False, False).tolist() == pytest.approx([9.5 + 0.45 * 19, 19])
    assert advantage(False, True).tolist() == pytest.approx([9.5, 19])
    assert advantage(True, True).tolist() == pytest.approx([0.5, 19])


def test_surrogate_gives_no_gradient_beyond_the_clip() -> None:
    ppo = PPO(
        ActorPolicy(PolicyConfig(1, 1, None)), ActorPolicy(PolicyConfig(1, 1, None)), PPOConfig(clip=0.2)
    )
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    ppo._surrogate(ratio, advantage).backward()
    assert ratio.grad is not None
    assert (ratio.grad != 0).tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("target", ["gae", "td0"])
def test_value_learns_its_target(target: str) -> None:
    policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(8,)))
    config = PPOConfig(value_target=target, value_warmup=10**6, epochs=200, target_kl=None, gae_lambda=0.5)
    ppo = PPO(policy, copy.deepcopy(policy), config)
    before = copy.deepcopy(policy.state_dict())
    data = rollout(policy, ppo)
    ppo.update(data)
    expected = data.reward + config.gamma * data.next_value
    if target == "gae":
        expected = generalised_advantage(data, config.gamma, 0.5) + data.value
    torch.testing.assert_close(ppo.values(data.features.flatten(0, 1)), expected.flatten(), atol=0.1, rtol=0)
    # the warm-up of the value leaves the policy alone
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_frozen_encoder_stays_and_a_trained_one_moves() -> None:
    for scale in (0.0, 0.1):
        policy = ActorPolicy(PolicyConfig(2, 1, (16, 16), hidden=(8,)))
        before = copy.deepcopy(policy.state_dict())
        ppo = PPO(policy, copy.deepcopy(policy), PPOConfig(encoder_lr_scale=scale))
        ppo.update(rollout(policy, ppo))
        moved = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith("trunk") for name in moved)
        assert any(name.startswith("encoder") for name in moved) == (scale > 0)
        reference = ppo.reference.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in reference.items())


@pytest.mark.parametrize("head", HEADS)
def test_kl_weight_holds_the_policy_near_its_reference(head: str) -> None:
    def drift(weight: float) -> float:
        policy = ActorPolicy(PolicyConfig(2, 1, None, head=head, hidden=(16,)))
        ppo = PPO(
            policy, copy.deepcopy(policy), PPOConfig(kl_weight=weight, epochs=20, target_kl=None, lr=3e-3)
        )
        data = rollout(policy, ppo, steps=16)
        ppo.update(data)
        features = data.features.flatten(0, 1)
        return float(policy(features).kl(ppo.reference(features)).mean().detach())

    assert drift(10.0) < 0.4 * drift(0.0)


def test_update_stops_early_when_it_has_moved_too_far() -> None:
    policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(16,)))
    ppo = PPO(policy, copy.deepcopy(policy), PPOConfig(epochs=50, lr=1e-2, target_kl=0.01))
    metrics = ppo.update(rollout(policy, ppo, steps=16))
    assert metrics["stopped_early"] == 1
    assert 0 < metrics["gradient_steps"] < 50


@pytest.mark.parametrize("head", HEADS)
def test_refinement_improves_the_policy_and_keeps_the_best(head: str) -> None:
    policy = ActorPolicy(PolicyConfig(2, 1, None, head=head, hidden=(32, 32), min_std=0.2))
    ppo = PPOConfig(kl_weight=0.0, target_kl=None, lr=2e-3)
    learner = RefineLearner(PointToGoal(64), policy, RefineConfig(iterations=25, horizon=16, ppo=ppo))
    history: list[dict[str, Any]] = [learner.update() for _ in range(learner.total_updates)]
    assert history[0]["imagined_success"] < 0.6
    best = history[-1]["best_validation_success"]
    assert best > 0.85
    assert best == max(m["validation_success"] for m in history if "validation_success" in m)
    assert RefineLearner(PointToGoal(64), learner.selected_policy(), learner.config)._select() == best


def test_imagined_steps_bootstrap_from_the_true_final_observation() -> None:
    policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(8,), min_std=0.5))
    learner = RefineLearner(PointToGoal(16, limit=3), policy, RefineConfig(horizon=8))
    data, metrics = learner._imagine(learner.env, learner.policy, 0, torch.Generator().manual_seed(0))
    moved = 0.25 * data.action.clamp(-1, 1)
    arrived = data.features + torch.cat([moved, torch.zeros_like(moved)], -1)
    torch.testing.assert_close(data.value, learner.ppo.values(data.features.flatten(0, 1)).view(8, 16))
    torch.testing.assert_close(data.next_value, learner.ppo.values(arrived.flatten(0, 1)).view(8, 16))
    ended, following = data.ended[:-1], data.features[1:]
    torch.testing.assert_close(following[~ended], arrived[:-1][~ended])
    assert (following[ended] - arrived[:-1][ended]).abs().amax(-1).min() > 0  # a new episode has begun
    assert data.terminated.any()
    assert (data.ended & ~data.terminated).any()
    assert torch.equal(data.reward, data.terminated.float())
    first = (data.terminated[:3].float().cumsum(0) > 0)[-1]  # within the first episode's 3 steps
    assert metrics["imagined_success"] <= float(first.float().mean())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="td0"):
        PPOConfig(value_target="td")
    with pytest.raises(ConfigError, match="gamma"):
        PPOConfig(gamma=1.1)
