"""Training of the success classifier: prompt pairs, hard negatives, calibration on held-back episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_vlm.classifier import SuccessClassifier
from reward_vlm.cnn import CnnTrainee
from reward_vlm.config import RewardConfig
from reward_vlm.descent import Descent
from reward_vlm.fitting import Recordings, fitted_classifier
from reward_vlm.judge import Pictures
from reward_vlm.prompts import counterfactuals
from reward_vlm.scorer import Scorer
from reward_vlm.tuning import ClipTrainee
from robot_rl.data.augmentation import AugmentationConfig, augment
from robot_rl.data.episode import Episode


class Trainee(Protocol):
    """A model that is trained on labelled moments."""

    @property
    def module(self) -> nn.Module:
        """All that changes."""

    def parameters(self) -> list[nn.Parameter]: ...

    def pixels(self, pictures: Pictures) -> Tensor:
        """Pictures uint8 (B, C, H, W, 3) as float (B, C, 3, h, w) in [0, 1]."""

    def logits(self, pixels: Tensor, instruction: Tensor) -> Tensor:
        """Logits (B,) of moments, each with the index of its instruction (B,)."""

    def regulariser(self, generator: torch.Generator) -> tuple[Tensor | float, dict[str, float]]:
        """What is added to the loss, and metrics."""

    def scorer(self) -> Scorer:
        """The trained model."""


class RewardLearner:
    """A `Learner` of a `SuccessClassifier`: call `update` `total_updates` times, then `finish`.

    Equal episodes, config and number of updates give equal weights, resumed or not, on the CPU.
    """

    def __init__(self, episodes: Sequence[Episode], config: RewardConfig | None = None) -> None:
        """
        Args:
            episodes: successes and failures of one or more tasks; `success` is the truth.

        Raises:
            DataError: too few successes, no failures, a missing camera, or pictures of several sizes.
        """
        self.config = config or RewardConfig()
        self.total_updates = self.config.updates
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._recordings = Recordings(episodes, self.config, self._generator)
        instructions = self._recordings.instructions
        # Row i: the instructions that a picture of a success of instruction i does not fulfil.
        self._others = [
            [instructions.index(other) for other in counterfactuals(own, instructions)]
            for own in instructions
        ]
        self._trainee: Trainee = (
            ClipTrainee(instructions, self.config)
            if self.config.backend == "clip"
            else CnnTrainee(instructions, len(self.config.cameras), self.config.seed, self.config.device)
        )
        self._descent = Descent(self._trainee.parameters(), self.config)

    @property
    def module(self) -> nn.Module:
        """What is being trained."""
        return self._trainee.module

    def update(self) -> dict[str, float]:
        """One gradient step on one batch. Returns `loss`, `accuracy` and what the model adds."""
        loss, metrics = self._loss(*self._batch())
        self._descent.step(loss)
        return metrics

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]:
        """The classifier, calibrated on the validation episodes, and its figures there."""
        return fitted_classifier(self._trainee.scorer(), self._recordings, self.config)

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self._trainee.module.state_dict(),
            "generator": self._generator.get_state(),
            **self._descent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainee.module.load_state_dict(state["module"])
        self._generator.set_state(state["generator"])
        self._descent.load_state_dict(state)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented pixels (B, C, 3, h, w), instruction indices (B,) and labels (B,) of a balanced draw.

        Counterfactual: some successes are asked about another instruction, and are none. A failure at one
        instruction may well fulfil another (an open drawer, of a pair of tasks) and is never swapped.
        """
        config, generator, pool = self.config, self._generator, self._recordings.pool
        index, label = pool.draw(
            config.batch_size, config.hard_fraction, config.near_miss_fraction, generator
        )
        instruction = pool.instruction[index]
        swapped = torch.rand(len(index), generator=generator).numpy() < config.counterfactual_fraction
        choice = torch.rand(len(index), generator=generator).tolist()
        for i in np.flatnonzero(swapped & label):
            others = self._others[instruction[i]]
            if others:
                instruction[i], label[i] = others[int(choice[i] * len(others))], False
        pixels = augmented(self._trainee.pixels(pool.images[index]), config.augmentation, generator)
        device = pixels.device
        return pixels, torch.from_numpy(instruction).to(device), torch.from_numpy(label).float().to(device)

    def _loss(self, pixels: Tensor, instruction: Tensor, label: Tensor) -> tuple[Tensor, dict[str, float]]:
        """BCE(score, label), for CLIP the score scale * (sim(x, done) - sim(x, not done))."""
        logits = self._trainee.logits(pixels, instruction)
        loss = F.binary_cross_entropy_with_logits(logits, label)
        accuracy = ((logits > 0) == (label > 0.5)).float().mean()
        added, metrics = self._trainee.regulariser(self._generator)
        return loss + added, {"loss": loss.item(), "accuracy": accuracy.item(), **metrics}


def augmented(pixels: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Moments (B, C, 3, h, w), every picture changed by itself."""
    return augment(pixels.flatten(0, 1), config, generator).unflatten(0, pixels.shape[:2])
