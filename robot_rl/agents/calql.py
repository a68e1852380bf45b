"""Cal-QL: conservative critics that never fall below a return that was really reached.

Nakamoto et al., arXiv 2303.05479. B batch, E critics, N sampled actions, A action dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robot_rl.agents.offline import OfflineLearner, OfflineTraining
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.sac import SAC, Batch, SACConfig
from robot_rl.data.replay import Sampler
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class CalQLConfig:
    sac: SACConfig = field(default_factory=SACConfig)
    alpha: float = 1.0
    """Of the conservative term."""
    actions: int = 4
    """N: uniform actions, policy actions at s, and policy actions at s' (the paper's 10 each)."""
    conservative_critics: int | None = None
    """How many critics, drawn anew each update, the conservative term is computed for; every one if
    None. Fewer cost less, and the term is scaled so that its expected gradient stays the same."""
    updates: int = 5000
    batch: int = 256
    target_gap: float | None = None
    """tau of CQL's Lagrange form: alpha is learned so that the gap stays at it (AntMaze: .8). None: fixed."""
    alpha_lr: float = 3e-4
    """Of the learned log alpha."""
    critic_only: int = 500
    """Updates at the start that leave the actor as it came."""

    def __post_init__(self) -> None:
        for name in ("actions", "updates", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"calql.{name}={getattr(self, name)}; expected at least 1")
        if self.alpha < 0 or (self.target_gap is not None and self.alpha == 0):
            raise ConfigError(f"calql.alpha={self.alpha}; expected at least 0, above 0 to be learned")
        members = self.conservative_critics
        if members is not None and not 1 <= members <= self.sac.critics:
            raise ConfigError(
                f"calql.conservative_critics={members}; expected between 1 and critics={self.sac.critics}"
            )


class CalQL(SAC):
    """SAC whose critics are pushed down on sampled actions and up on the data's."""

    def __init__(self, policy: ActorPolicy, config: CalQLConfig) -> None:
        super().__init__(policy, config.sac)
        self.calql = config
        self._log_alpha = torch.tensor(
            math.log(config.alpha) if config.alpha else -math.inf,
            device=policy.device,
            requires_grad=config.target_gap is not None,
        )
        if config.target_gap is not None:
            self._optimisers["alpha"] = torch.optim.Adam([self._log_alpha], lr=config.alpha_lr)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """TD-MSE + alpha (logsumexp_a [max(Q(s, a), MC(s)) - log mu(a)] - Q(s, a_data))."""
        critics, features = self.config.critics, batch["features"]
        target = self.td_target(batch)
        sampled, log_mu = self._sampled_actions(batch)
        members, share = self._members()
        if members is None:  # one pass over the data's action and the sampled ones
            q = self.critic(features, torch.cat([batch["action"].unsqueeze(1), sampled], dim=1))
            q_data, q_sampled = q[..., 0], q[..., 1:]
            td, above = self.td_loss(q_data, target), q_data
        else:
            q_data = self.critic(features, batch["action"])
            q_sampled = self.critic(features, sampled, members)
            td, above = self.td_loss(q_data, target), q_data[members]
        gap, raised = self.conservative_gap(q_sampled, above, log_mu, batch["mc_return"])
        alpha = self.calql.alpha
        if self.calql.target_gap is not None:
            alpha = self._learn_alpha(gap.mean().item())
        loss = td + alpha * share * gap.mean(-1).sum()
        return loss, {
            "td_loss": td.item() / critics,
            "cql_gap": gap.mean().item(),
            "q_data": q_data.mean().item(),
            "q_random": q_sampled[..., : self.calql.actions].mean().item(),
            "calibrated": raised.item(),
        }

    def conservative_gap(
        self, q_sampled: Tensor, q_data: Tensor, log_mu: Tensor, mc_return: Tensor
    ) -> tuple[Tensor, Tensor]:
        """logsumexp_a [max(Q(s, a), MC(s)) - log mu(a)] - Q(s, a_data), (E, B).

        The maximum with the Monte-Carlo return calibrates policy actions only: a random action was never
        a policy's, so no return vouches for it.

        Args:
            q_sampled: (E, B, 3 N), the N uniform actions first. q_data: (E, B).
            log_mu: (B, 3 N), of the sampled actions. mc_return: (B,).

        Returns:
            the gap, and the share of policy actions whose value the return raised.
        """
        count = self.calql.actions
        q_random, q_policy = q_sampled[..., :count], q_sampled[..., count:]
        floor = mc_return[:, None]
        values = torch.cat([q_random, torch.maximum(q_policy, floor)], dim=-1)
        gap = torch.logsumexp(values - log_mu, dim=-1) - q_data
        return gap, (q_policy.detach() < floor).float().mean()

    def _learn_alpha(self, gap: float) -> float:
        """One step up alpha (gap - tau), over log alpha: it grows while the gap is too wide."""
        assert self.calql.target_gap is not None
        loss = -self._log_alpha.exp().clamp(max=1e6) * (gap - self.calql.target_gap)
        self._step("alpha", loss, [self._log_alpha])
        return float(self._log_alpha.detach().exp().clamp(max=1e6))

    def multipliers(self) -> dict[str, Tensor]:
        learned = {} if self.calql.target_gap is None else {"log_alpha": self._log_alpha}
        return super().multipliers() | learned

    @torch.no_grad()
    def _sampled_actions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Actions (B, 3 N, A): N uniform ones, N of pi(s), N of pi(s'); and their log mu (B, 3 N)."""
        count, action = self.calql.actions, batch["action"]
        uniform = torch.rand(
            len(action), count, action.shape[-1], generator=self.generator, device=action.device
        )
        log_uniform = action.new_full((len(action), count), -action.shape[-1] * math.log(2))
        here, log_here = self.sample_actions(self.policy(batch["features"]), count)
        there, log_there = self.sample_actions(self.policy(batch["next_features"]), count)
        return torch.cat([2 * uniform - 1, here, there], 1), torch.cat([log_uniform, log_here, log_there], 1)

    def _members(self) -> tuple[Tensor | None, float]:
        wanted = self.calql.conservative_critics
        if wanted is None or wanted == self.config.critics:
            return None, 1.0
        order = torch.randperm(self.config.critics, generator=self.generator, device=self.policy.device)
        return order[:wanted], self.config.critics / wanted


class CalQLLearner(OfflineLearner):
    """Cal-QL on recorded transitions; one update is one batch. A `trainers.protocols.Learner`."""

    agent: CalQL

    def __init__(self, policy: ActorPolicy, buffer: Sampler, config: CalQLConfig) -> None:
        super().__init__(
            CalQL(policy, config), buffer, OfflineTraining(config.updates, config.batch, config.critic_only)
        )
