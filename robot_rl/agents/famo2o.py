"""FamO2O: a family of IQL policies, and a network that chooses among them state by state.

Wang et al., arXiv 2310.17966. The universal model pi(a | s, beta) holds a policy for every trade-off beta
between improving and cloning; the balance model pi(beta | s) learns which one each state calls for.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.agents.distributions import sample
from robot_rl.agents.iql import IQL, IQLConfig
from robot_rl.agents.policy import BETA_FEATURES, ActorPolicy
from robot_rl.agents.sac import Batch, SACConfig, detached
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class FamO2OConfig:
    beta: tuple[float, float] = (8.0, 14.0)
    """Range of trade-offs, IQL's beta; AntMaze's."""
    balance_lr: float = 3e-4
    temperature: float = 1.0
    """Of the balance model's entropy at the start; learned."""
    temperature_lr: float = 3e-4
    target_entropy: float = -0.5
    """Of the balance model [nat], over [-1, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta[0] < self.beta[1]:
            raise ConfigError(f"famo2o.beta={self.beta}; expected (low, high) with 0 <= low < high")
        for name in ("balance_lr", "temperature", "temperature_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"famo2o.{name}={getattr(self, name)}; expected above 0")


def family_of(policy: ActorPolicy, beta: tuple[float, float]) -> ActorPolicy:
    """The family whose every member acts as `policy`, until it is trained; `policy` itself if it is one.

    Raises:
        ConfigError: `policy` is a family of another range.
    """
    if policy.config.family is not None:
        if tuple(policy.config.family) != tuple(beta):
            raise ConfigError(f"policy is a family over beta={policy.config.family}; expected {tuple(beta)}")
        return policy
    family = ActorPolicy(dataclasses.replace(policy.config, family=beta), policy.statistics).to(policy.device)
    weights = copy.deepcopy(policy.state_dict())
    first = weights["trunk.0.weight"]  # (hidden, F), and nothing yet depends on beta
    weights["trunk.0.weight"] = torch.cat([first, first.new_zeros(len(first), BETA_FEATURES)], dim=1)
    family.load_state_dict(family.state_dict() | weights)
    return family


class FamO2O(IQL):
    """IQL whose policy is a family. `policy` comes from `family_of`.

    Raises:
        ConfigError: the policy is no family over `famo2o.beta`.
    """

    def __init__(self, policy: ActorPolicy, config: SACConfig, iql: IQLConfig, famo2o: FamO2OConfig) -> None:
        if policy.config.family is None or tuple(policy.config.family) != tuple(famo2o.beta):
            raise ConfigError(
                f"famo2o has beta={famo2o.beta}, its policy family={policy.config.family}; expected "
                "the same: make the policy by family_of"
            )
        super().__init__(policy, config, iql)
        assert policy.balance is not None
        self.famo2o = famo2o
        self._balance_parameters = list(policy.balance.parameters())
        self._balance_log_temperature = (
            torch.tensor(famo2o.temperature, device=policy.device).log_().requires_grad_()
        )
        self._optimisers["balance"] = torch.optim.Adam(
            self._balance_parameters, lr=famo2o.balance_lr, fused=True
        )
        self._optimisers["balance_temperature"] = torch.optim.Adam(
            [self._balance_log_temperature], lr=famo2o.temperature_lr
        )

    def update(self, batch: Batch, actor: bool = True) -> dict[str, float]:
        """IQL's update; then, if `actor`, one step of the balance model and of its temperature."""
        batch = self.encoded(batch)
        metrics = super().update(batch, actor)
        if actor:
            loss, entropy, more = self.balance_loss(detached(batch))
            self._step("balance", loss, self._balance_parameters)
            gap = entropy - self.famo2o.target_entropy
            temperature = self._balance_log_temperature
            self._step("balance_temperature", temperature * gap, [temperature])
            metrics |= more
        return metrics

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """mean min(exp(beta A), clip) (-log pi(a | s, beta)), beta uniform in its range, one a row."""
        features, (low, high) = batch["features"], self.famo2o.beta
        choice = 2 * torch.rand(len(features), 1, generator=self.generator, device=features.device) - 1
        weight = self.weight(batch["advantage"], low + (high - low) * (choice.squeeze(-1) + 1) / 2)
        distribution = self.policy.distribution(self.policy.member(features, choice))
        loss = -(weight * distribution.log_prob(batch["action"])).mean()
        entropy = distribution.entropy().mean().detach()
        return loss, entropy, {"actor_loss": loss.item(), "weight": weight.mean().item()}

    def balance_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """mean [temperature log pi(beta | s) - min_e Q_e(s, mean pi(. | s, beta))], beta ~ pi(. | s).

        Critics and the universal model are passed through, never changed. Returns the loss, the balance
        model's entropy and metrics.
        """
        features = batch["features"]
        trade_off = self.policy.trade_off(features)
        choice = sample(trade_off, self.generator)
        action = self.policy.distribution(self.policy.member(features, choice)).mean.clamp(-1, 1)
        q = self.critic(features, action, frozen=True).amin(0)
        entropy = trade_off.entropy().mean()
        loss = -self._balance_log_temperature.detach().exp() * entropy - q.mean()
        low, high = self.famo2o.beta
        beta = low + (high - low) * (choice.detach().mean().item() + 1) / 2
        metrics = {"balance_loss": loss.item(), "balance_entropy": entropy.item(), "beta": beta}
        return loss, entropy.detach(), metrics

    def multipliers(self) -> dict[str, Tensor]:
        return super().multipliers() | {"balance_log_temperature": self._balance_log_temperature}
