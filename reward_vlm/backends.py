"""From a config to a reward model: the one place that knows all back ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from reward_vlm.backbone import Backbone
from reward_vlm.classifier import SuccessClassifier
from reward_vlm.config import RewardConfig
from reward_vlm.fitting import Recordings, fitted_classifier
from reward_vlm.generative import GenerativeScorer
from reward_vlm.learner import RewardLearner
from reward_vlm.preference_learner import PreferenceLearner
from reward_vlm.projection import ProjectionScorer
from reward_vlm.scorer import Scorer
from reward_vlm.vice import ViceLearner
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError, DataError


class ClassifierLearner(Protocol):
    """A `Learner` that ends in a classifier."""

    total_updates: int

    def update(self) -> dict[str, float]: ...

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Untrained:
    """A `ClassifierLearner` of a model that is used as it is: only calibration sees the episodes."""

    total_updates = 0

    def __init__(self, scorer: Scorer, episodes: Sequence[Episode], config: RewardConfig) -> None:
        self._scorer, self._config = scorer, config
        generator = torch.Generator().manual_seed(config.seed)
        self._recordings = Recordings(episodes, config, generator)

    def update(self) -> dict[str, float]:
        return {}

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]:
        """
        Raises:
            DataError: the model ranks failures above successes; nothing that follows could mend that.
        """
        classifier, figures = fitted_classifier(self._scorer, self._recordings, self._config)
        if figures["auroc"] < 0.5:
            raise DataError(
                f"the {self._scorer.backend} model ranks failures above successes (AUROC "
                f"{figures['auroc']:.2f} on validation episodes): its reward has the wrong sign; check the "
                "labels and prompts, or fine-tune a model"
            )
        return classifier, figures

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def make_learner(episodes: Sequence[Episode], config: RewardConfig) -> ClassifierLearner:
    """The learner of `config.backend`.

    Raises:
        DataError: the episodes do not do. ConfigError: the model cannot be had, or nothing is learned.
    """
    if config.backend == "projection":
        backbone = Backbone(config.model, config.pretrained, config.seed).to(config.device)
        return Untrained(ProjectionScorer(backbone, config.projection), episodes, config)
    if config.backend == "generative":
        return Untrained(GenerativeScorer(config.generative, config.device), episodes, config)
    if config.backend == "vice":
        return ViceLearner(episodes, config)
    if config.backend == "preference":
        return PreferenceLearner(episodes, config)
    if config.backend == "oracle":
        raise ConfigError(
            "reward backend 'oracle' learns nothing: it is `reward_vlm.Oracle`, for simulated truth"
        )
    return RewardLearner(episodes, config)
