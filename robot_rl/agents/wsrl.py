"""WSRL: go on online from offline critics, without keeping the offline data.

Zhou et al., arXiv 2412.07762. The warm-up (practice with the initial policy, no updates) fills the
buffer with what the policy does by itself; after it, SAC with many critic steps for each environment
step. `offline_ratio=.5` retains the offline data instead, as RLPD does (arXiv 2302.02948).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robot_rl.agents.networks import move_towards
from robot_rl.agents.observe import imitable
from robot_rl.agents.policy import ActorPolicy, PolicyRunner
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.data import Episode
from robot_rl.data.replay import Mixer, ReplayBuffer, ReplayConfig
from robot_rl.errors import ConfigError, DataError


@dataclass(frozen=True)
class WSRLConfig:
    sac: SACConfig = field(default_factory=SACConfig)
    replay: ReplayConfig = field(default_factory=lambda: ReplayConfig(capacity=100_000))
    batch: int = 256
    critic_steps: int = 4
    """Critic steps for each step of the actor (WSRL's UTD 4)."""
    offline_ratio: float = 0.0
    """Share of each batch that comes from the offline buffer."""
    average: float = 0.0
    """Decay, a round of practice, of the running mean of the actor's weights that `averaged` holds; 0 for
    the last weights. A policy swings from round to round, and its mean does so less."""
    warmup_steps: int = 0
    """Transitions that the online buffer must hold before anything is updated."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "critic_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"wsrl.{name}={getattr(self, name)}; expected at least 1")
        for name in ("offline_ratio", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"wsrl.{name}={getattr(self, name)}; expected 0 <= {name} < 1")
        if self.warmup_steps < 0:
            raise ConfigError(f"wsrl.warmup_steps={self.warmup_steps}; expected at least 0")


class WSRL:
    """An online agent that owns its buffer. Implements `trainers.online.OnlineAgent`.

    Args:
        policy: acts and learns.
        config: sizes.
        offline: transitions to mix in; needed if `offline_ratio` is above 0.
        agent: learns in place of a plain `SAC` of `policy`.
    """

    def __init__(
        self,
        policy: ActorPolicy,
        config: WSRLConfig,
        offline: ReplayBuffer | None = None,
        agent: SAC | None = None,
    ) -> None:
        if config.offline_ratio > 0 and offline is None:
            raise DataError(
                f"wsrl.offline_ratio={config.offline_ratio} needs offline transitions; give it some"
            )
        self.policy, self.config, self.offline = policy, config, offline
        self.agent = agent or SAC(policy, config.sac)
        self.averaged = copy.deepcopy(policy)
        """The policy to deploy; `policy` is the one that practises."""
        self.buffer = ReplayBuffer(config.replay)
        self._critic_updates = 0
        self._demonstrated = 0

    def behaviour(self) -> PolicyRunner:
        """The exploring policy as it is now."""
        return PolicyRunner(self.policy, deterministic=False, seed=self.config.seed)

    def add_episode(self, episode: Episode) -> None:
        """Keep an episode's executed actions and rewards, and what the agent learns to see from.

        A person's steps go to the offline buffer, that of the demonstrations, as well (HIL-SERL, arXiv
        2410.21845), if there is one.
        """
        seen, extras = self.agent.observe(episode), self.extras(episode)
        steps = (seen, episode.action, episode.reward, episode.terminated)
        self.buffer.add_episode(*steps, extras=extras)
        if self.offline is not None and episode.is_intervention.any():
            self.offline.add_episode(*steps, extras=extras, only=episode.is_intervention)
            self._demonstrated += int(episode.is_intervention.sum())

    def extras(self, episode: Episode) -> dict[str, Any]:
        """What else a batch holds of an episode, name -> (T,)."""
        return imitable(episode)

    def learn(self, updates: int) -> dict[str, float]:
        """`updates` critic steps on the own buffer, mixed with the offline one; none in the warm-up."""
        if len(self.buffer) < self.config.warmup_steps:
            return {}
        source: ReplayBuffer | Mixer = self.buffer
        if self.config.offline_ratio > 0 and self.offline is not None:
            share = self.config.offline_ratio
            source = Mixer(
                {"online": self.buffer, "offline": self.offline}, {"online": 1 - share, "offline": share}
            )
        metrics = self.update_many(source, updates)
        move_towards(self.averaged, self.policy, 1 - self.config.average)
        return metrics

    def update_many(self, buffer: ReplayBuffer | Mixer, updates: int) -> dict[str, float]:
        """`updates` critic steps, and one of the actor after every `critic_steps` of them; mean metrics."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for _ in range(updates):
            self._critic_updates += 1
            batch = buffer.sample(self.config.batch, self.agent.generator)
            metrics = self.agent.update(batch, actor=self._critic_updates % self.config.critic_steps == 0)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
        return {name: total / counts[name] for name, total in sums.items()}

    def state_dict(self) -> dict[str, Any]:
        state = {
            "agent": self.agent.state_dict(),
            "averaged": self.averaged.state_dict(),
            "buffer": self.buffer.state_dict(),
            "critic_updates": self._critic_updates,
        }
        if self.offline is not None and self._demonstrated:  # otherwise it is as it was given
            state |= {"offline": self.offline.state_dict(), "demonstrated": self._demonstrated}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.averaged.load_state_dict(state["averaged"])
        self.buffer.load_state_dict(state["buffer"])
        self._critic_updates = state["critic_updates"]
        if self.offline is not None and "offline" in state:
            self.offline.load_state_dict(state["offline"])
            self._demonstrated = state["demonstrated"]
