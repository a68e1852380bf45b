"""Behaviour cloning: the first policy, from demonstrations.

Loss: -log pi(a | o), which is World4RL's Gaussian NLL or the two-hot cross-entropy, by the policy's head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robot_rl.agents.networks import move_towards
from robot_rl.agents.policy import ActorPolicy
from robot_rl.data import Episode, schema
from robot_rl.data.augmentation import AugmentationConfig, augment_images
from robot_rl.errors import ConfigError, DataError, unknown

POLICIES = ("actor", "diffusion")
P = TypeVar("P", bound=nn.Module)


@dataclass(frozen=True)
class DescentConfig:
    """What `Descent` needs to know."""

    updates: int = 3000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    ema: float = 0.995
    """Decay of the averaged weights, which are those to use; 0 for the raw ones."""
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema}; expected 0 <= ema < 1")


@dataclass(frozen=True)
class BCConfig(DescentConfig):
    lr: float = 1e-3
    """At the start; it falls to 0 along a cosine."""
    warmup: int = 100
    mse_weight: float = 0.0
    """Of the mean's squared error, beside the negative log-likelihood."""
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(shift=4))
    """Of the pictures: random shift as in DrQ, and changes of colour."""
    state_noise: float = 0.0
    """Gaussian noise on the state, in standard deviations of the data: for a few episodes only, whose
    states a network would learn by heart."""
    holdout: float = 0.1
    """Share of the episodes kept for the validation loss; at least one if above 0."""
    validate_every: int = 250
    policy: str = "actor"
    """`actor`: the Gaussian or two-hot policy that every stage goes on with. `diffusion`: a diffusion policy,
    for comparison; no later stage takes it over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in POLICIES:
            raise unknown("bc.policy", self.policy, POLICIES)
        if self.validate_every < 1 or self.state_noise < 0:
            raise ConfigError(
                f"validate_every={self.validate_every}, state_noise={self.state_noise}; expected at least 1 "
                "and 0"
            )
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"holdout={self.holdout}; expected 0 <= holdout < 1")


C = TypeVar("C", bound=DescentConfig)


class Frames:
    """Every (observation, executed action) of some episodes, n rows; with `following`, the next one too."""

    def __init__(self, episodes: Sequence[Episode], policy: ActorPolicy, following: bool = False) -> None:
        seen = []
        for number, episode in enumerate(episodes):
            try:
                seen.append(policy.observations(episode))
            except DataError as error:
                raise DataError(f"number {number}: {error}") from error
        self.observations = {key: torch.cat([each[key][:-1] for each in seen]) for key in policy.reads}
        self.following = {
            key: torch.cat([each[key][1:] for each in seen]) for key in policy.reads if following
        }
        self.action = torch.from_numpy(np.concatenate([episode.action for episode in episodes]))

    def __len__(self) -> int:
        return len(self.action)


class Descent(Generic[P, C]):
    """AdamW on raw weights, their running mean, and the state of both.

    `policy` always holds the averaged weights: the ones to act with and to save. `_raw` is what learns.
    """

    def __init__(self, policy: P, config: C) -> None:
        self.policy, self.config, self.total_updates = policy, config, config.updates
        self._raw = copy.deepcopy(policy)
        self._parameters = list(self._raw.parameters())
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self._updates = 0

    def _learning_rate(self) -> float:
        """Of the next update."""
        return self.config.lr

    def _descend(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self.config.grad_clip)
        self._optimiser.step()
        self._updates += 1
        # A young average trusts the newest weights more.
        decay = min(self.config.ema, self._updates / (self._updates + 10)) if self.config.ema else 0.0
        move_towards(self.policy, self._raw, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "raw": self._raw.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self._raw.load_state_dict(state["raw"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._updates = state["updates"]


class Cloner(Descent[P, BCConfig]):
    """What the cloning of any policy shares."""

    def _draw(self, frames: Frames, rows: Tensor) -> dict[str, Tensor]:
        """The observations of `rows` (B,), pictures augmented."""
        observations = {key: value[rows] for key, value in frames.observations.items()}
        if schema.IMAGE in observations and self.config.augmentation:
            observations[schema.IMAGE] = augment_images(
                observations[schema.IMAGE], self.config.augmentation, self._generator
            )
        return observations

    def _learning_rate(self) -> float:
        """Linear warm-up times lr/2 (1 + cos(pi t / T))."""
        ramp = min(1.0, (self._updates + 1) / max(self.config.warmup, 1))
        fallen = 0.5 * (1 + math.cos(math.pi * self._updates / self.total_updates))
        return ramp * self.config.lr * fallen


class BCLearner(Cloner[ActorPolicy]):
    """Trains `policy` on `episodes`; one update is one gradient step. A `trainers.protocols.Learner`.

    Raises:
        DataError: no episodes, or an episode lacks what the policy reads.
    """

    def __init__(self, policy: ActorPolicy, episodes: Sequence[Episode], config: BCConfig) -> None:
        if not episodes:
            raise DataError("no episodes to clone; expected at least 1: collect demonstrations first")
        super().__init__(policy, config)
        order = np.random.default_rng(config.seed).permutation(len(episodes))
        held_out = min(math.ceil(config.holdout * len(episodes)), len(episodes) - 1)
        self.frames = Frames([episodes[i] for i in order[held_out:]], policy)
        self.validation = [episodes[i] for i in order[:held_out]]
        self._held_out = Frames(self.validation, policy) if held_out else None

    def update(self) -> dict[str, float]:
        """One gradient step; every `validate_every` also the held-out loss of the averaged policy."""
        config = self.config
        rows = torch.randint(len(self.frames), (config.batch,), generator=self._generator)
        observations = self._draw(self.frames, rows)
        if config.state_noise:
            state = observations[schema.STATE]
            noise = torch.randn(state.shape, generator=self._generator) * self.policy.state_std.cpu()
            observations[schema.STATE] = state + config.state_noise * noise
        loss, metrics = self._loss(self._raw, observations, self.frames.action[rows])
        self._descend(loss)
        if self._held_out is not None and self._updates % config.validate_every == 0:
            metrics |= {f"validation_{name}": value for name, value in self._validate(self._held_out).items()}
        return metrics

    def _loss(
        self, policy: ActorPolicy, observations: dict[str, Tensor], action: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        device = policy.device
        action = action.to(device)
        distribution = policy(policy.features({k: v.to(device) for k, v in observations.items()}))
        nll = -distribution.log_prob(action).mean()
        mse = (distribution.mean - action).square().mean()
        return nll + self.config.mse_weight * mse, {"nll": nll.item(), "mse": mse.item()}

    @torch.no_grad()
    def _validate(self, frames: Frames) -> dict[str, float]:
        totals: dict[str, float] = {}
        for rows in torch.arange(len(frames)).split(256):
            observations = {key: value[rows] for key, value in frames.observations.items()}
            for name, value in self._loss(self.policy, observations, frames.action[rows])[1].items():
                totals[name] = totals.get(name, 0.0) + value * len(rows) / len(frames)
        return totals


def baselines(train: Sequence[Episode], test: Sequence[Episode]) -> dict[str, float]:
    """Mean squared error on `test` of two policies that see nothing.

    `mean_action`: the mean of `train`'s actions. `last_action`: the action of the step before (at the
    first step the mean).
    """
    mean = np.concatenate([episode.action for episode in train]).mean(0)
    actual = np.concatenate([episode.action for episode in test])
    last = np.concatenate([np.vstack([mean[None], episode.action[:-1]]) for episode in test])
    return {
        "mean_action": float(np.square(mean - actual).mean()),
        "last_action": float(np.square(last - actual).mean()),
    }


def evaluate_mse(policy: ActorPolicy, episodes: Sequence[Episode]) -> float:
    """Mean squared error of the policy's deterministic action against the executed one."""
    errors = [np.square(predict(policy, episode) - episode.action) for episode in episodes]
    return float(np.concatenate(errors).mean())


def predict(policy: ActorPolicy, episode: Episode) -> npt.NDArray[np.float32]:
    """The policy's deterministic actions (T, A) along a recorded episode."""
    return policy.act_from_features(policy.encode(episode)[:-1]).cpu().numpy()
