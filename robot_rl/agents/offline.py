"""Offline training: any actor-critic agent on recorded transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robot_rl.agents.sac import SAC
from robot_rl.data.replay import Sampler
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class OfflineTraining:
    """Attributes:
    updates: batches in all. batch: transitions in each.
    critic_only: updates at the start that leave the actor as it came.
    """

    updates: int = 5000
    batch: int = 256
    critic_only: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"offline training has {name}={getattr(self, name)}; expected at least 1")


class OfflineLearner:
    """One update is one batch. A `trainers.protocols.Learner`.

    `buffer` holds what the agent's `observe` gives. It does not change, so it is no part of the state.
    """

    def __init__(self, agent: SAC, buffer: Sampler, config: OfflineTraining) -> None:
        self.agent, self.buffer, self.config = agent, buffer, config
        self.total_updates = config.updates
        self._updates = 0

    def update(self) -> dict[str, float]:
        batch = self.buffer.sample(self.config.batch, self.agent.generator)
        metrics = self.agent.update(batch, actor=self._updates >= self.config.critic_only)
        self._updates += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"agent": self.agent.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self._updates = state["updates"]
