"""Training of the success classifier: prompt pairs, hard negatives, calibration on held-back episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reward_vlm.backbone import SHIPPED, Backbone
from reward_vlm.calibration import Calibration, choose_threshold, fit_temperature
from reward_vlm.classifier import SuccessClassifier
from reward_vlm.evaluation import evaluate, judge_episodes
from reward_vlm.frames import FramePool, split_episodes
from reward_vlm.prompts import counterfactuals, prompt_pairs
from robot_rl.data import schema
from robot_rl.data.augmentation import AugmentationConfig, augment
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class RewardConfig:
    """How a success classifier is trained and where its threshold lies.

    Attributes:
        model, pretrained: an open_clip architecture and its weights, as in `Backbone`.
        updates, batch_size, learning_rate, weight_decay: AdamW with linear warm-up and cosine decay.
        hard_fraction: of the negatives of a batch, those taken next to a success or at a failure's end.
        hard_window: how many frames that is, each side.
        counterfactual_fraction: of a batch, pictures asked about another task's instruction (answer: no);
            without effect where all episodes share one.
        validation_fraction: of the episodes, held back for temperature and threshold.
        target_fpr: of validation frames, the most that may be called a success falsely.
        target_episode_false_success: of validation episodes, the most that may be ended falsely.
        debounce: consecutive positive frames that end an episode.
    """

    model: str = SHIPPED
    pretrained: str | None = None
    camera: str = schema.DEFAULT_CAMERA
    updates: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    hard_fraction: float = 0.5
    hard_window: int = 4
    counterfactual_fraction: float = 0.25
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(3, 0.2, 0.2, 0.05))
    validation_fraction: float = 0.25
    target_fpr: float = 0.01
    target_episode_false_success: float = 0.03
    debounce: int = 2
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("updates", "hard_window", "debounce"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reward {name} is {getattr(self, name)}; expected at least 1")
        if self.batch_size < 4:
            raise ConfigError(f"reward batch_size is {self.batch_size}; expected at least 4")
        if not self.learning_rate > 0:
            raise ConfigError(f"reward learning_rate is {self.learning_rate}; expected a positive number")
        for name in (
            "warmup_fraction",
            "hard_fraction",
            "counterfactual_fraction",
            "validation_fraction",
            "target_fpr",
            "target_episode_false_success",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"reward {name} is {getattr(self, name)}; expected a number in [0, 1)")
        if self.validation_fraction == 0:
            raise ConfigError("reward validation_fraction is 0; expected more, for the threshold's sake")


class RewardLearner:
    """A `Learner` of a `SuccessClassifier`: call `update` `total_updates` times, then `finish`.

    Equal episodes, config and number of updates give equal weights, resumed or not, on the CPU.
    """

    def __init__(self, episodes: Sequence[Episode], config: RewardConfig | None = None) -> None:
        """
        Args:
            episodes: successes and failures of one or more tasks; `success` is the truth.

        Raises:
            DataError: too few successes, a missing camera, or pictures of several sizes.
        """
        self.config = config or RewardConfig()
        self.total_updates = self.config.updates
        self._generator = torch.Generator().manual_seed(self.config.seed)
        train, self._validation = split_episodes(episodes, self.config.validation_fraction, self._generator)
        self._tasks = sorted({episode.metadata.task for episode in episodes})
        self._instructions = sorted({episode.metadata.instruction for episode in episodes})
        self._pool = FramePool.of(train, self._instructions, self.config.camera, self.config.hard_window)
        # Row i: the instructions that a picture of instruction i does not fulfil.
        self._others = [
            [self._instructions.index(other) for other in counterfactuals(own, self._instructions)]
            for own in self._instructions
        ]
        self.backbone = Backbone(self.config.model, self.config.pretrained, self.config.seed)
        self.backbone.to(self.config.device)
        self._optimiser = torch.optim.AdamW(
            self.backbone.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            betas=(0.9, 0.98),
        )
        self._updates = 0

    def update(self) -> dict[str, float]:
        """One gradient step on one batch. Returns `loss`, `accuracy` and `scale`."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.backbone.train()
        loss, metrics = self._loss(*self._batch())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), 1.0)
        self._optimiser.step()
        self._updates += 1
        return metrics

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]:
        """The classifier, calibrated on the validation episodes, and its figures there.

        Where no threshold reaches the targets the closest is taken, and the figures tell.
        """
        classifier = SuccessClassifier(
            self.backbone, self._tasks, self._instructions, Calibration(debounce=self.config.debounce)
        )
        labels = [episode.success for episode in self._validation]
        logits = judge_episodes(classifier.logits, self._validation, self.config.camera)
        temperature, bias = fit_temperature(np.concatenate(logits), np.concatenate(labels))
        calibration = Calibration(temperature, bias, debounce=self.config.debounce)
        threshold = choose_threshold(
            labels,
            [calibration.probability(each) for each in logits],
            self.config.target_fpr,
            self.config.target_episode_false_success,
            self.config.debounce,
        )
        classifier.calibration = Calibration(temperature, bias, threshold, self.config.debounce)
        return classifier, evaluate(classifier, self._validation, self.config.camera)

    def state_dict(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["backbone"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._updates = int(state["updates"])

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented pixels (B, 3, h, w), instruction indices (B,) and labels (B,) of a balanced draw."""
        config, generator = self.config, self._generator
        index, label = self._pool.draw(config.batch_size, config.hard_fraction, generator)
        instruction = self._pool.instruction[index]
        swapped = torch.rand(len(index), generator=generator).numpy() < config.counterfactual_fraction
        choice = torch.rand(len(index), generator=generator).tolist()
        for i in np.flatnonzero(swapped):
            others = self._others[instruction[i]]
            if others:
                instruction[i], label[i] = others[int(choice[i] * len(others))], False
        pixels = augment(self.backbone.pixels(self._pool.images[index]), config.augmentation, generator)
        device = self.backbone.device
        return pixels, torch.from_numpy(instruction).to(device), torch.from_numpy(label).float().to(device)

    def _loss(self, pixels: Tensor, instruction: Tensor, label: Tensor) -> tuple[Tensor, dict[str, float]]:
        """BCE(scale * (sim(x, done) - sim(x, not done)), label), text features averaged over paraphrases.

        One random paraphrase a step would do for pretrained text. From scratch the directions of two
        paraphrases start out orthogonal, successive steps then contradict each other, and some seeds
        never leave a loss of log 2.
        """
        directions = torch.stack(
            [self.backbone.directions(prompt_pairs(text)).mean(0) for text in self._instructions]
        )
        logits = self.backbone.logits(pixels, directions[instruction])
        loss = F.binary_cross_entropy_with_logits(logits, label)
        accuracy = ((logits > 0) == (label > 0.5)).float().mean()
        scale = self.backbone.clip.logit_scale.exp()
        return loss, {"loss": loss.item(), "accuracy": accuracy.item(), "scale": scale.item()}

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to 0, as a fraction of the peak."""
        warmup = self.config.warmup_fraction * self.total_updates
        if self._updates < warmup:
            return self.config.learning_rate * (self._updates + 1) / (warmup + 1)
        progress = (self._updates - warmup) / (self.total_updates - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
