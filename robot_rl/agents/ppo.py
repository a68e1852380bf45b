"""PPO with an analytic KL penalty to the policy it started from. T steps, N members, A action dims.

World4RL refines a cloned policy this way inside a frozen world model; the anchor to the clone is what
DiWA found necessary for the gain to survive outside of the model (85 % imagined, 25 % real without it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl.agents.networks import MLP, seeded
from robot_rl.agents.policy import ActorPolicy
from robot_rl.errors import ConfigError, unknown

VALUE_TARGETS = ("gae", "td0")


@dataclass(frozen=True)
class PPOConfig:
    lr: float = 3e-4
    value_lr: float = 1e-3
    encoder_lr_scale: float = 0.0
    """Of the encoder's learning rate; 0 freezes it, and its features are computed once a rollout."""
    gamma: float = 0.98
    gae_lambda: float = 0.95
    value_target: str = "gae"
    """`gae`: the lambda return. `td0`: r + gamma V(s'), as in World4RL."""
    clip: float = 0.2
    kl_weight: float = 0.05
    """Of KL(pi || reference), DiWA's .05."""
    entropy_weight: float = 0.0
    epochs: int = 4
    minibatch: int = 256
    grad_clip: float = 0.5
    target_kl: float | None = 0.03
    """An update ends early once its policy is this far from the one that acted [nat]."""
    value_warmup: int = 0
    """Updates at the start that train the value alone."""
    value_hidden: tuple[int, ...] = (256, 256)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.value_target not in VALUE_TARGETS:
            raise unknown("ppo.value_target", self.value_target, VALUE_TARGETS)
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"ppo.{name}={getattr(self, name)}; expected 0 <= {name} <= 1")
        for name in ("epochs", "minibatch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ppo.{name}={getattr(self, name)}; expected at least 1")
        for name in ("encoder_lr_scale", "kl_weight", "clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"ppo.{name}={getattr(self, name)}; expected at least 0")


@dataclass
class Rollout:
    """T steps of N members. A member's step after one with `ended` belongs to its next episode."""

    features: Tensor
    """(T, N, F), from the encoder that acted."""
    action: Tensor
    """(T, N, A), as sampled: clipped only where it is executed."""
    log_prob: Tensor
    """(T, N), of `action` when it was sampled."""
    value: Tensor
    """(T, N), V of the observation before the step."""
    next_value: Tensor
    """(T, N), V of the true observation after it, the final one of an episode included."""
    reward: Tensor
    terminated: Tensor
    """bool (T, N): the value after the step is 0."""
    ended: Tensor
    """bool (T, N): terminated or truncated."""
    observations: dict[str, Tensor] = field(default_factory=dict)
    """Schema key -> (T, N, ...); read only when the encoder is trained."""
    costs: dict[str, Tensor] = field(default_factory=dict)
    """`reward`, `value` and `next_value` (T, N) of the costs; read only under a cost constraint."""
    valid: Tensor | None = None
    """bool (T, N): steps to learn from, where members stay as they are after their episode."""


def generalised_advantage(rollout: Rollout, gamma: float, gae_lambda: float) -> Tensor:
    """Advantages (T, N) (Schulman et al., arXiv 1506.02438).

    delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t)
    A_t = delta_t + gamma lambda (1 - ended_t) A_{t+1}
    """
    delta = rollout.reward + gamma * rollout.next_value * ~rollout.terminated - rollout.value
    advantage = torch.zeros_like(delta)
    running = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        running = delta[step] + gamma * gae_lambda * ~rollout.ended[step] * running
        advantage[step] = running
    return advantage


class PPO:
    """Improves `policy` on rollouts, held near `reference` (a frozen policy of the same kind)."""

    def __init__(self, policy: ActorPolicy, reference: ActorPolicy, config: PPOConfig) -> None:
        self.policy, self.config = policy, config
        self.reference = reference.requires_grad_(False)
        with seeded(config.seed):
            self.value = MLP(policy.feature_dim, config.value_hidden, 1, layer_norm=True).to(policy.device)
        self.frozen_encoder = policy.encoder is None or config.encoder_lr_scale == 0
        groups: list[dict[str, Any]] = [
            {"params": list(policy.trunk.parameters()), "lr": config.lr},
            {"params": list(self.value.parameters()), "lr": config.value_lr},
        ]
        if policy.encoder is not None and not self.frozen_encoder:
            lr = config.lr * config.encoder_lr_scale
            groups.append({"params": list(policy.encoder.parameters()), "lr": lr})
        self._optimiser = torch.optim.Adam(groups, fused=True)
        self._actor = [p for group in (groups[0], *groups[2:]) for p in group["params"]]
        self._generator = torch.Generator().manual_seed(config.seed)
        self._updates = 0

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        """V (B,) of features (B, F)."""
        return self.value(features).squeeze(-1)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Epochs of minibatches over one rollout; returns the means of the losses."""
        config = self.config
        advantage, target = self.advantages(rollout)
        data = {
            "features": rollout.features,
            "action": rollout.action,
            "log_prob": rollout.log_prob,
            "target": target,
            "advantage": self.actor_weight(rollout, advantage),
        }
        if not self.frozen_encoder:
            data |= rollout.observations
        data = {name: value.flatten(0, 1) for name, value in data.items()}
        if rollout.valid is not None:
            data = {name: value[rollout.valid.flatten()] for name, value in data.items()}
        data["reference"] = self._reference_heads(data)
        sums: dict[str, float] = {}
        steps = 0
        for _ in range(config.epochs):
            order = torch.randperm(len(data["target"]), generator=self._generator).to(target.device)
            for rows in order.split(config.minibatch):
                loss, metrics = self._loss({name: value[rows] for name, value in data.items()})
                if config.target_kl is not None and metrics["step_kl"] > config.target_kl:
                    return self._finish(sums, steps, stopped=True)
                self._optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self._actor, config.grad_clip)
                nn.utils.clip_grad_norm_(self.value.parameters(), config.grad_clip)
                self._optimiser.step()
                steps += 1
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value
        return self._finish(sums, steps, stopped=False)

    def weight(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """What the surrogate weighs each action with (T, N): its advantage."""
        return advantage

    def actor_weight(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """The same, of mean 0 and deviation 1."""
        weight = self.weight(rollout, advantage)
        return (weight - weight.mean()) / (weight.std() + 1e-6)

    def advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages and the value's targets, (T, N) each."""
        config = self.config
        advantage = generalised_advantage(rollout, config.gamma, config.gae_lambda)
        if config.value_target == "gae":
            return advantage, advantage + rollout.value
        return advantage, rollout.reward + config.gamma * rollout.next_value * ~rollout.terminated

    def value_loss(self, features: Tensor, target: Tensor) -> Tensor:
        """E[(V - target)^2] / 2."""
        return 0.5 * (self.value(features.detach()).squeeze(-1) - target).square().mean()

    def _finish(self, sums: Mapping[str, float], steps: int, stopped: bool) -> dict[str, float]:
        self._updates += 1
        return {name: value / max(steps, 1) for name, value in sums.items()} | {
            "gradient_steps": float(steps),
            "stopped_early": float(stopped),
        }

    @torch.no_grad()
    def _reference_heads(self, data: Mapping[str, Tensor]) -> Tensor:
        """The reference's raw distribution parameters (B, P), once a rollout."""
        if self.frozen_encoder:  # its encoder is the policy's own
            return self.reference.head(data["features"])
        parts = [
            self.reference.head(self.reference.features({name: value[rows] for name, value in data.items()}))
            for rows in torch.arange(len(data["action"])).split(256)
        ]
        return torch.cat(parts)

    def _loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        features = batch["features"] if self.frozen_encoder else self.policy.features(batch)
        distribution = self.policy(features)
        log_ratio = distribution.log_prob(batch["action"]) - batch["log_prob"]
        surrogate = self._surrogate(log_ratio.exp(), batch["advantage"])
        anchor = distribution.kl(self.policy.distribution(batch["reference"])).mean()
        entropy = distribution.entropy().mean()
        value_loss = self.value_loss(features, batch["target"])
        actor_loss = -surrogate + config.kl_weight * anchor - config.entropy_weight * entropy
        loss = value_loss if self._updates < config.value_warmup else actor_loss + value_loss
        with torch.no_grad():
            # Schulman's low-variance estimator of KL(acting || current): E[r - 1 - log r]
            step_kl = (log_ratio.exp() - 1 - log_ratio).mean()
        return loss, {
            "surrogate": surrogate.item(),
            "value_loss": value_loss.item(),
            "kl_to_bc": anchor.item(),
            "entropy": entropy.item(),
            "step_kl": step_kl.item(),
        }

    def _surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """mean min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al., arXiv 1707.06347, eq. 7)."""
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        return torch.minimum(ratio * advantage, clipped * advantage).mean()

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "reference": self.reference.state_dict(),
            "value": self.value.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.reference.load_state_dict(state["reference"])
        self.value.load_state_dict(state["value"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._updates = state["updates"]
