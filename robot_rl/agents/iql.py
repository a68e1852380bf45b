"""IQL: implicit Q-learning, which never asks for the value of an action that the data do not hold.

Kostrikov et al., arXiv 2110.06169. B batch, E critics. Any policy head: only log pi(a_data | s) is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robot_rl.agents.networks import MLP, seeded
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.sac import SAC, Batch, SACConfig, detached
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class IQLConfig:
    expectile: float = 0.7
    """tau of V: .5 the mean of the data's actions, towards 1 their maximum. AntMaze .9, Adroit .7."""
    beta: float = 3.0
    """Inverse temperature of the policy's weights: 0 clones, more follows the advantage. AntMaze 10."""
    weight_clip: float = 100.0
    """Largest weight exp(beta A) of a row."""
    value_lr: float = 3e-4

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ConfigError(f"iql.expectile={self.expectile}; expected 0 < expectile < 1")
        if self.beta < 0:
            raise ConfigError(f"iql.beta={self.beta}; expected at least 0")
        for name in ("weight_clip", "value_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"iql.{name}={getattr(self, name)}; expected above 0")


class IQL(SAC):
    """Critics, their targets and the optimisers are SAC's; targets, value and policy are IQL's.

    Of `SACConfig` it reads the networks, rates, tau, value_range, grad_clip and the encoder's settings; the
    paper has two critics. It adds no entropy, so `temperature` and the anchors change nothing.
    """

    def __init__(self, policy: ActorPolicy, config: SACConfig, iql: IQLConfig) -> None:
        super().__init__(policy, config)
        self.iql = iql
        with seeded(config.seed + 1):
            self.value = MLP(policy.feature_dim, config.hidden, 1).to(policy.device)
        self._value_parameters = list(self.value.parameters())
        self._optimisers["value"] = torch.optim.Adam(self._value_parameters, lr=iql.value_lr, fused=True)

    def update(self, batch: Batch, actor: bool = True) -> dict[str, float]:
        """One step of V, then of the critics towards V(s'), then, if `actor`, of the policy."""
        batch = self.encoded(batch)
        loss, advantage, metrics = self.value_loss(detached(batch))
        self._step("value", loss, self._value_parameters)
        return metrics | super().update({**batch, "advantage": advantage}, actor)

    def value_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """mean L_tau(A), A = Q'(s, a) - V(s), L_tau(u) = |tau - 1(u < 0)| u^2; and A (B,), for the policy."""
        advantage = self.target_value(batch) - self.state_value(batch["features"])
        weight = torch.where(advantage.detach() < 0, 1 - self.iql.expectile, self.iql.expectile)
        loss = (weight * advantage.square()).mean()
        return loss, advantage.detach(), {"value_loss": loss.item()}

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """y = r + discount V(s'): no action is sampled."""
        target = batch["reward"] + batch["discount"] * self.state_value(batch["next_features"])
        return target if self.config.value_range is None else target.clamp(*self.config.value_range)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """mean min(exp(beta A), clip) (-log pi(a | s)), A the batch's `advantage`; entropy, metrics."""
        distribution = self.policy(batch["features"])
        weight = self.weight(batch["advantage"], self.iql.beta)
        loss = -(weight * distribution.log_prob(batch["action"])).mean()
        entropy = distribution.entropy().mean().detach()
        return loss, entropy, {"actor_loss": loss.item(), "weight": weight.mean().item()}

    def weight(self, advantage: Tensor, beta: float | Tensor) -> Tensor:
        """min(exp(beta A), clip), (B,), of an advantage A (B,); `beta` may be one number a row."""
        return torch.exp(beta * advantage).clamp(max=self.iql.weight_clip)

    @torch.no_grad()
    def target_value(self, batch: Batch) -> Tensor:
        """min_e Q'_e(s, a_data), (B,)."""
        return self.target(batch["features"], batch["action"]).amin(0)

    def state_value(self, features: Tensor) -> Tensor:
        """V(s), (B,)."""
        value: Tensor = self.value(features)
        return value.squeeze(-1)

    def networks(self) -> dict[str, nn.Module]:
        return super().networks() | {"value": self.value}
