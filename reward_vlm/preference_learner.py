"""Training of RL-VLM-F's reward ensemble on preference labels; see `reward_vlm.preference`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_vlm.backbone import Backbone
from reward_vlm.classifier import SuccessClassifier
from reward_vlm.cnn import CnnScorer, PictureEnsemble, pixels_of
from reward_vlm.config import RewardConfig
from reward_vlm.descent import Descent
from reward_vlm.fitting import Recordings, fitted_classifier
from reward_vlm.learner import augmented
from reward_vlm.preference import Prefer, Preferences, bradley_terry_loss, by_scores
from reward_vlm.projection import ProjectionScorer
from reward_vlm.prompts import normalised
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError


class PreferenceLearner:
    """A `Learner`: the pairs are asked about once, at the start; truth is used for the threshold alone."""

    def __init__(
        self, episodes: Sequence[Episode], config: RewardConfig, prefer: Prefer | None = None
    ) -> None:
        """
        Args:
            prefer: who prefers, in the place of `config.preference.source`.

        Raises:
            DataError: as `RewardLearner`; or nobody preferred anything.
        """
        self.config = config
        self.total_updates = config.updates
        self._generator = torch.Generator().manual_seed(config.seed)
        self._recordings = Recordings(episodes, config, self._generator)
        instructions = self._recordings.instructions
        first, second = self._pairs()
        label = self._ask(first, second, prefer)
        kept = label >= 0
        if not kept.any():
            raise DataError(
                f"no preference in any of {len(label)} pairs: lower preference.margin, or ask more"
            )
        self._first, self._second, self._label = first[kept], second[kept], label[kept]
        self.module = PictureEnsemble(
            config.preference.members, len(config.cameras), len(instructions), config.seed
        ).to(config.device)
        self._descent = Descent(self.module.parameters(), config)

    @property
    def labels(self) -> Preferences:
        """The preferences that are learned from."""
        return self._label

    def update(self) -> dict[str, float]:
        """One step on a batch of pairs. Returns `loss` and `accuracy`."""
        config = self.config
        chosen = torch.randint(len(self._label), (config.batch_size // 2,), generator=self._generator).numpy()
        label = torch.from_numpy(self._label[chosen]).to(config.device)
        self.module.train()
        first, second = (self._rewards(side[chosen]) for side in (self._first, self._second))
        loss = bradley_terry_loss(first, second, label)
        self._descent.step(loss)
        accuracy = ((second > first) == (label > 0)).float().mean()
        return {"loss": loss.item(), "accuracy": accuracy.item()}

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]:
        """The ensemble's mean as a classifier."""
        scorer = CnnScorer(self.module, self._recordings.instructions, len(self.config.cameras), "preference")
        return fitted_classifier(scorer, self._recordings, self.config)

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "generator": self._generator.get_state(),
            **self._descent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self._generator.set_state(state["generator"])
        self._descent.load_state_dict(state)

    def _rewards(self, index: np.ndarray) -> Tensor:
        """r (M, B) of the frames `index`, each for its own instruction."""
        pool = self._recordings.pool
        pixels = augmented(
            pixels_of(pool.images[index], self.config.device), self.config.augmentation, self._generator
        )
        which = torch.from_numpy(pool.instruction[index]).to(pixels.device)
        rewards = self.module(pixels)
        return rewards.gather(2, which[None, :, None].expand(len(rewards), -1, 1))[..., 0]

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames (P,), each with one of the same instruction; half of the first ones are successes.

        Uniform pairs, as in the paper, would hardly ever hold a success; VLM preferences then say little.
        """
        pool, generator = self._recordings.pool, self._generator
        number = self.config.preference.pairs
        first, _ = pool.draw(number, self.config.hard_fraction, self.config.near_miss_fraction, generator)
        groups = [np.flatnonzero(pool.instruction == i) for i in range(len(self._recordings.instructions))]
        draw = torch.rand(number, generator=generator).tolist()
        second = [groups[pool.instruction[i]] for i in first]
        return first, np.array([group[int(u * len(group))] for group, u in zip(second, draw, strict=True)])

    def _ask(self, first: np.ndarray, second: np.ndarray, prefer: Prefer | None) -> Preferences:
        source, pool = self.config.preference.source, self._recordings.pool
        if prefer is None and source == "truth":
            truth = np.zeros(len(pool.images), np.int64)
            truth[pool.positives] = 1
            return np.where(truth[first] != truth[second], truth[second], -1)
        if prefer is None and source == "projection":
            backbone = Backbone(self.config.model, self.config.pretrained).to(self.config.device)
            scorer = ProjectionScorer(backbone, self.config.projection)
            prefer = by_scores(scorer, self.config.preference.margin)
        elif prefer is None:
            from reward_vlm.generative import GenerativeScorer

            vlm = GenerativeScorer(self.config.generative, self.config.device)
            prefer = vlm.prefer(self.config.preference.margin)
        label = np.full(len(first), -1, np.int64)
        for i, instruction in enumerate(self._recordings.instructions):
            mine = pool.instruction[first] == i
            if mine.any():
                label[mine] = prefer(
                    pool.images[first[mine]], pool.images[second[mine]], normalised(instruction)
                )
        return label
