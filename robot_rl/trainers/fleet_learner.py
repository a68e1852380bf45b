"""Learning from what rollout actors practise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from robot_rl.data.episode import Episode
from robot_rl.trainers.actors import published
from robot_rl.trainers.fleet import Fleet
from robot_rl.trainers.forward_backward import DIRECTIONS
from robot_rl.trainers.online import OnlineAgent, OnlineConfig, PracticeLearner


class PublishingAgent(OnlineAgent, Protocol):
    """An online agent whose behaviour is that of a network which others can hold a copy of."""

    @property
    def policy(self) -> nn.Module: ...


class FleetLearner(PracticeLearner):
    """Learns from what a `Fleet` practises, and publishes the policy after every round.

    Args:
        fleet: of the same practice.
        agent, config: of `PracticeLearner`.
        tasks: forward and backward, of practice without resets.
    """

    def __init__(
        self, fleet: Fleet, agent: PublishingAgent, config: OnlineConfig, tasks: Sequence[str] = ()
    ) -> None:
        super().__init__(agent, config)
        self.fleet, self._network, self._tasks = fleet, agent.policy, list(tasks)
        self._true, self._intervened = [0, 0], 0
        self._begun = False

    @property
    def version(self) -> int:
        """Of the weights: rounds that they have learned from."""
        return -(-self._episodes // self.config.episodes_per_update)

    def update(self) -> dict[str, float]:
        """As `PracticeLearner`'s; `staleness` is the largest of the batch [rounds]."""
        if not self._begun:
            self.fleet.begin(self._episodes, self.version, published(self._network))
            self._begun = True
        metrics = super().update()
        self.fleet.publish(self.version, published(self._network))
        return metrics

    def _practise(self) -> list[Episode]:
        return self.fleet.take(self._batch())

    def _measure(self, episodes: list[Episode]) -> dict[str, float]:
        oldest = min(int(episode.metadata.extra["weights"]) for episode in episodes)
        if self._tasks:
            for episode in episodes:
                self._true[self._tasks.index(episode.metadata.task)] += episode.succeeded
                self._intervened += int(episode.is_intervention.sum())
        return super()._measure(episodes) | {"staleness": float(self.version - oldest)} | self.counts()

    def counts(self) -> dict[str, float]:
        """Of practice without resets, as `ResetFreeLearner.counts`."""
        if not self._tasks:
            return {}
        total = self.fleet.counts()
        resets = total.get("manual_resets", 0.0)
        true = {f"{name}_true": float(self._true[way]) for way, name in enumerate(DIRECTIONS)}
        rate = {"manual_resets_per_1000_steps": 1000 * resets / max(self._steps, 1)}
        return total | true | rate | {"intervention_steps": float(self._intervened)}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"true": list(self._true), "intervened": self._intervened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._true, self._intervened = list(state["true"]), state["intervened"]
