"""TD3+BC: the plain offline baseline (Fujimoto and Gu, arXiv 2106.06860).

The policy is its distribution's mean, whatever the head; the head's width is learned by nothing and is
what an online stage explores with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robot_rl.agents.networks import move_towards
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.sac import SAC, Batch, SACConfig
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class TD3BCConfig:
    alpha: float = 2.5
    """Weight of Q, over its mean magnitude, against the squared distance to the data's action."""
    noise: float = 0.2
    """Standard deviation of what smooths the target policy, in units of the action."""
    noise_clip: float = 0.5
    delay: int = 2
    """Critic steps for each step of the actor. (The targets of both move a little at each critic step.)"""

    def __post_init__(self) -> None:
        for name in ("alpha", "noise", "noise_clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"td3bc.{name}={getattr(self, name)}; expected at least 0")
        if self.delay < 1:
            raise ConfigError(f"td3bc.delay={self.delay}; expected at least 1")


class TD3BC(SAC):
    """Of `SACConfig` it reads the networks, rates, tau, value_range, grad_clip and the encoder's settings;
    the paper has two critics, and targets take the minimum over all of them."""

    def __init__(self, policy: ActorPolicy, config: SACConfig, td3bc: TD3BCConfig) -> None:
        super().__init__(policy, config)
        self.td3bc = td3bc
        self.target_trunk = copy.deepcopy(policy.trunk).requires_grad_(False)
        self._critic_steps = 0

    def update(self, batch: Batch, actor: bool = True) -> dict[str, float]:
        """One step of the critics; at every `delay`-th also of the actor, if asked."""
        batch = self.encoded(batch)
        self._critic_steps += 1
        metrics = super().update(batch, actor and self._critic_steps % self.td3bc.delay == 0)
        move_towards(self.target_trunk, self.policy.trunk, self.config.tau)
        return metrics

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """y = r + discount min_e Q'_e(s', clip(mu'(s') + clip(noise)))."""
        action = self.policy.distribution(self.target_trunk(batch["next_features"])).mean
        noise = torch.randn(action.shape, generator=self.generator, device=action.device) * self.td3bc.noise
        action = (action + noise.clamp(-self.td3bc.noise_clip, self.td3bc.noise_clip)).clamp(-1, 1)
        value = self.target(batch["next_features"], action).amin(0)
        target = batch["reward"] + batch["discount"] * value
        return target if self.config.value_range is None else target.clamp(*self.config.value_range)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """-lambda Q_1(s, mu(s)) + |mu(s) - a_data|^2 / A, lambda = alpha / mean |Q_1|; entropy, metrics."""
        distribution = self.policy(batch["features"])
        action = distribution.mean
        first = torch.zeros(1, dtype=torch.long, device=action.device)
        q = self.critic(batch["features"], action.clamp(-1, 1), first, frozen=True).squeeze(0)
        scale = self.td3bc.alpha / q.detach().abs().mean().clamp(min=1e-6)
        distance = (action - batch["action"]).square().mean()
        metrics = {"q_policy": q.mean().item(), "bc_mse": distance.item()}
        return distance - scale * q.mean(), distribution.entropy().mean().detach(), metrics

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "target_trunk": self.target_trunk.state_dict(),
            "critic_steps": self._critic_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target_trunk.load_state_dict(state["target_trunk"])
        self._critic_steps = state["critic_steps"]
