"""Online fine-tuning in the style of WSRL (Zhou et al. 2024): warm up, then learn from fresh data alone.

One update is one batch of episodes and the gradient steps they pay for, so that the environment is at
rest whenever the state is saved: seeds follow from counters, and a resumed run repeats no step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError
from robot_rl.trainers.protocols import Policy
from robot_rl.trainers.rollout import EpisodeOrigin, rollout


class OnlineAgent(Protocol):
    """An off-policy agent that owns its buffer."""

    def behaviour(self) -> Policy:
        """The exploring policy as it is now."""
        ...

    def add_episode(self, episode: Episode) -> None: ...

    def learn(self, updates: int) -> dict[str, float]:
        """Gradient steps; mean metrics."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class OnlineConfig:
    """The online stage.

    Attributes:
        episodes: episodes of practice in all, warm-up included.
        episodes_per_update: collected between two rounds of gradient steps.
        warmup_episodes: collected with the initial policy before anything is updated (WSRL: 5,000 steps).
        utd: gradient steps per environment step.
    """

    episodes: int = 480
    episodes_per_update: int = 16
    warmup_episodes: int = 48
    utd: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_episodes < self.episodes:
            raise ConfigError(
                f"warmup_episodes={self.warmup_episodes} must be >= 0 and below episodes={self.episodes}"
            )
        if self.episodes_per_update < 1 or self.utd <= 0:
            raise ConfigError(
                f"episodes_per_update={self.episodes_per_update} must be >= 1 and utd={self.utd} > 0"
            )


class PracticeLearner(ABC):
    """Learn from what was executed in practice, wherever the episodes come from.

    Args:
        agent: learns; its `add_episode` sees executed actions.
        config: sizes.
        on_episode: for the recorder; called with each episode.
    """

    def __init__(
        self,
        agent: OnlineAgent,
        config: OnlineConfig,
        on_episode: Callable[[Episode], None] | None = None,
    ) -> None:
        self.agent, self.config = agent, config
        self.total_updates = -(-config.episodes // config.episodes_per_update)
        self._on_episode = on_episode
        self._episodes = self._steps = 0
        self._reasons = np.zeros(len(schema.FILTER_REASONS), np.int64)

    @abstractmethod
    def _practise(self) -> list[Episode]:
        """The next `_batch()` episodes, made with the agent's behaviour."""

    def update(self) -> dict[str, float]:
        """Take `episodes_per_update` episodes, then `utd` gradient steps for each of their steps."""
        episodes = self._practise()
        metrics = self._measure(episodes)
        warming_up = self._episodes < self.config.warmup_episodes
        for episode in episodes:
            self.agent.add_episode(episode)
            if self._on_episode is not None:
                self._on_episode(episode)
        self._episodes += len(episodes)
        steps = sum(map(len, episodes))
        self._steps += steps
        if not warming_up:
            metrics |= self.agent.learn(max(1, round(self.config.utd * steps)))
        return metrics | {"env_steps": float(self._steps)}

    def _batch(self) -> int:
        return min(self.config.episodes_per_update, self.config.episodes - self._episodes)

    def _measure(self, episodes: list[Episode]) -> dict[str, float]:
        for episode in episodes:
            self._reasons += np.bincount(episode.filter_reason, minlength=len(self._reasons))
        judged = np.array([episode.terminated.any() for episode in episodes])
        truth = np.array([episode.succeeded for episode in episodes])
        return {
            "success": float(truth.mean()),
            "judged_success": float(judged.mean()),
            "false_success": float((judged & ~truth).mean()),
            "return": float(np.mean([episode.reward.sum() for episode in episodes])),
        }

    def counts(self) -> dict[str, float]:
        """Totals so far that the stage's result shows."""
        return {}

    def interventions(self) -> dict[str, Any]:
        """Steps practised, and how many of them the guard changed, by reason."""
        counts: npt.NDArray[np.int64] = self._reasons
        reasons = {schema.FILTER_REASONS[i]: int(n) for i, n in enumerate(counts) if i and n}
        return {"steps": self._steps, "reasons": reasons}

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state_dict(),
            "episodes": self._episodes,
            "steps": self._steps,
            "reasons": self._reasons.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self._episodes, self._steps = int(state["episodes"]), int(state["steps"])
        self._reasons = np.asarray(state["reasons"], np.int64)


class OnlineLearner(PracticeLearner):
    """Practise in `env`, and learn while it rests.

    Args:
        env: N guarded members whose reward and termination are the learned judgement.
        agent, config, on_episode: of `PracticeLearner`.
        origin: metadata of the collected episodes.
        first_seed: of the practice episodes.
    """

    def __init__(
        self,
        env: VectorEnv,
        agent: OnlineAgent,
        origin: EpisodeOrigin,
        config: OnlineConfig,
        first_seed: int = schema.SEED_ONLINE,
        on_episode: Callable[[Episode], None] | None = None,
    ) -> None:
        super().__init__(agent, config, on_episode)
        self.env, self.origin, self._first_seed = env, origin, first_seed

    def _practise(self) -> list[Episode]:
        seeds = range(self._first_seed + self._episodes, self._first_seed + self._episodes + self._batch())
        return rollout(self.env, self.agent.behaviour(), seeds, self.origin)
