"""PPO under a cost constraint: on a problem whose answer and price are known, and apart from rewards."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.agents.lagrangian import LagrangianConfig
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.agents.ppo import PPO, PPOConfig
from robot_rl.agents.safe_ppo import SafePPO, SafePPOConfig
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.trainers.imagined import RefineConfig, RefineLearner

STEPS = 4


class Throttle(VectorEnv):
    """N throttles for four steps: reward -(a - 1)^2, cost (a + 1) / 2.

    Without a limit a = 1 is best. With one of half of the greatest cost it is a = 0, where the reward
    rises by 2 for each unit of a and the cost by 1/2: the price of the constraint is 4.
    """

    def __init__(self, members: int = 32) -> None:
        self.num_envs = members
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self._clock = np.zeros(members, int)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._clock[slice(None) if options is None else options["reset_mask"]] = 0
        return self._observation(), {}

    def step(self, actions: npt.NDArray[np.float32]) -> tuple[Any, ...]:
        self._clock += 1
        action = actions[:, 0]
        ended, no = self._clock >= STEPS, np.zeros(self.num_envs, bool)
        return self._observation(), -((action - 1) ** 2), no, ended, {"success": no, "cost": (action + 1) / 2}

    def _observation(self) -> dict[str, npt.NDArray[Any]]:
        return {schema.STATE: np.zeros((self.num_envs, 2), np.float32)}


def policy() -> ActorPolicy:
    return ActorPolicy(PolicyConfig(2, 1, None, hidden=(16,), min_std=0.1, max_std=0.3))


def learner(safe: SafePPOConfig | None) -> RefineLearner:
    ppo = PPOConfig(kl_weight=0.0, target_kl=None, lr=5e-3, value_hidden=(32,))
    config = RefineConfig(120, horizon=STEPS, average=0.0, select_every=1000, ppo=ppo, safe=safe)
    return RefineLearner(Throttle(), policy(), config)


LIMIT = LagrangianConfig(limit=STEPS / 2, proportional=2.0, integral=0.1, derivative=0.0)


def action_of(learner: RefineLearner) -> float:
    return float(learner.policy(torch.zeros(1, 2)).mean.detach())


def test_it_finds_the_best_that_is_allowed_and_its_price() -> None:
    free, safe = learner(None), learner(SafePPOConfig(lagrangian=LIMIT))
    for _ in range(60):
        free.update()
    tail = [safe.update() for _ in range(119)][-40:]
    assert action_of(free) > 0.8
    assert action_of(safe) == pytest.approx(0.0, abs=0.15)
    assert np.mean([metrics["episode_cost"] for metrics in tail]) == pytest.approx(STEPS / 2, abs=0.2)
    assert np.mean([metrics["price"] for metrics in tail]) == pytest.approx(4.0, abs=0.6)
    # The value of the costs knows what is left to pay: a discounted rest of the episode.
    assert 0.5 < float(safe.ppo.cost_values(torch.zeros(1, 2))) < 25.0  # type: ignore[union-attr]


def test_a_limit_that_nothing_reaches_changes_nothing() -> None:
    free, safe = learner(None), learner(SafePPOConfig(lagrangian=LagrangianConfig(limit=100.0)))
    for _ in range(3):
        free.update()
        assert safe.update()["price"] == 0.0
    for mine, theirs in zip(free.policy.parameters(), safe.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_costs_are_discounted_and_bootstrapped_like_rewards() -> None:
    ppo = learner(SafePPOConfig(lagrangian=LIMIT))
    rollout, metrics = ppo._imagine(ppo.env, ppo.policy, 0, torch.Generator().manual_seed(0))
    assert isinstance(ppo.ppo, SafePPO)
    costs = rollout.costs
    advantage = ppo.ppo.cost_advantage(rollout)
    last = costs["reward"] + ppo.ppo.config.gamma * costs["next_value"] - costs["value"]
    torch.testing.assert_close(advantage[STEPS - 1], last[STEPS - 1])  # truncated: the rest is still to pay
    assert metrics["episode_cost"] == pytest.approx(float(costs["reward"][:STEPS].sum(0).mean()), rel=1e-5)
    ppo.ppo.lagrangian.value = 2.0
    reward = torch.randn(advantage.shape)
    torch.testing.assert_close(ppo.ppo.weight(rollout, reward), reward - 2.0 * advantage)


def test_resumes_as_it_was() -> None:
    whole, first = (learner(SafePPOConfig(lagrangian=LIMIT)) for _ in range(2))
    for _ in range(4):
        whole.update()
    for _ in range(2):
        first.update()
    state = copy.deepcopy(first.state_dict())
    second = learner(SafePPOConfig(lagrangian=LIMIT))
    second.load_state_dict(state)
    for _ in range(2):
        second.update()
    for mine, theirs in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert whole.ppo.state_dict()["lagrangian"] == second.ppo.state_dict()["lagrangian"]


def test_by_default_there_is_no_constraint_and_bad_ones_are_refused() -> None:
    assert type(learner(None).ppo) is PPO
    with pytest.raises(ConfigError, match="cost_lr=0"):
        SafePPOConfig(cost_lr=0.0)
    with pytest.raises(ConfigError, match="cost_epochs=0"):
        SafePPOConfig(cost_epochs=0)
