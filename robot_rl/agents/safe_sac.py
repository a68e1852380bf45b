"""SAC under a cost constraint: a separate ensemble of cost critics, and a PID-Lagrangian multiplier.

    maximise E[sum r]  subject to  E[cost of an episode] <= limit

The reward critics never see a cost and the cost critics never see a reward, so that the price of the
constraint can change at once without anything having to be learned anew. A batch holds, besides what
`robot_rl.agents.sac` lists, `cost` (B,).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.agents.lagrangian import LagrangianConfig, PIDLagrangian
from robot_rl.agents.networks import CriticEnsemble, move_towards, seeded
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.sac import SAC, Batch, SACConfig, detached
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import Episode
from robot_rl.data.replay import ReplayBuffer
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class SafeSACConfig:
    """Attributes:
    cost_critics: the constraint believes the largest of them.
    cost_lr: their learning rate.
    """

    cost_critics: int = 2
    cost_lr: float = 3e-4
    lagrangian: LagrangianConfig = field(default_factory=LagrangianConfig)

    def __post_init__(self) -> None:
        if self.cost_critics < 1:
            raise ConfigError(f"safe.cost_critics={self.cost_critics}; expected at least 1")
        if not self.cost_lr > 0:
            raise ConfigError(f"safe.cost_lr={self.cost_lr}; expected above 0")


class SafeSAC(SAC):
    """SAC whose actor minimises (-Q + lambda Q_c) / (1 + lambda), both terms of comparable size."""

    def __init__(self, policy: ActorPolicy, config: SACConfig, safe: SafeSACConfig) -> None:
        super().__init__(policy, config)
        self.safe = safe
        self.lagrangian = PIDLagrangian(safe.lagrangian)
        with seeded(config.seed + 1):
            self.cost_critic = CriticEnsemble(
                policy.feature_dim,
                policy.config.action_dim,
                safe.cost_critics,
                config.hidden,
                config.layer_norm,
                config.bf16,
                config.fused,
            ).to(policy.device)
        self.cost_target = copy.deepcopy(self.cost_critic).requires_grad_(False)
        self._cost_parameters = list(self.cost_critic.parameters())
        self._optimisers["cost_critic"] = torch.optim.Adam(self._cost_parameters, lr=safe.cost_lr, fused=True)

    def update(self, batch: Batch, actor: bool = True) -> dict[str, float]:
        """One step of the cost critics, then as `SAC.update`."""
        batch = self.encoded(batch)
        loss, metrics = self.cost_loss(detached(batch))
        self._step("cost_critic", loss, self._cost_parameters)
        move_towards(self.cost_target, self.cost_critic, self.config.tau)
        return super().update(batch, actor) | metrics

    @torch.no_grad()
    def cost_td_target(self, batch: Batch) -> Tensor:
        """y_c = c + discount max_e Q_c,e'(s', a'), a' ~ pi; never below 0. n-step batches are not summed."""
        action, _ = self.sample_actions(self.policy(batch["next_features"]), 1)
        value = self.cost_target(batch["next_features"], action).amax(0).squeeze(-1).clamp(min=0)
        return batch["cost"] + batch["discount"] * value

    def cost_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """sum_e mean_B (Q_c,e(s, a) - y_c)^2."""
        q = self.cost_critic(batch["features"], batch["action"])
        loss = self.td_loss(q, self.cost_td_target(batch))
        return loss, {"cost_td_loss": loss.item() / self.safe.cost_critics, "cost_data": q.mean().item()}

    def objective(self, features: Tensor, action: Tensor) -> tuple[Tensor, dict[str, float]]:
        """(-Q / |Q| + lambda Q_c / max(|Q_c|, d)) / (1 + lambda): below the limit d a cost counts less."""
        loss, metrics = super().objective(features, action)
        price = self.lagrangian.value
        cost = self.cost_critic(features, action, frozen=True).amax(0)
        scale: Tensor | float = 1.0
        if self.config.normalise_q:
            scale = cost.detach().abs().mean().clamp(min=max(self.safe.lagrangian.limit, 1e-3))
        loss = (loss + price * (cost / scale).mean()) / (1 + price)
        return loss, metrics | {"cost_policy": cost.mean().item(), "multiplier": price}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "cost_critic": self.cost_critic.state_dict(),
            "cost_target": self.cost_target.state_dict(),
            "lagrangian": self.lagrangian.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.cost_critic.load_state_dict(state["cost_critic"])
        self.cost_target.load_state_dict(state["cost_target"])
        self.lagrangian.load_state_dict(state["lagrangian"])


class SafeWSRL(WSRL):
    """WSRL with `SafeSAC`: episodes bring their costs, and learning starts by setting the price."""

    agent: SafeSAC

    def __init__(
        self,
        policy: ActorPolicy,
        config: WSRLConfig,
        safe: SafeSACConfig,
        offline: ReplayBuffer | None = None,
    ) -> None:
        if config.replay.n_step != 1:
            raise ConfigError(f"replay.n_step={config.replay.n_step}; expected 1: costs are not summed")
        super().__init__(policy, config, offline, SafeSAC(policy, config.sac, safe))
        self._costs: list[float] = []

    def extras(self, episode: Episode) -> dict[str, Any]:
        return super().extras(episode) | {"cost": episode.cost}

    def add_episode(self, episode: Episode) -> None:
        """Keep an episode, its costs included; they set the price at the next `learn`."""
        super().add_episode(episode)
        self._costs.append(float(episode.cost.sum()))

    def learn(self, updates: int) -> dict[str, float]:
        """Update the multiplier from the episodes since the last call, then learn."""
        metrics = {}
        if self._costs:
            cost = float(np.mean(self._costs))
            metrics = {"episode_cost": cost, "price": self.agent.lagrangian.update(cost)}
            self._costs = []
        return metrics | super().learn(updates)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"costs": list(self._costs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._costs = list(state["costs"])
