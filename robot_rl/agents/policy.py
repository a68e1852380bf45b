"""`ActorPolicy`: the one policy of every stage, so that each stage starts from the one before.

observation -> features (keypoints of the picture, normalised state, instruction) -> trunk -> action
distribution. B batch, F features, S state, A action, H x W pixels, K bins, L language.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robot_rl.agents.distributions import (
    ActionDistribution,
    Gaussian,
    TanhGaussian,
    TwoHotHistogram,
    sample,
)
from robot_rl.agents.networks import MLP, EncoderConfig, PixelEncoder, seeded
from robot_rl.data import Episode, schema
from robot_rl.data.artifact import Artifact, load_artifact, save_artifact
from robot_rl.data.language import embed
from robot_rl.data.statistics import Statistics
from robot_rl.data.two_hot import TwoHot
from robot_rl.errors import ConfigError, DataError, unknown

HEADS = ("gaussian", "two_hot", "tanh_gaussian")
BETA_FEATURES = 6
STATE_LIMIT = 10.0
"""Normalised states are clipped here: a broken sensor must not throw the network off its scale."""


@dataclass(frozen=True)
class PolicyConfig:
    state_dim: int = 7
    action_dim: int = 7
    image_shape: tuple[int, int] | None = (64, 64)
    """(H, W) of the front camera, or None for a policy of the state alone."""
    language_dim: int = 0
    """L: size of the instruction's vector; 0 for a policy of one task, which is told nothing."""
    instruction: str = ""
    """What a policy with language is told where nobody says otherwise."""
    head: str = "gaussian"
    """`gaussian`: about a squashed mean, clipped where it acts. `tanh_gaussian`: squashed as a whole (SAC).
    `two_hot`: a histogram of `bins`."""
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    bins: int = 21
    min_std: float = 0.01
    max_std: float = 1.0
    """World4RL clips sigma at e^0 rather than the usual e^2: worth 14 points inside a world model."""
    family: tuple[float, float] | None = None
    """A family of policies, one for each trade-off beta in this range, and a network that chooses beta by
    the state (FamO2O, `robot_rl.agents.famo2o`); None for a single policy."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise unknown("policy head", self.head, HEADS)
        if self.state_dim < 1 or self.action_dim < 1 or self.bins < 2:
            raise ConfigError(
                f"policy has state_dim={self.state_dim}, action_dim={self.action_dim}, bins={self.bins}; "
                "expected at least 1, 1 and 2"
            )
        if self.language_dim < 0:
            raise ConfigError(f"policy has language_dim={self.language_dim}; expected at least 0")
        if self.family is not None and not self.family[0] < self.family[1]:
            raise ConfigError(f"policy has family={self.family}; expected (low, high) with low < high")
        if not 0 < self.min_std < self.max_std:
            raise ConfigError(
                f"policy has min_std={self.min_std}, max_std={self.max_std}; expected 0 < min < max"
            )


class ActorPolicy(nn.Module):
    """A policy over observations: `schema.STATE` (B, S) and, with pictures, `schema.IMAGE` (B, H, W, 3).

    With `language_dim` also `schema.LANGUAGE` (B, L): where an episode does not hold it, the vector of its
    instruction; where an environment does not give it, that of `config.instruction`. `features` is separate
    from the rest, so that a frozen encoder's features can be stored instead of pictures. `statistics`
    normalise the state; without them it is taken as it is.
    """

    state_mean: Tensor
    state_std: Tensor
    _told: Tensor

    def __init__(self, config: PolicyConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.config, self.statistics = config, statistics
        outputs = config.action_dim * (config.bins if config.head == "two_hot" else 2)
        with seeded(config.seed):
            self.encoder = PixelEncoder(config.encoder, config.image_shape) if config.image_shape else None
            self.feature_dim = (
                config.state_dim + (self.encoder.features if self.encoder else 0) + config.language_dim
            )
            inputs = self.feature_dim + (BETA_FEATURES if config.family else 0)
            self.trunk = MLP(inputs, config.hidden, outputs, layer_norm=config.layer_norm)
            self.balance = MLP(self.feature_dim, config.hidden, 2) if config.family else None
        self._codec = TwoHot(config.bins)
        mean, std = np.zeros(config.state_dim), np.ones(config.state_dim)
        if statistics is not None:
            mean, std = statistics.features[schema.STATE].mean, statistics.features[schema.STATE].scale
            if mean.shape != (config.state_dim,):
                raise ConfigError(
                    f"statistics are of states of shape {mean.shape}; expected ({config.state_dim},): "
                    "use those of this policy's own data, or set state_dim"
                )
        if config.language_dim:
            told = torch.from_numpy(embed(config.instruction, config.language_dim))
            self.register_buffer("_told", told, persistent=False)
        self.register_buffer("state_mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("state_std", torch.as_tensor(std, dtype=torch.float32))

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    @property
    def reads(self) -> tuple[str, ...]:
        """The observations that it reads."""
        keys = (schema.STATE,) if self.encoder is None else (schema.STATE, schema.IMAGE)
        return (*keys, schema.LANGUAGE) if self.config.language_dim else keys

    def features(self, observations: Mapping[str, Tensor]) -> Tensor:
        """(B, F): what the trunk and the critics see."""
        state = (observations[schema.STATE] - self.state_mean) / self.state_std
        state = state.clamp(-STATE_LIMIT, STATE_LIMIT)
        parts = [state] if self.encoder is None else [self.encoder(observations[schema.IMAGE]), state]
        if self.config.language_dim:
            told = observations.get(schema.LANGUAGE)
            parts.append(self._told.expand(len(state), -1) if told is None else told)
        return torch.cat(parts, dim=-1) if len(parts) > 1 else state

    def observations(self, episode: Episode) -> dict[str, Tensor]:
        """What it reads of a recorded episode, name -> (T+1, ...).

        Raises:
            DataError: the episode lacks it.
        """
        found = dict(episode.observations)
        if self.config.language_dim and schema.LANGUAGE not in found:
            vector = embed(episode.metadata.instruction, self.config.language_dim)
            found[schema.LANGUAGE] = np.repeat(vector[None], len(episode) + 1, 0)
        if missing := [key for key in self.reads if key not in found]:
            raise DataError(
                f"episode lacks {missing[0]!r}, which the policy reads; it has {sorted(episode.observations)}"
            )
        if self.config.language_dim and found[schema.LANGUAGE].shape[1] != self.config.language_dim:
            raise DataError(
                f"episode's {schema.LANGUAGE!r} has {found[schema.LANGUAGE].shape[1]} numbers; "
                f"expected the policy's language_dim={self.config.language_dim}"
            )
        return to_tensors({key: found[key] for key in self.reads})

    @torch.no_grad()
    def encode(self, episode: Episode) -> Tensor:
        """Features (T+1, F) of a recorded episode's observations.

        Raises:
            DataError: the episode lacks what the policy reads.
        """
        observations = {key: value.to(self.device) for key, value in self.observations(episode).items()}
        chunks = zip(*(observations[key].split(256) for key in self.reads), strict=True)
        return torch.cat([self.features(dict(zip(self.reads, chunk, strict=True))) for chunk in chunks])

    def head(self, features: Tensor) -> Tensor:
        """The distribution's raw parameters (B, P) for features (B, F); of a family, its choice's."""
        if self.balance is None:
            return cast(Tensor, self.trunk(features))
        return self.member(features, self.trade_off(features).mean)

    def trade_off(self, features: Tensor) -> TanhGaussian:
        """Which member of the family fits each state: a distribution of (B, 1) in [-1, 1]."""
        assert self.balance is not None
        mean, width = self.balance(features).chunk(2, dim=-1)
        return TanhGaussian(mean, self._log_std(width))

    def member(self, features: Tensor, choice: Tensor) -> Tensor:
        """Raw parameters (B, P) of the family's member `choice` (B, 1) in [-1, 1], low to high beta."""
        return cast(Tensor, self.trunk(torch.cat([features, beta_features(choice)], dim=-1)))

    def distribution(self, raw: Tensor) -> ActionDistribution:
        """What raw parameters (B, P) mean."""
        if self.config.head == "two_hot":
            return TwoHotHistogram(raw.unflatten(-1, (self.config.action_dim, -1)), self._codec)
        mean, width = raw.chunk(2, dim=-1)
        if self.config.head == "tanh_gaussian":
            return TanhGaussian(mean, self._log_std(width))
        return Gaussian(torch.tanh(mean), self._log_std(width))

    def _log_std(self, width: Tensor) -> Tensor:
        """A smooth clip of log sigma to its limits: a hard one would stop its gradient there."""
        low, high = math.log(self.config.min_std), math.log(self.config.max_std)
        return low + (high - low) * torch.sigmoid(width)

    def forward(self, features: Tensor) -> ActionDistribution:
        """pi(. | features (B, F))."""
        return self.distribution(self.head(features))

    @torch.no_grad()
    def act_from_features(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions (B, A) in [-1, 1]: a sample, or the mean without a generator."""
        distribution = self(features)
        action = distribution.mean if generator is None else sample(distribution, generator)
        return action.clamp(-1, 1)

    def save(self, path: str | Path, metadata: Mapping[str, Any]) -> None:
        """Write the policy as an artifact of kind `policy`; `metadata` (task ...) can be asked for again.

        Raises:
            DataError: the place cannot be written; an older policy there is unchanged.
        """
        config = dataclasses.asdict(self.config)
        shapes = {name: config[name] for name in ("state_dim", "action_dim", "image_shape", "head")}
        files: dict[str, Any] = {"model.safetensors": self.state_dict(), "config.json": config}
        if self.statistics is not None:
            files["statistics.json"] = self.statistics.to_json().encode()
        save_artifact(path, "policy", files, shapes | dict(metadata))

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> ActorPolicy:
        """Read what `save` wrote. `expect`: metadata (task, state_dim, image_shape ...) it must have.

        Raises:
            DataError: missing, damaged, or other than expected; the message names what differs.
        """
        return cls.from_artifact(load_artifact(path, "policy", expect))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> ActorPolicy:
        """The policy in a checked artifact that holds the files of `save`, such as a bundle."""
        statistics = None
        if "statistics.json" in artifact.files:
            statistics = Statistics.from_json(artifact.bytes("statistics.json").decode())
        policy = cls(policy_config_from_json(artifact.json("config.json")), statistics)
        policy.load_state_dict(artifact.tensors("model.safetensors"))
        return policy


def policy_config_from_json(values: dict[str, Any]) -> PolicyConfig:
    """The configuration that `ActorPolicy.save` wrote."""

    def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

    return PolicyConfig(**tuples(values) | {"encoder": EncoderConfig(**tuples(values["encoder"]))})


def beta_features(choice: Tensor) -> Tensor:
    """FamO2O's features (B, 6) of a trade-off in [-1, 1]: sin and cos of pi/2, pi and 2 pi times it."""
    angle = choice * (math.pi * torch.tensor([0.5, 1.0, 2.0], device=choice.device))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PolicyRunner:
    """Acts in a vector of environments: numpy in, numpy out. Implements `trainers.protocols.Policy`.

    A stochastic runner draws each member's noise from a generator seeded by that member's episode, so
    that an episode does not depend on which others share its batch. A policy with language is told
    `instruction`, if it is given, where the observations hold no vector; it may change between episodes.
    """

    def __init__(
        self, policy: ActorPolicy, deterministic: bool = True, seed: int = 0, instruction: str | None = None
    ) -> None:
        self.policy, self.deterministic, self.seed = policy, deterministic, seed
        self.instruction = instruction
        self._noise: list[np.random.Generator] = []

    def reset(self, mask: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int64]) -> None:
        """Start new episodes where `mask` (N,) is true; `seeds` (N,) are theirs."""
        if len(self._noise) != len(mask):
            self._noise = [np.random.default_rng(self.seed) for _ in mask]  # members that stay idle
        for member in np.flatnonzero(mask):
            self._noise[member] = np.random.default_rng([self.seed, int(seeds[member])])

    @torch.no_grad()
    def act(self, observations: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Actions (N, A) in [-1, 1]."""
        size = self.policy.config.language_dim
        if size and self.instruction is not None and schema.LANGUAGE not in observations:
            vector = np.repeat(embed(self.instruction, size)[None], len(observations[schema.STATE]), 0)
            observations = {**observations, schema.LANGUAGE: vector}
        features = self.policy.features(to_tensors(observations, self.policy.device))
        distribution = self.policy(features)
        if self.deterministic:
            action = distribution.mean
        else:
            levels = np.stack([noise.random(self.policy.config.action_dim) for noise in self._noise])
            action = distribution.quantile(torch.as_tensor(levels, dtype=torch.float32).to(features))
        return cast("npt.NDArray[np.float32]", action.clamp(-1, 1).cpu().numpy())


def to_tensors(
    observations: Mapping[str, npt.NDArray[Any]], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The parts of an observation that a policy reads, as tensors without a copy where possible."""
    return {
        key: torch.as_tensor(np.asarray(observations[key]), device=device)
        for key in (schema.STATE, schema.IMAGE, schema.LANGUAGE)
        if key in observations
    }
