"""`ActorPolicy`: the one policy of every stage, so that each stage starts from the one before.

observation -> features (keypoints of the picture, normalised state) -> trunk -> action distribution.
B batch, F features, S state, A action, H x W pixels, K bins.
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

from robot_rl.agents.distributions import ActionDistribution, Gaussian, TwoHotHistogram, sample
from robot_rl.agents.networks import MLP, EncoderConfig, PixelEncoder, seeded
from robot_rl.data import Episode, schema
from robot_rl.data.artifact import Artifact, load_artifact, save_artifact
from robot_rl.data.statistics import Statistics
from robot_rl.data.two_hot import TwoHot
from robot_rl.errors import ConfigError, DataError, unknown

HEADS = ("gaussian", "two_hot")
STATE_LIMIT = 10.0
"""Normalised states are clipped here: a broken sensor must not throw the network off its scale."""


@dataclass(frozen=True)
class PolicyConfig:
    state_dim: int = 7
    action_dim: int = 7
    image_shape: tuple[int, int] | None = (64, 64)
    """(H, W) of the front camera, or None for a policy of the state alone."""
    head: str = "gaussian"
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    bins: int = 21
    min_std: float = 0.01
    max_std: float = 1.0
    """World4RL clips sigma at e^0 rather than the usual e^2: worth 14 points inside a world model."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise unknown("policy head", self.head, HEADS)
        if self.state_dim < 1 or self.action_dim < 1 or self.bins < 2:
            raise ConfigError(
                f"policy has state_dim={self.state_dim}, action_dim={self.action_dim}, bins={self.bins}; "
                "expected at least 1, 1 and 2"
            )
        if not 0 < self.min_std < self.max_std:
            raise ConfigError(
                f"policy has min_std={self.min_std}, max_std={self.max_std}; expected 0 < min < max"
            )


class ActorPolicy(nn.Module):
    """A policy over observations: `schema.STATE` (B, S) and, with pictures, `schema.IMAGE` (B, H, W, 3).

    `features` is separate from the rest, so that a frozen encoder's features can be stored instead of
    pictures. `statistics` normalise the state; without them it is taken as it is.
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: PolicyConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.config, self.statistics = config, statistics
        outputs = config.action_dim * (2 if config.head == "gaussian" else config.bins)
        with seeded(config.seed):
            self.encoder = PixelEncoder(config.encoder, config.image_shape) if config.image_shape else None
            self.feature_dim = config.state_dim + (self.encoder.features if self.encoder else 0)
            self.trunk = MLP(self.feature_dim, config.hidden, outputs, layer_norm=config.layer_norm)
        self._codec = TwoHot(config.bins)
        mean, std = np.zeros(config.state_dim), np.ones(config.state_dim)
        if statistics is not None:
            mean, std = statistics.features[schema.STATE].mean, statistics.features[schema.STATE].scale
            if mean.shape != (config.state_dim,):
                raise ConfigError(
                    f"statistics are of states of shape {mean.shape}; expected ({config.state_dim},): "
                    "use those of this policy's own data, or set state_dim"
                )
        self.register_buffer("state_mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("state_std", torch.as_tensor(std, dtype=torch.float32))

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    def features(self, observations: Mapping[str, Tensor]) -> Tensor:
        """(B, F): what the trunk and the critics see."""
        state = (observations[schema.STATE] - self.state_mean) / self.state_std
        state = state.clamp(-STATE_LIMIT, STATE_LIMIT)
        if self.encoder is None:
            return state
        return torch.cat([self.encoder(observations[schema.IMAGE]), state], dim=-1)

    @torch.no_grad()
    def encode(self, episode: Episode) -> Tensor:
        """Features (T+1, F) of a recorded episode's observations.

        Raises:
            DataError: the episode lacks what the policy reads.
        """
        keys = (schema.STATE,) if self.encoder is None else (schema.STATE, schema.IMAGE)
        if missing := [key for key in keys if key not in episode.observations]:
            raise DataError(
                f"episode lacks {missing[0]!r}, which the policy reads; it has {sorted(episode.observations)}"
            )
        observations = to_tensors({key: episode.observations[key] for key in keys}, self.device)
        chunks = zip(*(observations[key].split(256) for key in keys), strict=True)
        return torch.cat([self.features(dict(zip(keys, chunk, strict=True))) for chunk in chunks])

    def head(self, features: Tensor) -> Tensor:
        """The distribution's raw parameters (B, P) for features (B, F)."""
        return cast(Tensor, self.trunk(features))

    def distribution(self, raw: Tensor) -> ActionDistribution:
        """What raw parameters (B, P) mean."""
        if self.config.head == "two_hot":
            return TwoHotHistogram(raw.unflatten(-1, (self.config.action_dim, -1)), self._codec)
        mean, width = raw.chunk(2, dim=-1)
        low, high = math.log(self.config.min_std), math.log(self.config.max_std)
        # A smooth clip of log sigma to [low, high]: a hard one would stop its gradient at the limits.
        return Gaussian(torch.tanh(mean), low + (high - low) * torch.sigmoid(width))

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
        policy = cls(_config_from_json(artifact.json("config.json")), statistics)
        policy.load_state_dict(artifact.tensors("model.safetensors"))
        return policy


def _config_from_json(values: dict[str, Any]) -> PolicyConfig:
    def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

    return PolicyConfig(**tuples(values) | {"encoder": EncoderConfig(**tuples(values["encoder"]))})


class PolicyRunner:
    """Acts in a vector of environments: numpy in, numpy out. Implements `trainers.protocols.Policy`.

    A stochastic runner draws each member's noise from a generator seeded by that member's episode, so
    that an episode does not depend on which others share its batch.
    """

    def __init__(self, policy: ActorPolicy, deterministic: bool = True, seed: int = 0) -> None:
        self.policy, self.deterministic, self.seed = policy, deterministic, seed
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
        for key in (schema.STATE, schema.IMAGE)
        if key in observations
    }
