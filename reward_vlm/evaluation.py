"""A judge over whole episodes: how it does against the truth, and rewards of its making."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_vlm.debounce import first_firing
from reward_vlm.frames import is_near_miss
from reward_vlm.judge import Frames, SuccessJudge
from reward_vlm.metrics import Probabilities, episode_metrics, frame_metrics, frame_order_correlation
from reward_vlm.wrapper import RewardWrapperConfig
from robot_rl.data.episode import STEP_DTYPES, Episode

Score = Callable[[Frames], npt.NDArray[np.float32]]
"""N moments to one number each (N,)."""


def judge_episodes(score: Score, episodes: Sequence[Episode]) -> list[npt.NDArray[np.float32]]:
    """`score` of the frame that each step leads to (T,), asked about the episode's own instruction."""
    return [score(Frames.of(episode)) for episode in episodes]


def evaluate(judge: SuccessJudge, episodes: Sequence[Episode]) -> dict[str, float]:
    """`metrics_of` the judge's probabilities."""
    return metrics_of(judge, episodes, judge_episodes(judge.judge, episodes))


def metrics_of(
    judge: SuccessJudge, episodes: Sequence[Episode], probabilities: Sequence[Probabilities]
) -> dict[str, float]:
    """Frame, episode and frame-order metrics against the episodes' own truth, at the judge's threshold.

    `near_miss_fpr` is the share of false positives among the frames of the near-miss episodes.
    """
    labels = [episode.success for episode in episodes]
    near = [
        (p >= judge.threshold)[~y]
        for e, y, p in zip(episodes, labels, probabilities, strict=True)
        if is_near_miss(e)
    ]
    return {
        **frame_metrics(np.concatenate(labels), np.concatenate(probabilities), judge.threshold),
        **episode_metrics(labels, probabilities, judge.threshold, judge.debounce),
        **({"near_miss_fpr": float(np.concatenate(near).mean())} if near else {}),
        "frame_order": frame_order_correlation(labels, probabilities),
        "threshold": judge.threshold,
    }


def relabel(
    episode: Episode,
    judge: SuccessJudge,
    config: RewardWrapperConfig | None = None,
    probability: Probabilities | None = None,
) -> Episode:
    """The episode as the wrapped environment would have told it: judged reward, ended at judged success.

    Steps after the judged success are cut off, `terminated` is true there and nowhere else; an episode
    without one keeps its length and ends by truncation. `success` stays the recorder's truth.

    Args:
        probability: the judge's answers (T,), where they are known.
    """
    config = config or RewardWrapperConfig()
    if probability is None:
        probability = judge.judge(Frames.of(episode))
    end = first_firing(probability >= judge.threshold, judge.debounce)
    steps = len(episode) if end is None else end + 1
    fields: dict[str, Any] = {name: getattr(episode, name)[:steps].copy() for name in STEP_DTYPES}
    fields["terminated"][:] = False
    fields["truncated"][:] = False
    fields["terminated" if end is not None else "truncated"][-1] = True
    fields["reward"] = config.reward(fields["terminated"])
    observations = {key: value[: steps + 1] for key, value in episode.observations.items()}
    return dataclasses.replace(episode, observations=observations, **fields)
