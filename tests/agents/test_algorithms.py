"""IQL, CQL, TD3+BC, FamO2O, RLPD: where gradients go, what targets are, what is solved, with every head and
with pictures and language."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.agents.calql import CalQLConfig
from robot_rl.agents.cql import CQL
from robot_rl.agents.famo2o import FamO2O, FamO2OConfig, family_of
from robot_rl.agents.iql import IQL, IQLConfig
from robot_rl.agents.offline import OfflineLearner, OfflineTraining
from robot_rl.agents.policy import HEADS, ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.agents.rlpd import RLPD, RLPDConfig
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.td3bc import TD3BC, TD3BCConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import schema
from robot_rl.data.replay import ReplayBuffer, ReplayConfig
from robot_rl.errors import ConfigError, DataError
from tests.agents.test_offline_online import SMALL, changed, lq_buffer, make_batch, make_policy
from tests.agents.toys import seeing_episodes

TWO = dataclasses.replace(SMALL, critics=2)
FAMILY = FamO2OConfig(beta=(1.0, 5.0))

Maker = Callable[[ActorPolicy], SAC]
MAKERS: dict[str, Maker] = {
    "cql": lambda policy: CQL(policy, CalQLConfig(sac=SMALL, alpha=0.05, actions=2)),
    "iql": lambda policy: IQL(policy, TWO, IQLConfig(expectile=0.8, beta=5.0, value_lr=3e-3)),
    "td3bc": lambda policy: TD3BC(policy, TWO, TD3BCConfig(alpha=10.0)),
    "famo2o": lambda policy: FamO2O(
        family_of(policy, FAMILY.beta), TWO, IQLConfig(expectile=0.8, value_lr=3e-3), FAMILY
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", MAKERS)
def test_linear_quadratic_problem_is_solved(name: str, head: str) -> None:
    """Reward -|a - s|^2 of one step: the best action is s, and its value 0."""
    buffer = lq_buffer()
    agent = MAKERS[name](make_policy(head))
    learner = OfflineLearner(agent, buffer, OfflineTraining(updates=300, batch=64))
    for _ in range(300):
        learner.update()
    features = buffer.all()["features"]
    error = (agent.policy.act_from_features(features) - features).abs().mean()
    assert error < 0.15, error
    value = agent.critic(features, features).mean()
    assert abs(float(value.detach())) < 0.15


@pytest.mark.parametrize("name", MAKERS)
def test_each_loss_moves_its_own_networks_alone(name: str) -> None:
    agent = MAKERS[name](make_policy())
    before = copy.deepcopy((agent.policy.state_dict(), agent.critic.state_dict()))
    agent.update(make_batch(), actor=False)
    assert changed(before[0], agent.policy.state_dict()) == set()
    assert changed(before[1], agent.critic.state_dict()) != set()
    critic = copy.deepcopy(agent.critic.state_dict())
    loss, _, _ = agent.actor_loss(make_batch(advantage=torch.linspace(-1, 1, 16)))
    agent._step("actor", loss, agent._actor_parameters)
    assert changed(before[0], agent.policy.state_dict()) == {"trunk"}
    assert changed(critic, agent.critic.state_dict()) == set()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "cql"])
def test_targets_bootstrap_unless_the_task_terminated(name: str) -> None:
    agent = MAKERS[name](make_policy())
    batch = make_batch(discount=torch.tensor([0.0] * 8 + [0.9] * 8))
    target = agent.td_target(batch)
    torch.testing.assert_close(target[:8], batch["reward"][:8])
    assert ((target - batch["reward"])[8:].abs() > 1e-4).all()
    assert not target.requires_grad


# ---- IQL


def test_iql_value_is_the_expectile_of_the_datas_values() -> None:
    """Two actions of one state, with values 0 and 1: their tau-expectile is tau."""
    for tau in (0.5, 0.9):
        agent = IQL(make_policy(), TWO, IQLConfig(expectile=tau, value_lr=3e-2))
        batch = make_batch(2, features=torch.zeros(2, 2))
        agent.target_value = lambda batch: torch.tensor([0.0, 1.0])  # type: ignore[method-assign]
        for _ in range(200):
            loss, _, _ = agent.value_loss(batch)
            agent._step("value", loss, agent._value_parameters)
        assert agent.state_value(batch["features"])[0].item() == pytest.approx(tau, abs=0.02)


def test_iql_targets_read_the_value_and_no_policy() -> None:
    agent = MAKERS["iql"](make_policy())
    assert isinstance(agent, IQL)
    batch = make_batch()
    expected = batch["reward"] + 0.9 * agent.state_value(batch["next_features"])
    torch.testing.assert_close(agent.td_target(batch), expected)
    torch.nn.init.normal_(agent.policy.trunk[0].weight)  # type: ignore[arg-type]
    torch.testing.assert_close(agent.td_target(batch), expected)


def test_iql_weights_are_exponential_and_clipped() -> None:
    agent = IQL(make_policy(), TWO, IQLConfig(beta=2.0, weight_clip=5.0))
    advantage = torch.tensor([-1.0, 0.0, 0.5, 3.0])
    torch.testing.assert_close(
        agent.weight(advantage, agent.iql.beta),
        torch.tensor([math.exp(-2), 1.0, math.e, 5.0]),
        rtol=1e-5,
        atol=1e-6,
    )


# ---- CQL


def test_cql_is_calql_without_the_calibration() -> None:
    agent = CQL(make_policy(), CalQLConfig(sac=SMALL, actions=2))
    q = torch.randn(3, 16, 6, generator=torch.Generator().manual_seed(0))
    for returns in (-100.0, 100.0):
        gap, raised = agent.conservative_gap(
            q, torch.zeros(3, 16), torch.zeros(16, 6), torch.full((16,), returns)
        )
        torch.testing.assert_close(gap, torch.logsumexp(q, -1))
        assert raised == 0


def test_lagrange_alpha_follows_the_gap() -> None:
    for target, rises in ((-50.0, True), (50.0, False)):
        config = CalQLConfig(sac=SMALL, alpha=1.0, actions=2, target_gap=target, alpha_lr=0.1)
        agent = CQL(make_policy(), config)
        for _ in range(5):
            agent.update(make_batch(), actor=False)
        assert (float(agent._log_alpha.detach()) > 0) == rises


# ---- TD3+BC


def test_td3bc_targets_smooth_the_target_policys_action() -> None:
    agent = TD3BC(make_policy(), TWO, TD3BCConfig(noise=0.0))
    batch = make_batch()
    for seed in range(4):
        agent.update(make_batch(seed=seed))
    action = agent.policy.distribution(agent.target_trunk(batch["next_features"])).mean
    q = agent.target(batch["next_features"], action).amin(0)
    torch.testing.assert_close(agent.td_target(batch), (batch["reward"] + 0.9 * q).detach())
    noisy = TD3BC(make_policy(), TWO, TD3BCConfig(noise=10.0, noise_clip=0.1))
    seen = []
    noisy.target.forward = lambda features, action, **_: seen.append(action) or action.sum(-1)[None]  # type: ignore
    noisy.td_target(batch)
    mean = noisy.policy(batch["next_features"]).mean
    assert (seen[0] - mean).abs().max() <= 0.1 + 1e-6
    assert seen[0].abs().max() <= 1


def test_td3bc_actor_waits_for_its_turn() -> None:
    agent = TD3BC(make_policy(), TWO, TD3BCConfig(delay=3))
    moved = []
    for seed in range(6):
        before = copy.deepcopy(agent.policy.state_dict())
        agent.update(make_batch(seed=seed))
        moved.append(bool(changed(before, agent.policy.state_dict())))
    assert moved == [False, False, True] * 2


# ---- FamO2O


def test_family_starts_as_the_policy_it_is_made_of_and_members_part_in_training() -> None:
    policy = make_policy()
    family = family_of(policy, (1.0, 5.0))
    features = make_batch()["features"]
    torch.testing.assert_close(family(features).mean, policy(features).mean)
    assert family_of(family, (1.0, 5.0)) is family
    with pytest.raises(ConfigError, match="family over"):
        family_of(family, (2.0, 5.0))
    with pytest.raises(ConfigError, match="family_of"):
        FamO2O(policy, TWO, IQLConfig(), FAMILY)


def test_balance_loss_moves_the_balance_alone_towards_the_better_member() -> None:
    agent = MAKERS["famo2o"](make_policy())
    assert isinstance(agent, FamO2O)
    policy = agent.policy
    assert policy.balance is not None
    batch = make_batch(64)
    # a member's action is its choice, and the critics like it high
    policy.member = lambda features, choice: torch.cat(  # type: ignore[method-assign]
        [torch.atanh(choice.expand(-1, 2).clamp(-0.99, 0.99)), torch.zeros(len(choice), 2)], -1
    )
    agent.critic.forward = lambda features, action, **_: 20 * action.mean(-1)[None]  # type: ignore[method-assign]
    before = copy.deepcopy(policy.state_dict())
    for _ in range(60):
        loss, _, _ = agent.balance_loss(batch)
        agent._optimisers["balance"].param_groups[0]["lr"] = 1e-2
        agent._step("balance", loss, agent._balance_parameters)
    assert changed(before, policy.state_dict()) == {"balance"}
    assert policy.trade_off(batch["features"]).mean.mean() > 0.8


def test_a_family_is_saved_and_acts_as_any_policy(tmp_path: Path) -> None:
    family = family_of(make_policy(), (1.0, 5.0))
    torch.nn.init.normal_(family.trunk[0].weight)  # type: ignore[arg-type]
    family.save(tmp_path / "policy", {})
    loaded = ActorPolicy.load(tmp_path / "policy")
    assert loaded.config.family == (1.0, 5.0)
    features = make_batch()["features"]
    assert torch.equal(loaded.act_from_features(features), family.act_from_features(features))


# ---- RLPD


def test_rlpd_starts_at_random_and_mixes_half_and_half() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, None, hidden=(8,)))
    offline = ReplayBuffer(ReplayConfig(capacity=100))
    config = RLPDConfig(sac=SMALL, random_steps=8, batch=8, critic_steps=2, replay=ReplayConfig(capacity=100))
    agent = RLPD(policy, config, offline)
    episodes = seeing_episodes(3)
    for episode in episodes:
        features = {"features": policy.encode(episode)}
        extras = agent.extras(episode)
        offline.add_episode(
            features, np.full_like(episode.action, 0.25), episode.reward, episode.terminated, extras=extras
        )
    observations = {schema.STATE: np.zeros((500, 2), np.float32)}

    def actions() -> np.ndarray:
        runner = agent.behaviour()
        runner.reset(np.ones(500, bool), np.arange(500))
        return runner.act(observations)

    first = actions()
    assert np.abs(first).max() <= 1
    assert first.std() == pytest.approx(1 / math.sqrt(3), abs=0.05)
    agent.add_episode(episodes[0])
    assert np.array_equal(actions(), first)
    agent.add_episode(episodes[1])  # 12 steps: enough
    assert not np.array_equal(actions(), first)
    seen = []
    update = agent.agent.update
    agent.agent.update = lambda batch, actor: seen.append(batch) or update(batch, actor)  # type: ignore
    agent.learn(4)
    assert all(int((batch["action"] == 0.25).all(-1).sum()) == 4 for batch in seen)


# ---- observations


SEEING = PolicyConfig(2, 2, (16, 16), language_dim=8, hidden=(16,), instruction="go there")


@pytest.mark.parametrize("name", ["sac", *MAKERS])
def test_every_agent_trains_a_shared_encoder_by_its_critics_alone(name: str) -> None:
    def shared(config: SACConfig) -> SACConfig:
        return dataclasses.replace(config, train_encoder=True, shift=2)

    policy = ActorPolicy(SEEING)
    agent: SAC
    if name == "sac":
        agent = SAC(policy, shared(SMALL))
    elif name == "cql":
        agent = CQL(policy, CalQLConfig(sac=shared(SMALL), actions=2))
    elif name == "iql":
        agent = IQL(policy, shared(TWO), IQLConfig())
    elif name == "td3bc":
        agent = TD3BC(policy, shared(TWO), TD3BCConfig(delay=1))
    else:
        agent = FamO2O(family_of(policy, FAMILY.beta), shared(TWO), IQLConfig(), FAMILY)
    buffer = ReplayBuffer(ReplayConfig(capacity=100))
    for episode in seeing_episodes(4):
        buffer.add_episode(agent.observe(episode), episode.action, episode.reward, episode.terminated)
    assert f"next_{schema.IMAGE}" in buffer.all()
    before = copy.deepcopy(agent.policy.state_dict())
    metrics = agent.update(buffer.sample(8, agent.generator), actor=False)
    assert all(math.isfinite(value) for value in metrics.values())
    assert changed(before, agent.policy.state_dict()) == {"encoder"}
    batch = agent.encoded(buffer.sample(8, agent.generator))
    assert batch["features"].requires_grad
    assert not batch["next_features"].requires_grad
    metrics = agent.update(buffer.sample(8, agent.generator))
    assert {"encoder", "trunk"} <= changed(before, agent.policy.state_dict())


def test_a_shared_encoder_needs_pictures() -> None:
    with pytest.raises(ConfigError, match="train_encoder"):
        SAC(make_policy(), dataclasses.replace(SMALL, train_encoder=True))


def test_instruction_changes_what_a_policy_with_language_does() -> None:
    policy = ActorPolicy(dataclasses.replace(SEEING, image_shape=None))
    observations = {schema.STATE: np.zeros((3, 2), np.float32)}

    def act(instruction: str | None) -> np.ndarray:
        runner = PolicyRunner(policy, instruction=instruction)
        runner.reset(np.ones(3, bool), np.arange(3))
        return runner.act(observations)

    assert np.array_equal(act(None), act("go there"))
    assert np.array_equal(act("Go there!"), act("go there"))
    assert not np.array_equal(act("come back"), act("go there"))
    episode = seeing_episodes(1)[0]
    told = policy.observations(episode)[schema.LANGUAGE]
    assert told.shape == (len(episode) + 1, 8)
    episode.observations[schema.LANGUAGE] = np.ones((len(episode) + 1, 8), np.float32)
    assert torch.equal(policy.observations(episode)[schema.LANGUAGE], torch.ones(len(episode) + 1, 8))
    episode.observations[schema.LANGUAGE] = np.ones((len(episode) + 1, 5), np.float32)
    with pytest.raises(DataError, match="language_dim=8"):
        policy.observations(episode)


# ---- from offline to online


def test_online_goes_on_with_the_same_algorithm_and_a_missing_network_is_named(tmp_path: Path) -> None:
    first = IQL(make_policy(), TWO, IQLConfig())
    first.update(make_batch())
    first.save_critics(tmp_path / "critic", {})
    online = WSRL(first.policy, WSRLConfig(sac=TWO), agent=IQL(first.policy, TWO, IQLConfig()))
    online.agent.load_critics(tmp_path / "critic")
    assert changed(online.agent.networks()["value"].state_dict(), first.value.state_dict()) == set()
    SAC(make_policy(), TWO).load_critics(tmp_path / "critic")  # the critics alone
    SAC(make_policy(), TWO).save_critics(tmp_path / "plain", {})
    with pytest.raises(DataError, match="'value'"):
        first.load_critics(tmp_path / "plain")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: IQLConfig(expectile=1.0), "expectile=1"),
        (lambda: IQLConfig(beta=-1), "beta=-1"),
        (lambda: IQLConfig(weight_clip=0), "weight_clip"),
        (lambda: TD3BCConfig(delay=0), "delay=0"),
        (lambda: TD3BCConfig(noise=-0.1), "noise"),
        (lambda: FamO2OConfig(beta=(5, 5)), "low < high"),
        (lambda: FamO2OConfig(temperature=0), "temperature"),
        (lambda: RLPDConfig(random_steps=-1), "random_steps"),
        (lambda: CalQLConfig(alpha=0, target_gap=1.0), "alpha=0"),
        (lambda: OfflineTraining(batch=0), "batch=0"),
        (lambda: PolicyConfig(language_dim=-1), "language_dim"),
        (lambda: PolicyConfig(family=(2.0, 1.0)), "family"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
