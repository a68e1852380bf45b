"""Costs are learned apart from rewards, their price follows the PID law, and the constraint bites."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from robot_rl.agents.lagrangian import LagrangianConfig, PIDLagrangian
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.safe_sac import SafeSAC, SafeSACConfig, SafeWSRL
from robot_rl.agents.wsrl import WSRLConfig
from robot_rl.data import Episode, schema
from robot_rl.data.replay import ReplayConfig
from robot_rl.errors import ConfigError
from tests.agents.toys import metadata

SMALL = SACConfig(critics=2, hidden=(32,), actor_lr=3e-3, critic_lr=3e-3)


def policy(seed: int = 0) -> ActorPolicy:
    return ActorPolicy(
        PolicyConfig(state_dim=2, action_dim=1, image_shape=None, hidden=(32,), max_std=0.5, seed=seed)
    )


def bandit(agent: SAC, steps: int = 200) -> float:
    """One step, reward a, cost 1 where a > 0: the mean action that the agent ends at."""
    generator = torch.Generator().manual_seed(0)
    features = torch.zeros(64, 2)
    for _ in range(steps):
        action = torch.rand(64, 1, generator=generator) * 2 - 1
        batch = {
            "features": features,
            "next_features": features,
            "action": action,
            "reward": action[:, 0],
            "cost": (action[:, 0] > 0).float(),
            "discount": torch.zeros(64),
        }
        agent.update(batch)
    return float(agent.policy(features).mean.detach().mean())


def test_the_price_follows_the_pid_law() -> None:
    lagrangian = PIDLagrangian(LagrangianConfig(limit=1.0))
    assert lagrangian.update(3.0) == pytest.approx(0.05 * 2 + 5e-4 * 2)
    assert lagrangian.update(4.0) == pytest.approx(0.05 * 3 + 5e-4 * 5 + 0.1 * 1)
    assert lagrangian.update(2.0) == pytest.approx(0.05 * 1 + 5e-4 * 6)  # a fall is not punished
    assert lagrangian.update(0.0) == 0.0


def test_a_long_safe_time_earns_no_credit_and_the_cap_does_not_wind_up() -> None:
    lagrangian = PIDLagrangian(LagrangianConfig(limit=1.0, integral=1.0, cap=2.0))
    for _ in range(100):
        lagrangian.update(0.0)
    assert lagrangian.update(1.5) > 0.5
    for _ in range(100):
        assert lagrangian.update(5.0) <= 2.0
    for _ in range(10):
        last = lagrangian.update(0.0)
    assert last == 0.0


@pytest.mark.parametrize(
    ("values", "text"),
    [({"limit": -1.0}, "limit=-1"), ({"integral": -1.0}, "integral=-1"), ({"cap": 0.0}, "cap=0")],
)
def test_bad_lagrangians_are_refused(values: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        LagrangianConfig(**values)


def test_without_a_price_it_is_sac() -> None:
    """The actor's loss and the reward critics are those of plain SAC; the cost critics are learned beside."""
    plain, safe = SAC(policy(), SMALL), SafeSAC(policy(), SMALL, SafeSACConfig())
    batch = {
        "features": torch.randn(8, 2, generator=torch.Generator().manual_seed(1)),
        "next_features": torch.randn(8, 2, generator=torch.Generator().manual_seed(2)),
        "action": torch.zeros(8, 1),
        "reward": torch.ones(8),
        "cost": torch.ones(8),
        "discount": torch.full((8,), 0.9),
    }
    action = torch.full((8, 1), 0.3)
    assert torch.equal(
        plain.objective(batch["features"], action)[0], safe.objective(batch["features"], action)[0]
    )
    before = [p.clone() for p in safe.critic.parameters()]
    loss, _ = safe.cost_loss(batch)
    safe._step("cost_critic", loss, safe._cost_parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, safe.critic.parameters(), strict=True))
    target = safe.cost_td_target(batch)
    assert (target >= 1.0).all()


def test_a_price_changes_what_the_actor_does() -> None:
    free = SafeSAC(policy(), SMALL, SafeSACConfig())
    priced = SafeSAC(policy(), SMALL, SafeSACConfig())
    priced.lagrangian.value = 10.0
    assert bandit(free) > 0.5
    assert bandit(priced) < 0.1


def episode(cost: float, requested: float = 1.0, executed: float = 0.5) -> Episode:
    steps = 4
    return Episode.from_steps(
        {schema.STATE: np.zeros((steps + 1, 2), np.float32)},
        np.full((steps, 1), executed, np.float32),
        metadata(),
        action_requested=np.full((steps, 1), requested, np.float32),
        cost=np.full(steps, cost, np.float32),
    )


def agent() -> SafeWSRL:
    config = WSRLConfig(sac=SMALL, replay=ReplayConfig(100), batch=4, critic_steps=1)
    return SafeWSRL(policy(), config, SafeSACConfig(lagrangian=LagrangianConfig(limit=1.0)))


def test_executed_actions_and_costs_are_learned_from() -> None:
    learner = agent()
    learner.add_episode(episode(0.5))
    held = learner.buffer.all()
    assert (held["action"] == 0.5).all()
    assert (held["cost"] == 0.5).all()
    metrics = learner.learn(2)
    assert metrics["episode_cost"] == 2.0
    assert metrics["price"] == pytest.approx(learner.agent.lagrangian.value)
    assert metrics["price"] > 0


def test_resumes_as_it_was() -> None:
    first = agent()
    first.add_episode(episode(2.0))
    first.learn(2)
    first.add_episode(episode(1.0))
    second = agent()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first.learn(3) == second.learn(3)


def test_sums_over_several_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_step=3"):
        SafeWSRL(policy(), WSRLConfig(sac=SMALL, replay=ReplayConfig(100, n_step=3)), SafeSACConfig())
