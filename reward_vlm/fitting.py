"""What all reward models share around their training: the split of the episodes before, calibration after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reward_vlm.calibration import Calibration, choose_threshold, fit_isotonic, fit_temperature
from reward_vlm.classifier import SuccessClassifier
from reward_vlm.config import RewardConfig
from reward_vlm.evaluation import metrics_of
from reward_vlm.frames import FramePool, refuse_without_failures, split_episodes
from reward_vlm.judge import Frames
from reward_vlm.pose import PoseCheck
from reward_vlm.scorer import Scorer
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError


class Recordings:
    """The episodes of a training: what is learned from, and what is held back, split by episode."""

    def __init__(self, episodes: Sequence[Episode], config: RewardConfig, generator: torch.Generator) -> None:
        """
        Raises:
            DataError: too few successes, no failures, a missing camera, or pictures of several sizes.
        """
        refuse_without_failures(episodes)
        self.train, self.validation = split_episodes(episodes, config.validation_fraction, generator)
        self.tasks = sorted({episode.metadata.task for episode in episodes})
        self.instructions = sorted({episode.metadata.instruction for episode in episodes})
        self.pool = FramePool.of(self.train, self.instructions, config.cameras, config.hard_window)


def fitted_classifier(
    scorer: Scorer, recordings: Recordings, config: RewardConfig
) -> tuple[SuccessClassifier, dict[str, float]]:
    """The scorer with calibration and threshold from the validation episodes, and its figures there.

    Where no threshold reaches the targets the closest is taken, and the figures tell.

    Raises:
        DataError: the scores are not finite.
    """
    pose = None if config.pose_margin is None else PoseCheck.of(recordings.train, config.pose_margin)
    classifier = SuccessClassifier(
        scorer, recordings.tasks, recordings.instructions, Calibration(), config.cameras, pose
    )
    moments = [Frames.of(episode) for episode in recordings.validation]
    labels = [episode.success for episode in recordings.validation]
    scores = [classifier.scores(each) for each in moments]
    y, x = np.concatenate(labels), np.concatenate(scores)
    if not np.isfinite(x).all():
        raise DataError(
            f"{np.mean(~np.isfinite(x)):.0%} of the scores are not finite: train with a lower rate"
        )
    if pose is not None:  # what the pose rules out needs no calibration
        judged = np.concatenate([pose.allows(each, each.instruction) for each in moments])
        y, x = y[judged], x[judged]
    calibration = _calibration(x, y, config)
    classifier.calibration = calibration
    probabilities = [classifier.probability(*each) for each in zip(moments, scores, strict=True)]
    threshold = choose_threshold(
        labels,
        probabilities,
        config.target_fpr,
        config.target_episode_false_success,
        config.debounce,
    )
    classifier.calibration = Calibration(
        calibration.temperature, calibration.bias, threshold, config.debounce, calibration.curve
    )
    return classifier, metrics_of(classifier, recordings.validation, probabilities)


def _calibration(scores: np.ndarray, labels: np.ndarray, config: RewardConfig) -> Calibration:
    if config.calibration == "isotonic":
        return Calibration(debounce=config.debounce, curve=fit_isotonic(scores, labels))
    temperature, bias = fit_temperature(scores, labels)
    return Calibration(temperature, bias, debounce=config.debounce)
