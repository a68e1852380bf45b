"""Soft actor-critic on feature vectors: what Cal-QL (offline) and WSRL (online) share.

B batch, E critics, F features, A action dimensions. A batch is what `robot_rl.data.replay` samples:
`features`, `next_features` (B, F), `action` (B, A), `reward`, `discount`, `mc_return` (B,). `discount`
is 0 only where the task terminated, so a truncated step is bootstrapped. With `train_encoder` a batch
holds the observations themselves (`robot_rl.agents.observe`) in the place of features.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl.agents.distributions import ActionDistribution, sample
from robot_rl.agents.networks import CriticEnsemble, move_towards, seeded
from robot_rl.agents.observe import encoded, recorded_features
from robot_rl.agents.policy import ActorPolicy
from robot_rl.data import Episode
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.errors import ConfigError, DataError

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class SACConfig:
    critics: int = 10
    target_subset: int = 2
    """Targets take the minimum over this many critics, drawn anew each time (REDQ, RLPD, WSRL)."""
    target_actions: int = 1
    """Targets take the maximum over this many next actions (Cal-QL's max-target backup if above 1)."""
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True
    bf16: bool = False
    """Take the critics' wide products in bfloat16: for CPUs that have it (see `CriticEnsemble`)."""
    fused: bool = False
    """Use the critics' written-out gradient: sooner on a CPU, other rounding (see `CriticEnsemble`)."""
    actor_lr: float = 1e-4
    critic_lr: float = 3e-4
    tau: float = 0.005
    value_range: tuple[float, float] | None = None
    """What a return can be; targets are clipped to it."""
    entropy_backup: bool = False
    temperature: float = 0.01
    """Of the entropy bonus, in units of the (normalised) value; the first one if it is learned."""
    learn_temperature: bool = False
    temperature_lr: float = 3e-4
    target_entropy: float | None = None
    """[nat]; -A if None, a standard deviation of about .09 in every dimension."""
    pessimistic_actor: bool = False
    """The actor believes the smallest critic (SAC, CQL, SAC-N) rather than their mean (RLPD, WSRL)."""
    normalise_q: bool = True
    """Divide the actor's Q by its mean magnitude, so that the terms below keep their weight (TD3+BC)."""
    bc_weight: float = 0.0
    """Of -log pi(a_data | s) / A; rows weighted by the batch's `clone` (B,), if it has one."""
    kl_weight: float = 0.0
    """Of KL(pi || the policy this agent started from) / A."""
    anchor_half_life: float = math.inf
    """Actor updates after which `bc_weight` and `kl_weight` count half."""
    grad_clip: float = 10.0
    train_encoder: bool = False
    """Train the policy's picture encoder by the critics' loss; the actor shares it and leaves it alone."""
    shift: int = 4
    """Random shift of pictures, in pixels (DrQ), if the encoder is trained."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.target_subset <= self.critics:
            raise ConfigError(
                f"sac.target_subset={self.target_subset}; expected between 1 and critics={self.critics}"
            )
        if self.target_actions < 1:
            raise ConfigError(f"sac.target_actions={self.target_actions}; expected at least 1")
        if not 0 < self.tau <= 1:
            raise ConfigError(f"sac.tau={self.tau}; expected 0 < tau <= 1")
        if self.temperature < 0 or (self.learn_temperature and self.temperature == 0):
            raise ConfigError(f"sac.temperature={self.temperature}; expected >= 0, above 0 to be learned")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"sac.value_range={self.value_range}; expected (low, high) with low < high")
        if self.anchor_half_life <= 0:
            raise ConfigError(f"sac.anchor_half_life={self.anchor_half_life}; expected above 0")


class SAC:
    """Trains `policy`'s trunk and an ensemble of critics; its encoder only if `train_encoder`."""

    def __init__(self, policy: ActorPolicy, config: SACConfig) -> None:
        self.policy, self.config = policy, config
        action_dim = policy.config.action_dim
        with seeded(config.seed):
            self.critic = CriticEnsemble(
                policy.feature_dim,
                action_dim,
                config.critics,
                config.hidden,
                config.layer_norm,
                config.bf16,
                config.fused,
            ).to(policy.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self._reference = copy.deepcopy(policy).requires_grad_(False)
        self._log_temperature = torch.tensor(
            math.log(config.temperature) if config.temperature else -math.inf,
            device=policy.device,
            requires_grad=config.learn_temperature,
        )
        self._target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy
        self._actor_parameters = list(policy.trunk.parameters())
        self._critic_parameters = list(self.critic.parameters())
        if config.train_encoder:
            if policy.encoder is None:
                raise ConfigError("sac.train_encoder=True, but the policy reads no pictures; expected False")
            self._critic_parameters += policy.encoder.parameters()
        self._optimisers = {
            "critic": torch.optim.Adam(self._critic_parameters, lr=config.critic_lr, fused=True),
            "actor": torch.optim.Adam(self._actor_parameters, lr=config.actor_lr, fused=True),
        }
        if config.learn_temperature:
            self._optimisers["temperature"] = torch.optim.Adam(
                [self._log_temperature], lr=config.temperature_lr
            )
        self.generator = torch.Generator(policy.device).manual_seed(config.seed)
        self._actor_updates = 0

    @property
    def temperature(self) -> float:
        return float(self._log_temperature.detach().exp())

    def update(self, batch: Batch, actor: bool = True) -> dict[str, float]:
        """One step of the critics, then, if `actor`, of the actor and of the temperature."""
        batch = self.encoded(batch)
        loss, metrics = self.critic_loss(batch)
        self._step("critic", loss, self._critic_parameters)
        move_towards(self.target, self.critic, self.config.tau)
        if actor:
            loss, entropy, more = self.actor_loss(detached(batch))
            self._step("actor", loss, self._actor_parameters)
            if self.config.learn_temperature:
                self._step("temperature", self.temperature_loss(entropy), [self._log_temperature])
            self._actor_updates += 1
            metrics |= more
        return metrics

    def observe(self, episode: Episode) -> dict[str, Tensor]:
        """What a buffer keeps of an episode's observations, name -> (T+1, ...), to learn from."""
        return recorded_features(self.policy, episode, raw=self.config.train_encoder)

    def encoded(self, batch: Batch) -> Batch:
        """The batch with `features`, through which a loss reaches the encoder if that is trained."""
        if not self.config.train_encoder or "features" in batch:
            return batch
        return encoded(self.policy, batch, self.config.shift, self.generator)

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """y = r + discount max_{a' ~ pi} [min_{e in subset} Q'_e(s', a') - temperature log pi(a'|s')]."""
        config = self.config
        distribution = self.policy(batch["next_features"])
        action, log_prob = self.sample_actions(distribution, config.target_actions)
        members = torch.randperm(config.critics, generator=self.generator, device=self.policy.device)
        subset = members[: config.target_subset] if config.target_subset < config.critics else None
        value = self.target(batch["next_features"], action, subset).amin(0)
        if config.entropy_backup:
            value = value - self.temperature * log_prob
        target = batch["reward"] + batch["discount"] * value.amax(-1)
        return target if config.value_range is None else target.clamp(*config.value_range)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """sum_e mean_B (Q_e(s, a) - y)^2."""
        q = self.critic(batch["features"], batch["action"])
        loss = self.td_loss(q, self.td_target(batch))
        return loss, {"td_loss": loss.item() / self.config.critics, "q_data": q.mean().item()}

    def td_loss(self, q: Tensor, target: Tensor) -> Tensor:
        """For values (E, B) and targets (B,)."""
        return (q - target).square().mean(-1).sum()

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        """-mean_e Q_e(s, a) / |Q| - temperature H(pi) + bc (-log pi(a_data)) + kl KL(pi || reference).

        The critics are passed through, never changed. Returns the loss, the mean entropy and metrics.
        """
        config = self.config
        features = batch["features"]
        distribution = self.policy(features)
        action = sample(distribution, self.generator).clamp(-1, 1)
        loss, metrics = self.objective(features, action)
        entropy = distribution.entropy().mean()
        loss = loss - self._log_temperature.detach().exp() * entropy
        metrics |= {"entropy": entropy.item(), "temperature": self.temperature}
        anchor = 0.5 ** (self._actor_updates / config.anchor_half_life) / self.policy.config.action_dim
        if config.bc_weight:
            weight = batch.get("clone", torch.ones_like(batch["reward"]))
            nll = -(weight * distribution.log_prob(batch["action"])).sum() / weight.sum().clamp(min=1)
            loss = loss + anchor * config.bc_weight * nll
            metrics["bc_nll"] = nll.item()
        if config.kl_weight:
            with torch.no_grad():
                reference = self.policy.distribution(self._reference.head(features))
            kl = distribution.kl(reference).mean()
            loss = loss + anchor * config.kl_weight * kl
            metrics["kl_to_reference"] = kl.item()
        return loss, entropy.detach(), metrics

    def objective(self, features: Tensor, action: Tensor) -> tuple[Tensor, dict[str, float]]:
        """-mean_e Q_e(s, a) / |Q| (or min_e), of the actor's own actions: what it minimises but for the
        terms that hold it back."""
        if self.config.pessimistic_actor:
            q = self.critic.smallest(features, action)
        else:
            q = self.critic(features, action, frozen=True).mean(0)
        scale = q.detach().abs().mean().clamp(min=1e-3) if self.config.normalise_q else 1.0
        return -(q / scale).mean(), {"q_policy": q.mean().item()}

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """log temperature (H(pi) - target entropy): falls while the policy is random enough."""
        return self._log_temperature * (entropy - self._target_entropy)

    @torch.no_grad()
    def sample_actions(self, distribution: ActionDistribution, count: int) -> tuple[Tensor, Tensor]:
        """`count` executable actions (B, count, A) a row, and the log-density (B, count) of each."""
        mean = distribution.mean
        level = torch.rand(count, *mean.shape, generator=self.generator, device=mean.device)
        action = distribution.quantile(level)
        return action.clamp(-1, 1).transpose(0, 1), distribution.log_prob(action).transpose(0, 1)

    def _step(self, name: str, loss: Tensor, parameters: list[Any]) -> None:
        """`loss` reaches `parameters` alone, and nothing is computed for any other."""
        optimiser = self._optimisers[name]
        optimiser.zero_grad()
        loss.backward(inputs=parameters)
        if self.config.grad_clip < math.inf:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "reference": self._reference.state_dict(),
            **{name: each.state_dict() for name, each in self.networks().items()},
            "multipliers": {name: each.detach().clone() for name, each in self.multipliers().items()},
            "optimisers": {name: each.state_dict() for name, each in self._optimisers.items()},
            "generator": self.generator.get_state(),
            "actor_updates": self._actor_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self._reference.load_state_dict(state["reference"])
        self._load(state, state["multipliers"])
        for name, each in self._optimisers.items():
            each.load_state_dict(state["optimisers"][name])
        self.generator.set_state(state["generator"])
        self._actor_updates = state["actor_updates"]

    def networks(self) -> dict[str, nn.Module]:
        """What is learned besides the policy, by name: saved, resumed and handed to a later stage."""
        return {"critic": self.critic, "target": self.target}

    def multipliers(self) -> dict[str, Tensor]:
        """Logarithms of the learned multipliers, by name: saved, resumed and handed to a later stage. A fixed
        one is the configuration's to say."""
        return {"log_temperature": self._log_temperature} if self.config.learn_temperature else {}

    def save_critics(self, path: str | Path, metadata: Mapping[str, Any]) -> None:
        """Write the critics and their targets as an artifact of kind `critic`, for a later stage.

        Raises:
            DataError: the place cannot be written; older critics there are unchanged.
        """
        tensors = {
            f"{network}.{name}": value
            for network, module in self.networks().items()
            for name, value in module.state_dict().items()
        }
        tensors |= {name: value.detach() for name, value in self.multipliers().items()}
        files = {"model.safetensors": tensors, "config.json": dataclasses.asdict(self.config)}
        save_artifact(path, "critic", files, self._shape() | dict(metadata))

    def load_critics(self, path: str | Path, expect: Mapping[str, Any] | None = None) -> None:
        """Start from the critics that an earlier stage saved.

        Raises:
            DataError: missing, damaged, of other metadata than `expect`, or of another shape than this
                agent's; the message names what differs.
        """
        artifact = load_artifact(path, "critic", self._shape() | dict(expect or {}))
        tensors = artifact.tensors("model.safetensors")
        states = {
            network: {
                name.removeprefix(f"{network}."): value
                for name, value in tensors.items()
                if name.startswith(f"{network}.")
            }
            for network in self.networks()
        }
        if missing := [network for network, state in states.items() if not state]:
            raise DataError(
                f"{path} holds no {missing[0]!r} network, which this agent needs: "
                "fine-tune with the algorithm that made it, or run the offline stage with this one"
            )
        self._load(states, {name: tensors[name] for name in self.multipliers() if name in tensors})

    @torch.no_grad()
    def _load(self, states: Mapping[str, Mapping[str, Tensor]], multipliers: Mapping[str, Tensor]) -> None:
        for name, network in self.networks().items():
            network.load_state_dict(states[name])
        for name, value in multipliers.items():
            self.multipliers()[name].copy_(value)

    def _shape(self) -> dict[str, Any]:
        return {
            "critics": self.config.critics,
            "hidden": list(self.config.hidden),
            "layer_norm": self.config.layer_norm,
            "feature_dim": self.policy.feature_dim,
            "action_dim": self.policy.config.action_dim,
        }


def detached(batch: Batch) -> Batch:
    """The batch without the graph of its features: the actor's loss never reaches the encoder."""
    features = batch["features"]
    return {**batch, "features": features.detach()} if features.requires_grad else batch
