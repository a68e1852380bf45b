"""A classifier over whole episodes: how it does against the truth, and rewards of its making."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_vlm.classifier import SuccessClassifier
from reward_vlm.debounce import first_firing
from reward_vlm.frames import camera_frames
from reward_vlm.metrics import episode_metrics, frame_metrics
from reward_vlm.wrapper import Judge, RewardWrapperConfig
from robot_rl.data import schema
from robot_rl.data.episode import STEP_DTYPES, Episode

Score = Callable[[npt.NDArray[np.uint8], str], npt.NDArray[np.float32]]
"""Pictures (N, H, W, 3) and an instruction to one number each (N,)."""


def judge_episodes(
    score: Score, episodes: Sequence[Episode], camera: str = schema.DEFAULT_CAMERA
) -> list[npt.NDArray[np.float32]]:
    """`score` of the frame that each step leads to (T,), asked about the episode's own instruction."""
    return [score(camera_frames(each, camera)[1:], each.metadata.instruction) for each in episodes]


def evaluate(
    classifier: SuccessClassifier, episodes: Sequence[Episode], camera: str = schema.DEFAULT_CAMERA
) -> dict[str, float]:
    """`frame_metrics` and `episode_metrics` against the episodes' own truth, with the threshold used."""
    probabilities = judge_episodes(classifier.success_probability, episodes, camera)
    labels = [episode.success for episode in episodes]
    threshold = classifier.threshold
    return {
        **frame_metrics(np.concatenate(labels), np.concatenate(probabilities), threshold),
        **episode_metrics(labels, probabilities, threshold, classifier.debounce),
        "threshold": threshold,
    }


def relabel(episode: Episode, judge: Judge, config: RewardWrapperConfig | None = None) -> Episode:
    """The episode as the wrapped environment would have told it: judged reward, ended at judged success.

    Steps after the judged success are cut off, `terminated` is true there and nowhere else; an episode
    without one keeps its length and ends by truncation. `success` stays the recorder's truth.
    """
    config = config or RewardWrapperConfig()
    images = camera_frames(episode, config.camera)
    positive = judge.success_probability(images[1:], episode.metadata.instruction) >= judge.threshold
    end = first_firing(positive, judge.debounce)
    steps = len(episode) if end is None else end + 1
    fields: dict[str, Any] = {name: getattr(episode, name)[:steps].copy() for name in STEP_DTYPES}
    fields["terminated"][:] = False
    fields["truncated"][:] = False
    fields["terminated" if end is not None else "truncated"][-1] = True
    fields["reward"] = config.reward(fields["terminated"])
    observations = {key: value[: steps + 1] for key, value in episode.observations.items()}
    return dataclasses.replace(episode, observations=observations, **fields)
