"""Diffusion policy: a second class of cloned policy, that draws several actions at once by denoising.

Chi et al., "Diffusion Policy" (arXiv 2303.04137), with an MLP in the place of the U-Net: k actions are few.
B batch, F features, A action dimensions, k actions a chunk. It has no density, so PPO and the critics of the
later stages cannot take it over: it stands beside the Gaussian and the two-hot policy for comparison.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robot_rl import torchvision_compat  # noqa: F401  (diffusers imports torchvision)
from robot_rl.agents.bc import BCConfig, Cloner, Frames
from robot_rl.agents.networks import MLP, seeded
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, policy_config_from_json, to_tensors
from robot_rl.data import Episode
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.data.statistics import Statistics
from robot_rl.errors import ConfigError, DataError

from diffusers import DDIMScheduler  # isort: skip

KIND = "diffusion_policy"
TIME_FEATURES = 32


@dataclass(frozen=True)
class DiffusionPolicyConfig:
    observation: PolicyConfig = field(default_factory=PolicyConfig)
    """What is seen, and through which encoder; its head is not used."""
    chunk: int = 4
    """k, actions denoised together."""
    execute: int = 2
    """Of them, those acted out before the next look."""
    hidden: tuple[int, ...] = (512, 512, 512)
    levels: int = 50
    """Noise levels of training."""
    steps: int = 10
    """DDIM steps of an action."""

    def __post_init__(self) -> None:
        if not 1 <= self.execute <= self.chunk or not 1 <= self.steps <= self.levels:
            raise ConfigError(
                f"diffusion policy has execute={self.execute} of chunk={self.chunk}, steps={self.steps} of "
                f"levels={self.levels}; expected 1 <= execute <= chunk and 1 <= steps <= levels"
            )


class DiffusionPolicy(nn.Module):
    """Features (B, F) -> k actions (B, k, A) in [-1, 1]."""

    def __init__(self, config: DiffusionPolicyConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.config = config
        self.eyes = ActorPolicy(config.observation, statistics)
        del self.eyes.trunk  # its features alone are used
        actions = config.chunk * config.observation.action_dim
        with seeded(config.observation.seed):
            width = self.eyes.feature_dim + actions + TIME_FEATURES
            self.network = MLP(width, config.hidden, actions, activation="silu", layer_norm=True)
        # The target is the clean action: at these few levels steadier than the noise.
        self.scheduler: Any = DDIMScheduler(
            num_train_timesteps=config.levels,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=True,
        )

    @property
    def device(self) -> torch.device:
        return self.eyes.device

    def denoise(self, features: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The clean actions (B, k, A) that `noisy` (B, k, A) at noise levels (B,) come from."""
        inputs = torch.cat([features, noisy.flatten(1), _time_features(level, self.config.levels)], 1)
        return self.network(inputs).view_as(noisy)

    def loss(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """E |D(sqrt(abar_t) a + sqrt(1 - abar_t) eps, t) - a|^2 over t and eps."""
        level = torch.randint(self.config.levels, (len(actions),), generator=generator).to(actions.device)
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        noisy = self.scheduler.add_noise(actions, noise, level)
        return (self.denoise(features, noisy, level) - actions).square().mean()

    @torch.no_grad()
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Actions (B, k, A) from standard normal `noise` of the same shape, by DDIM."""
        actions = noise
        self.scheduler.set_timesteps(self.config.steps)
        for time in self.scheduler.timesteps:
            clean = self.denoise(features, actions, time.expand(len(actions)).to(actions.device))
            actions = self.scheduler.step(clean, time, actions).prev_sample
        return actions.clamp(-1, 1)

    def save(self, path: str | Path, metadata: Mapping[str, Any]) -> None:
        """Write an artifact of kind `diffusion_policy`.

        Raises:
            DataError: the place cannot be written.
        """
        files: dict[str, Any] = {
            "model.safetensors": self.state_dict(),
            "config.json": dataclasses.asdict(self.config),
        }
        if self.eyes.statistics is not None:
            files["statistics.json"] = self.eyes.statistics.to_json().encode()
        save_artifact(path, KIND, files, metadata)

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> DiffusionPolicy:
        """Read what `save` wrote.

        Raises:
            DataError: missing, damaged, or other than expected.
        """
        artifact = load_artifact(path, KIND, expect)
        values = artifact.json("config.json")
        values |= {
            "observation": policy_config_from_json(values["observation"]),
            "hidden": tuple(values["hidden"]),
        }
        statistics = None
        if "statistics.json" in artifact.files:
            statistics = Statistics.from_json(artifact.bytes("statistics.json").decode())
        policy = cls(DiffusionPolicyConfig(**values), statistics)
        policy.load_state_dict(artifact.tensors("model.safetensors"))
        return policy


def _time_features(level: Tensor, levels: int) -> Tensor:
    """Sines and cosines (B, TIME_FEATURES) of t / levels, up to 16 turns."""
    turns = torch.linspace(0.5, 16, TIME_FEATURES // 2, device=level.device)
    angles = 2 * math.pi * turns * (level.float() / levels)[:, None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class DiffusionBCLearner(Cloner[DiffusionPolicy]):
    """Trains a diffusion policy on chunks of demonstrations. A `trainers.protocols.Learner`.

    `mse_weight`, `state_noise` and `holdout` play no part.

    Raises:
        DataError: no episodes, or one lacks what the policy reads.
    """

    def __init__(self, policy: DiffusionPolicy, episodes: Sequence[Episode], config: BCConfig) -> None:
        if not episodes:
            raise DataError("no episodes to clone; expected at least 1: collect demonstrations first")
        super().__init__(policy, config)
        self.frames = Frames(episodes, policy.eyes)
        self.chunks = torch.cat([chunks(episode, policy.config.chunk) for episode in episodes])

    def update(self) -> dict[str, float]:
        """One gradient step."""
        rows = torch.randint(len(self.chunks), (self.config.batch,), generator=self._generator)
        device = self.policy.device
        seen = {key: value.to(device) for key, value in self._draw(self.frames, rows).items()}
        loss = self._raw.loss(self._raw.eyes.features(seen), self.chunks[rows].to(device), self._generator)
        self._descend(loss)
        return {"denoising_loss": loss.item()}


def chunks(episode: Episode, length: int) -> Tensor:
    """The `length` actions from each step on, (T, length, A); past the end the last one is repeated."""
    steps = np.arange(len(episode))[:, None] + np.arange(length)
    return torch.from_numpy(episode.action[np.minimum(steps, len(episode) - 1)])


class DiffusionRunner:
    """Acts in a vector of environments. Implements `trainers.protocols.Policy`.

    Each member acts out `execute` of its k actions, then looks again; its noise comes from a generator
    seeded by its episode.
    """

    def __init__(self, policy: DiffusionPolicy, seed: int = 0) -> None:
        self.policy, self.seed = policy, seed
        self._noise: list[np.random.Generator] = []
        self._queue: list[list[npt.NDArray[np.float32]]] = []

    def reset(self, mask: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int64]) -> None:
        """Start new episodes where `mask` (N,) is true; `seeds` (N,) are theirs."""
        if len(self._noise) != len(mask):
            self._noise = [np.random.default_rng(self.seed) for _ in mask]
            self._queue = [[] for _ in mask]
        for member in np.flatnonzero(mask):
            self._noise[member] = np.random.default_rng([self.seed, int(seeds[member])])
            self._queue[member] = []

    @torch.no_grad()
    def act(self, observations: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Actions (N, A) in [-1, 1]."""
        empty = [member for member, queue in enumerate(self._queue) if not queue]
        if empty:
            config, policy = self.policy.config, self.policy
            seen = {key: value[empty] for key, value in observations.items()}
            features = policy.eyes.features(to_tensors(seen, policy.device))
            shape = (config.chunk, config.observation.action_dim)
            noise = np.stack([self._noise[member].standard_normal(shape) for member in empty])
            drawn = policy.sample(features, torch.as_tensor(noise).to(features)).cpu().numpy()
            for member, actions in zip(empty, drawn, strict=True):
                self._queue[member] = list(actions[: config.execute])
        return np.stack([queue.pop(0) for queue in self._queue])
