"""RLPD: reinforcement learning with prior data (Ball et al., arXiv 2302.02948).

From scratch, without an offline stage: ten critics with LayerNorm, targets from a random two, many critic
steps for each environment step, every batch half prior data and half practice, random first steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.agents.policy import ActorPolicy, PolicyRunner
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import Episode
from robot_rl.data.replay import ReplayBuffer
from robot_rl.errors import ConfigError


def paper_sac() -> SACConfig:
    """The paper's SAC: learned temperature from 1, a plain -Q, no anchors. (AntMaze and Adroit: 256 x 3 and
    no entropy in the backup, which is what `entropy_backup=False` stands for here.)"""
    return SACConfig(
        critics=10,
        target_subset=2,
        layer_norm=True,
        actor_lr=3e-4,
        critic_lr=3e-4,
        temperature=1.0,
        learn_temperature=True,
        normalise_q=False,
    )


@dataclass(frozen=True)
class RLPDConfig(WSRLConfig):
    """`WSRLConfig` with the paper's figures, and `random_steps`."""

    sac: SACConfig = field(default_factory=paper_sac)
    critic_steps: int = 20
    offline_ratio: float = 0.5
    random_steps: int = 5000
    """Environment steps at the start that are taken uniformly at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_steps < 0:
            raise ConfigError(f"rlpd.random_steps={self.random_steps}; expected at least 0")


class RLPD(WSRL):
    """`WSRL` that mixes in the prior data and starts with random actions."""

    def __init__(
        self,
        policy: ActorPolicy,
        config: RLPDConfig,
        offline: ReplayBuffer | None = None,
        agent: SAC | None = None,
    ) -> None:
        super().__init__(policy, config, offline, agent)
        self._random_left = config.random_steps

    def behaviour(self) -> PolicyRunner:
        """Uniform actions until the first steps are done, then the exploring policy as it is now."""
        if self._random_left > 0:
            return UniformRunner(self.policy, deterministic=False, seed=self.config.seed)
        return super().behaviour()

    def add_episode(self, episode: Episode) -> None:
        super().add_episode(episode)
        self._random_left -= len(episode)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"random_left": self._random_left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._random_left = state["random_left"]


class UniformRunner(PolicyRunner):
    """Acts uniformly in [-1, 1], each member from its own episode's seed."""

    def act(self, observations: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Actions (N, A) in [-1, 1]."""
        levels = np.stack([noise.random(self.policy.config.action_dim) for noise in self._noise])
        return (2 * levels - 1).astype(np.float32)
