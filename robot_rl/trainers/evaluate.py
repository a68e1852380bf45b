"""Success on given seeds, by the environment's own truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.trainers.protocols import Policy
from robot_rl.trainers.rollout import EpisodeOrigin, rollout
from robot_rl.trainers.statistics import wilson


@dataclass(frozen=True)
class Evaluation:
    """One policy on one list of seeds.

    Attributes:
        seeds, success, steps, curtailed: one entry an episode; `curtailed` counts the steps on which the
            executed action differed from the requested one.
    """

    seeds: list[int]
    success: list[int]
    steps: list[int]
    curtailed: list[int]

    def summary(self) -> dict[str, float | int]:
        """Mean success with its 95 % Wilson interval and n."""
        wins, n = sum(self.success), len(self.success)
        low, high = wilson(wins, n)
        return {"mean": wins / n, "low": low, "high": high, "n": n}

    def write(self, path: Path) -> None:
        atomic_write(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        return cls(**json.loads(path.read_text()))


def evaluate(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    origin: EpisodeOrigin,
    on_episode: Callable[[Episode], Any] | None = None,
    keep_images: bool = False,
) -> tuple[Evaluation, list[Episode]]:
    """Run `policy` once on each seed."""
    episodes = rollout(env, policy, seeds, origin, keep_images=keep_images, on_episode=on_episode)
    result = Evaluation(
        seeds=list(seeds),
        success=[int(episode.succeeded) for episode in episodes],
        steps=[len(episode) for episode in episodes],
        curtailed=[int((episode.filter_reason > 0).sum()) for episode in episodes],
    )
    return result, episodes
