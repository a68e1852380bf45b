"""SAC, Cal-QL and WSRL: where gradients go, what is calibrated, what is bootstrapped, what is solved."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.agents.calql import CalQL, CalQLConfig, CalQLLearner
from robot_rl.agents.policy import HEADS, ActorPolicy, PolicyConfig
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import Episode, schema
from robot_rl.data.replay import ReplayBuffer, ReplayConfig
from robot_rl.errors import ConfigError, DataError
from tests.agents.toys import metadata, seeing_episodes

SMALL = SACConfig(critics=3, hidden=(32, 32), critic_lr=3e-3, actor_lr=3e-3, tau=0.05)


def make_policy(head: str = "gaussian", state: int = 2, action: int = 2, seed: int = 0) -> ActorPolicy:
    return ActorPolicy(PolicyConfig(state, action, None, head=head, hidden=(32,), seed=seed))


def make_batch(size: int = 16, seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    batch = {
        "features": torch.randn(size, 2, generator=g),
        "next_features": torch.randn(size, 2, generator=g),
        "action": torch.rand(size, 2, generator=g) * 2 - 1,
        "reward": torch.randn(size, generator=g),
        "discount": torch.full((size,), 0.9),
        "mc_return": torch.randn(size, generator=g),
    }
    return batch | changes


def lq_buffer(size: int = 2000, bad: bool = False) -> ReplayBuffer:
    """One-step problem: reward -|a - s|^2 for a state s in [-.7, .7]^2; the best action is s itself.

    `bad` data hold only actions near -s, far from the best.
    """
    rng = np.random.default_rng(0)
    state = rng.uniform(-0.7, 0.7, (size, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (size, 2)).astype(np.float32)
    if bad:
        action = np.clip(-state + 0.2 * action, -1, 1)
    reward = -np.square(action - state).sum(1)
    buffer = ReplayBuffer(ReplayConfig(capacity=size))
    for i in range(size):
        buffer.add_episode(
            {"features": state[[i, i]]},
            action[i : i + 1],
            reward[i : i + 1],
            np.ones(1, bool),
            extras={"clone": np.ones(1, np.float32)},
        )
    return buffer


def test_target_bootstraps_unless_the_task_terminated() -> None:
    agent = SAC(make_policy(), SMALL)
    batch = make_batch(discount=torch.tensor([0.0] * 8 + [0.9] * 8))
    target = agent.td_target(batch)
    torch.testing.assert_close(target[:8], batch["reward"][:8])
    assert ((target - batch["reward"])[8:].abs() > 1e-4).all()
    assert not target.requires_grad


def test_target_is_the_minimum_over_the_drawn_subset_of_the_target_critics() -> None:
    config = dataclasses.replace(SMALL, critics=5, target_subset=5)
    agent = SAC(make_policy(), config)
    batch = make_batch()
    for _ in range(5):  # from here on the targets lag behind the critics
        agent.update(batch)
    state = agent.generator.get_state()
    target = agent.td_target(batch)
    agent.generator.set_state(state)
    action, _ = agent.sample_actions(agent.policy(batch["next_features"]), 1)
    q = agent.target(batch["next_features"], action[:, 0])
    torch.testing.assert_close(target, batch["reward"] + 0.9 * q.amin(0))
    agent.generator.set_state(state)
    agent.config = dataclasses.replace(config, target_subset=1)
    one = agent.td_target(batch)
    assert (one >= target - 1e-5).all()
    assert (one > target).any()


def test_targets_stay_in_the_range_of_returns() -> None:
    agent = SAC(make_policy(), dataclasses.replace(SMALL, value_range=(-0.1, 0.0)))
    target = agent.td_target(make_batch())
    assert target.min() >= -0.1
    assert target.max() <= 0


def test_entropy_enters_the_target_only_if_asked() -> None:
    batch = make_batch()
    plain = SAC(make_policy(), dataclasses.replace(SMALL, temperature=0.5)).td_target(batch)
    soft = SAC(make_policy(), dataclasses.replace(SMALL, temperature=0.5, entropy_backup=True))
    none = SAC(make_policy(), dataclasses.replace(SMALL, temperature=0.0)).td_target(batch)
    torch.testing.assert_close(plain, none)
    assert not torch.allclose(soft.td_target(batch), plain)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_each_loss_moves_its_own_network_alone() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
    agent = SAC(policy, SMALL)
    batch = make_batch()
    g = torch.Generator().manual_seed(3)
    batch |= {
        name: torch.randn(16, policy.feature_dim, generator=g) for name in ("features", "next_features")
    }
    before = copy.deepcopy((policy.state_dict(), agent.critic.state_dict(), agent.target.state_dict()))
    agent.update(batch, actor=False)
    assert changed(before[0], policy.state_dict()) == set()
    assert changed(before[1], agent.critic.state_dict()) != set()
    for name, value in agent.target.state_dict().items():  # target += tau (critic - target)
        expected = before[2][name].lerp(agent.critic.state_dict()[name], SMALL.tau)
        torch.testing.assert_close(value, expected)
    critic = copy.deepcopy(agent.critic.state_dict())
    agent.critic.zero_grad()
    loss, _, _ = agent.actor_loss(batch)
    agent._step("actor", loss, agent._actor_parameters)
    assert changed(before[0], policy.state_dict()) == {"trunk"}  # the encoder is frozen
    assert changed(critic, agent.critic.state_dict()) == set()
    assert all(parameter.grad is None for parameter in agent.critic.parameters())


def test_calibration_raises_policy_actions_and_never_random_ones() -> None:
    agent = CalQL(make_policy(), CalQLConfig(sac=SMALL, actions=2))
    q = torch.randn(3, 16, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    zeros = torch.zeros(16, 6)
    high = torch.full((16,), 100.0)
    gap, share = agent.conservative_gap(q, torch.zeros(3, 16), zeros, high)
    assert share == 1
    torch.testing.assert_close(gap, torch.full((3, 16), 100 + math.log(4)))
    gap.sum().backward()
    assert q.grad is not None
    assert (q.grad[..., 2:] == 0).all()  # nothing pushes a policy action below a return that was reached
    for returns, expected in ((-high, q), (high, torch.cat([q[..., :2], torch.full((3, 16, 4), 100.0)], -1))):
        gap, _ = agent.conservative_gap(q, torch.zeros(3, 16), zeros, returns)
        torch.testing.assert_close(gap, torch.logsumexp(expected, -1))
    # random actions keep their gradient however high the return is
    q.grad = None
    random_high = torch.cat([q[..., :2] + 200, q[..., 2:]], -1)
    agent.conservative_gap(random_high, torch.zeros(3, 16), zeros, high)[0].sum().backward()
    assert q.grad is not None
    assert (q.grad[..., :2] > 0).all()


def test_sampled_actions_carry_their_own_density() -> None:
    agent = CalQL(make_policy(), CalQLConfig(sac=SMALL, actions=3))
    batch = make_batch(5)
    actions, log_mu = agent._sampled_actions(batch)
    assert actions.shape == (5, 9, 2)
    assert actions.abs().max() <= 1
    torch.testing.assert_close(log_mu[:, :3], torch.full((5, 3), -2 * math.log(2)))
    for block, name in ((slice(3, 6), "features"), (slice(6, 9), "next_features")):
        inside = actions[:, block].abs().amax(-1) < 1  # a clipped action keeps its unclipped density
        density = torch.stack([agent.policy(batch[name]).log_prob(a) for a in actions[:, block].unbind(1)], 1)
        torch.testing.assert_close(log_mu[:, block][inside], density[inside], atol=1e-3, rtol=1e-3)


def test_a_subset_of_critics_gives_the_same_conservative_gradient_on_average() -> None:
    batch = make_batch(32)

    def gradient(members: int | None, repeats: int) -> torch.Tensor:
        small = dataclasses.replace(SMALL, hidden=(8,))
        config = CalQLConfig(sac=small, alpha=100.0, actions=1, conservative_critics=members)
        agent = CalQL(make_policy(), config)
        for _ in range(repeats):
            agent.critic_loss(batch)[0].backward()
        assert agent.critic.last_weight.grad is not None
        return agent.critic.last_weight.grad / repeats

    exact, subset = gradient(None, 30), gradient(1, 150)
    assert torch.cosine_similarity(exact.flatten(), subset.flatten(), 0) > 0.95
    assert float(subset.norm()) == pytest.approx(float(exact.norm()), rel=0.15)


@pytest.mark.parametrize("head", HEADS)
def test_calql_finds_the_best_action(head: str) -> None:
    policy = make_policy(head)
    config = CalQLConfig(sac=SMALL, alpha=0.05, actions=2, updates=250, batch=128, critic_only=20)
    buffer = lq_buffer()
    learner = CalQLLearner(policy, buffer, config)
    for _ in range(config.updates):
        learner.update()
    features = buffer.all()["features"]
    assert (policy.act_from_features(features) - features).abs().mean() < 0.15


def test_conservatism_keeps_the_actor_at_the_data() -> None:
    """Data hold only actions near -s. Alpha decides whether the actor trusts what lies beyond them."""

    def distance(alpha: float) -> float:
        policy = make_policy()
        sac = dataclasses.replace(SMALL, layer_norm=False)
        config = CalQLConfig(sac=sac, alpha=alpha, actions=2, updates=200, batch=128, critic_only=50)
        learner = CalQLLearner(policy, lq_buffer(bad=True), config)
        for _ in range(config.updates):
            learner.update()
        features = learner.buffer.sample(500, torch.Generator().manual_seed(1))["features"]
        return float((policy.act_from_features(features) + features).abs().mean())

    assert distance(5.0) < 0.5 * distance(0.0)


def test_critic_only_leaves_the_actor() -> None:
    policy = make_policy()
    before = copy.deepcopy(policy.state_dict())
    learner = CalQLLearner(policy, lq_buffer(100), CalQLConfig(sac=SMALL, critic_only=3, batch=16))
    for _ in range(3):
        learner.update()
    assert changed(before, policy.state_dict()) == set()
    learner.update()
    assert changed(before, policy.state_dict()) == {"trunk"}


def test_clone_weights_choose_which_rows_are_cloned() -> None:
    target = torch.tensor([0.5, -0.5]).expand(32, 2)
    action = torch.cat([target, -target])
    batch = make_batch(64, action=action, clone=torch.tensor([1.0] * 32 + [0.0] * 32))
    policy = make_policy()
    config = dataclasses.replace(SMALL, bc_weight=100.0, actor_lr=1e-2)
    agent = SAC(policy, config)
    for _ in range(150):
        agent.update(batch)
    assert (policy.act_from_features(batch["features"]) - target[0]).abs().mean() < 0.1


def test_anchor_holds_the_policy_and_fades() -> None:
    def drift(weight: float, half_life: float = math.inf) -> float:
        policy = make_policy()
        start = copy.deepcopy(policy)
        agent = SAC(policy, dataclasses.replace(SMALL, kl_weight=weight, anchor_half_life=half_life))
        for seed in range(100):
            agent.update(make_batch(64, seed))
        features = make_batch(64)["features"]
        return float((policy(features).mean - start(features).mean).abs().mean().detach())

    free, held, faded = drift(0.0), drift(100.0), drift(100.0, half_life=2)
    assert held < 0.2 * free
    assert faded > 2 * held


def test_learned_temperature_brings_the_entropy_to_its_target() -> None:
    config = dataclasses.replace(
        SMALL, learn_temperature=True, temperature=0.1, temperature_lr=0.02, target_entropy=-1.0
    )
    agent = SAC(make_policy(), config)
    buffer = lq_buffer(500)
    metrics: dict[str, float] = {}
    for _ in range(400):
        metrics = agent.update(buffer.sample(64, agent.generator))
    assert metrics["entropy"] == pytest.approx(-1.0, abs=0.4)


def practise(agent: WSRL, count: int, seed: int = 0) -> None:
    """One-step episodes of the LQ problem with the agent's own exploring actions."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        state = rng.uniform(-0.7, 0.7, 2).astype(np.float32)
        features = torch.from_numpy(state)[None]
        action = agent.policy.act_from_features(features, agent.agent.generator).numpy()
        reward = -np.square(action - state).sum(1)
        observations = {schema.STATE: np.stack([state, state])}
        done = np.ones(1, bool)
        episode = Episode.from_steps(observations, action, metadata(), reward=reward, terminated=done)
        agent.add_episode(episode)


def test_wsrl_learns_from_its_own_practice() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, None, hidden=(32,), min_std=0.2))
    agent = WSRL(policy, WSRLConfig(sac=SMALL, batch=64, critic_steps=2))
    for iteration in range(15):
        practise(agent, 32, iteration)
        agent.learn(32)
    features = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.7
    assert (policy.act_from_features(features) - features).abs().mean() < 0.2


def test_warm_up_collects_without_updates() -> None:
    agent = WSRL(make_policy(), WSRLConfig(sac=SMALL, batch=8, warmup_steps=10))
    practise(agent, 9)
    before = copy.deepcopy((agent.policy.state_dict(), agent.agent.critic.state_dict()))
    assert agent.learn(5) == {}
    assert changed(before[0], agent.policy.state_dict()) == set()
    assert changed(before[1], agent.agent.critic.state_dict()) == set()
    practise(agent, 1)
    assert agent.learn(5)
    assert changed(before[1], agent.agent.critic.state_dict()) != set()


def test_actor_steps_once_for_several_critic_steps() -> None:
    agent = WSRL(make_policy(), WSRLConfig(sac=SMALL, batch=8, critic_steps=4))
    practise(agent, 8)
    for _ in range(3):  # the count goes on across calls
        agent.learn(3)
    assert agent.agent._actor_updates == 2


@pytest.mark.parametrize("average", [0.0, 0.75])
def test_the_policy_to_deploy_is_the_mean_over_the_rounds(average: float) -> None:
    agent = WSRL(make_policy(), WSRLConfig(sac=SMALL, batch=8, average=average))
    practise(agent, 8)
    mean = copy.deepcopy(agent.policy.trunk.state_dict())
    for _ in range(3):
        agent.learn(8)
        now = agent.policy.trunk.state_dict()
        mean = {name: average * mean[name] + (1 - average) * now[name] for name in mean}
    for name, value in agent.averaged.trunk.state_dict().items():
        torch.testing.assert_close(value, mean[name])
    restored = WSRL(make_policy(seed=1), agent.config)
    restored.load_state_dict(agent.state_dict())
    assert changed(restored.averaged.state_dict(), agent.averaged.state_dict()) == set()


def test_offline_data_is_mixed_in_only_if_asked() -> None:
    offline = lq_buffer(200)
    offline.all()["reward"].fill_(1000.0)  # would show in any value
    values = {}
    for ratio in (0.0, 0.5):
        agent = WSRL(make_policy(), WSRLConfig(sac=SMALL, batch=16, offline_ratio=ratio), offline)
        practise(agent, 16)
        values[ratio] = agent.learn(20)["td_loss"]
    assert values[0.0] < 100 < values[0.5]
    with pytest.raises(DataError, match="offline_ratio"):
        WSRL(make_policy(), WSRLConfig(offline_ratio=0.5))


def test_episodes_are_stored_as_features_of_pictures_with_executed_actions() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
    agent = WSRL(policy, WSRLConfig(sac=SMALL))
    episode = seeing_episodes(1)[0]
    episode.action_requested = episode.action + 1
    agent.add_episode(episode)
    stored = agent.buffer.all()
    torch.testing.assert_close(stored["features"], policy.encode(episode)[:-1])
    torch.testing.assert_close(stored["next_features"], policy.encode(episode)[1:])
    assert torch.equal(stored["action"], torch.from_numpy(episode.action))
    assert (stored["discount"] > 0).all()  # the clock ended it


def test_critics_pass_from_offline_to_online_and_a_misfit_is_named(tmp_path: Path) -> None:
    first = CalQL(make_policy(), CalQLConfig(sac=SMALL))
    first.update(make_batch())
    first.save_critics(tmp_path / "critic", {"task": "widowx/push"})
    second = WSRL(make_policy(), WSRLConfig(sac=dataclasses.replace(SMALL, seed=5)))
    second.agent.load_critics(tmp_path / "critic", {"task": "widowx/push"})
    for mine, theirs in ((second.agent.critic, first.critic), (second.agent.target, first.target)):
        assert changed(mine.state_dict(), theirs.state_dict()) == set()
    other = WSRL(make_policy(), WSRLConfig(sac=dataclasses.replace(SMALL, critics=4)))
    with pytest.raises(DataError, match="critics"):
        other.agent.load_critics(tmp_path / "critic")


@pytest.mark.parametrize("was_learned", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_only_what_both_stages_learn_passes_from_one_to_the_other(
    was_learned: bool, learned: bool, tmp_path: Path
) -> None:
    before = SAC(make_policy(), dataclasses.replace(SMALL, temperature=0.05, learn_temperature=was_learned))
    before.save_critics(tmp_path / "critic", {"task": "toy"})
    after = SAC(make_policy(), dataclasses.replace(SMALL, temperature=0.001, learn_temperature=learned))
    after.load_critics(tmp_path / "critic", {"task": "toy"})
    assert after.temperature == pytest.approx(0.05 if was_learned and learned else 0.001)


def test_a_learned_weight_of_the_conservative_term_passes_on(tmp_path: Path) -> None:
    config = CalQLConfig(sac=SMALL, target_gap=0.1, alpha=2.0, alpha_lr=0.1)
    before, after = CalQL(make_policy(), config), CalQL(make_policy(), config)
    before.update(make_batch())
    before.save_critics(tmp_path / "critic", {})
    after.load_critics(tmp_path / "critic")
    assert (
        after.multipliers()["log_alpha"].item()
        == before.multipliers()["log_alpha"].item()
        != pytest.approx(math.log(2.0))
    )


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="target_subset=3"):
        SACConfig(critics=2, target_subset=3)
    with pytest.raises(ConfigError, match="temperature"):
        SACConfig(temperature=0.0, learn_temperature=True)
    with pytest.raises(ConfigError, match=r"calql\.actions"):
        CalQLConfig(actions=0)
    with pytest.raises(ConfigError, match="conservative_critics=11"):
        CalQLConfig(conservative_critics=11)
