"""PPO under a cost constraint: a separate value of the costs, and a PID-Lagrangian multiplier.

    maximise E[sum r]  subject to  E[cost of an episode] <= limit

As `robot_rl.agents.safe_sac` does it off-policy: the value of the reward never sees a cost and that of the
cost never sees a reward, so that the price can change at once. T steps, N members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robot_rl.agents.lagrangian import LagrangianConfig, PIDLagrangian
from robot_rl.agents.networks import MLP, seeded
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.ppo import PPO, PPOConfig, Rollout, generalised_advantage
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class SafePPOConfig:
    """Attributes:
    cost_lr: learning rate of the costs' value. cost_epochs: passes over a rollout that it learns from.
    lagrangian: the limit, of an episode's cost, and how its price moves.
    """

    cost_lr: float = 1e-3
    cost_epochs: int = 4
    lagrangian: LagrangianConfig = field(default_factory=LagrangianConfig)

    def __post_init__(self) -> None:
        if not self.cost_lr > 0:
            raise ConfigError(f"safe.cost_lr={self.cost_lr}; expected above 0")
        if self.cost_epochs < 1:
            raise ConfigError(f"safe.cost_epochs={self.cost_epochs}; expected at least 1")


class SafePPO(PPO):
    """PPO whose surrogate weighs A - lambda A_c, standardised like A alone."""

    def __init__(
        self, policy: ActorPolicy, reference: ActorPolicy, config: PPOConfig, safe: SafePPOConfig
    ) -> None:
        super().__init__(policy, reference, config)
        self.safe = safe
        self.lagrangian = PIDLagrangian(safe.lagrangian)
        with seeded(config.seed + 1):
            hidden = config.value_hidden
            self.cost_value = MLP(policy.feature_dim, hidden, 1, layer_norm=True).to(policy.device)
        self._cost_optimiser = torch.optim.Adam(self.cost_value.parameters(), lr=safe.cost_lr, fused=True)
        self._cost_generator = torch.Generator().manual_seed(config.seed + 1)

    @torch.no_grad()
    def cost_values(self, features: Tensor) -> Tensor:
        """V_c (B,) of features (B, F); never below 0."""
        return self.cost_value(features).squeeze(-1).clamp(min=0)

    def cost_advantage(self, rollout: Rollout) -> Tensor:
        """A_c (T, N): the advantage of the costs."""
        c = rollout.costs
        priced = dataclasses.replace(
            rollout, reward=c["reward"], value=c["value"], next_value=c["next_value"]
        )
        return generalised_advantage(priced, self.config.gamma, self.config.gae_lambda)

    def weight(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """A - lambda A_c."""
        return advantage - self.lagrangian.value * self.cost_advantage(rollout)

    def constrain(self, rollout: Rollout, episode_cost: float) -> dict[str, float]:
        """Set the price from the mean cost of the rollout's episodes, improve the policy, then V_c."""
        price = self.lagrangian.update(episode_cost)
        return self.update(rollout) | self._learn_costs(rollout) | {"price": price}

    def _learn_costs(self, rollout: Rollout) -> dict[str, float]:
        """Minimise (V_c(s) - A_c - V_c,old(s))^2 / 2 over minibatches."""
        target = (self.cost_advantage(rollout) + rollout.costs["value"]).flatten()
        features = rollout.features.flatten(0, 1)
        total = 0.0
        for _ in range(self.safe.cost_epochs):
            order = torch.randperm(len(target), generator=self._cost_generator).to(target.device)
            for rows in order.split(self.config.minibatch):
                error = self.cost_value(features[rows]).squeeze(-1) - target[rows]
                loss = 0.5 * error.square().mean()
                self._cost_optimiser.zero_grad()
                loss.backward()
                self._cost_optimiser.step()
                total += loss.item() * len(rows) / len(target)
        return {"cost_value_loss": total / self.safe.cost_epochs}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "cost_value": self.cost_value.state_dict(),
            "cost_optimiser": self._cost_optimiser.state_dict(),
            "cost_generator": self._cost_generator.get_state(),
            "lagrangian": self.lagrangian.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state))
        self.cost_value.load_state_dict(state["cost_value"])
        self._cost_optimiser.load_state_dict(state["cost_optimiser"])
        self._cost_generator.set_state(state["cost_generator"])
        self.lagrangian.load_state_dict(state["lagrangian"])
