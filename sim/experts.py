"""Who acts before anything has been learnt: noisy scripted experts, and random motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.spec import Observation
from sim.vector import ParallelVectorEnv


@dataclass(frozen=True)
class ExpertConfig:
    """Noise of a scripted expert.

    Attributes:
        noise: standard deviation of the Gaussian added to each action number but the gripper's.
        scale_range: if given, each episode multiplies `noise` by a factor drawn uniformly from it.
    """

    noise: float = 0.0
    scale_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ConfigError(f"expert noise={self.noise}; expected at least 0")
        if self.scale_range is not None and not 0 <= self.scale_range[0] <= self.scale_range[1]:
            raise ConfigError(f"expert scale_range={self.scale_range}; expected 0 <= low <= high")


class ExpertPolicy:
    """The environment's scripted expert plus noise, repeatable from the episodes' seeds."""

    def __init__(
        self,
        vec_env: ParallelVectorEnv,
        noise: float = 0.0,
        scale_range: tuple[float, float] | None = None,
    ) -> None:
        self.config = ExpertConfig(noise, scale_range)
        self._vec_env = vec_env
        self._generators = [np.random.default_rng(0) for _ in range(vec_env.num_envs)]
        self._scale = np.ones(vec_env.num_envs)

    def reset(self, mask: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int64]) -> None:
        """Start new episodes where `mask` (N,) is true; `seeds` (N,) seed their noise."""
        for index in np.flatnonzero(mask):
            generator = self._generators[index] = _generator(seeds[index])
            if self.config.scale_range is not None:
                self._scale[index] = generator.uniform(*self.config.scale_range)

    def act(self, observations: Observation) -> npt.NDArray[np.float32]:
        """Actions (N, A) in [-1, 1]. The scripted expert looks at the simulator, not at `observations`."""
        actions = self._vec_env.expert_actions()
        for index, generator in enumerate(self._generators):
            noise = generator.standard_normal(actions.shape[1] - 1) * self.config.noise * self._scale[index]
            actions[index, :-1] += noise.astype(np.float32)
        return np.clip(actions, -1.0, 1.0)


@dataclass(frozen=True)
class RandomConfig:
    """Temporally correlated random motion.

    Attributes:
        scale: standard deviation of each action number.
        correlation: of successive actions, in [0, 1); .8 keeps a direction for about a second.
        home: x, y, z [m] towards which the tool is drawn, so that it stays in the workspace.
        pull: strength of that draw, action units per metre.
    """

    scale: float = 0.5
    correlation: float = 0.8
    home: tuple[float, float, float] = (0.3, 0.0, 0.08)
    pull: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1 or not self.scale >= 0:
            raise ConfigError(
                f"random policy scale={self.scale}, correlation={self.correlation}; "
                "expected scale >= 0, 0 <= correlation < 1"
            )


class RandomPolicy:
    """An Ornstein-Uhlenbeck walk in action space, drawn towards `RandomConfig.home`."""

    def __init__(self, num_envs: int, action_size: int = 7, config: RandomConfig | None = None) -> None:
        self.config = config or RandomConfig()
        self._generators = [np.random.default_rng(0) for _ in range(num_envs)]
        self._walk = np.zeros((num_envs, action_size))

    def reset(self, mask: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int64]) -> None:
        """Start new episodes where `mask` (N,) is true; `seeds` (N,) seed their motion."""
        for index in np.flatnonzero(mask):
            self._generators[index] = _generator(seeds[index])
            self._walk[index] = self._generators[index].standard_normal(self._walk.shape[1])

    def act(self, observations: Observation) -> npt.NDArray[np.float32]:
        """Actions (N, A): w <- c w + sqrt(1 - c^2) n; a = scale w + pull (home - tool)."""
        c = self.config.correlation
        for index, generator in enumerate(self._generators):
            fresh = generator.standard_normal(self._walk.shape[1])
            self._walk[index] = c * self._walk[index] + np.sqrt(1 - c * c) * fresh
        actions = self.config.scale * self._walk
        actions[:, :3] += self.config.pull * (np.array(self.config.home) - observations[schema.STATE][:, :3])
        return np.clip(actions, -1.0, 1.0).astype(np.float32)


def _generator(seed: int) -> np.random.Generator:
    """A stream of its own for the actor: the environment draws from the bare seed."""
    return np.random.default_rng([abs(int(seed)), 1])
