"""VICE: a classifier of goal pictures against whatever the policy visits (Fu et al. 2018; Singh et al. 2019).

    D(o) = exp f(o) / (exp f(o) + 1),   L = - E_goal [log D] - E_policy [log (1 - D)]
    r(o) = log D(o) - log (1 - D(o)) = f(o)

No failure is labelled: the policy's pictures are the negatives, those of its successes too, which is why f
is flattened with mixup (o = l o+ + (1 - l) o-, target l), and why online the policy's newest pictures join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reward_vlm.classifier import SuccessClassifier
from reward_vlm.cnn import CnnScorer, PictureEnsemble, pixels_of
from reward_vlm.config import RewardConfig
from reward_vlm.descent import Descent
from reward_vlm.fitting import Recordings, fitted_classifier
from reward_vlm.judge import Pictures
from reward_vlm.learner import augmented
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError


class ViceLearner:
    """A `Learner` of f; truth marks the goal pictures, and the threshold on the validation episodes."""

    def __init__(self, episodes: Sequence[Episode], config: RewardConfig) -> None:
        """
        Args:
            episodes: their successes are the goal pictures, all their pictures the policy's.

        Raises:
            DataError: as `RewardLearner`.
        """
        self.config = config
        self.total_updates = config.updates
        self._generator = torch.Generator().manual_seed(config.seed)
        self._recordings = Recordings(episodes, config, self._generator)
        pool, instructions = self._recordings.pool, self._recordings.instructions
        self._policy = [pool.images[pool.instruction == i] for i in range(len(instructions))]
        goals = np.zeros(len(pool.images), bool)
        goals[pool.positives] = True
        self._goals = [pool.images[goals & (pool.instruction == i)] for i in range(len(instructions))]
        self._seen: list[Tensor] = [torch.zeros(0, *pool.images.shape[1:], dtype=torch.uint8)] * len(
            instructions
        )
        self.module = PictureEnsemble(1, len(config.cameras), len(instructions), config.seed).to(
            config.device
        )
        self._descent = Descent(self.module.parameters(), config)

    def observe(self, pictures: Pictures, instruction: str) -> None:
        """Pictures (N, C, H, W, 3) that the policy has visited since; they are negatives from now on."""
        if instruction not in self._recordings.instructions:
            raise DataError(f"VICE of {self._recordings.instructions} was shown pictures of {instruction!r}")
        i = self._recordings.instructions.index(instruction)
        self._seen[i] = torch.cat([self._seen[i], torch.from_numpy(pictures)])

    def update(self) -> dict[str, float]:
        """One step of L with mixup on a batch of one instruction. Returns `loss` and `accuracy`."""
        config, generator = self.config, self._generator
        i = int(torch.randint(len(self._goals), (), generator=generator))
        half = config.batch_size // 2
        policy = (
            np.concatenate([self._policy[i], self._seen[i].numpy()])
            if len(self._seen[i])
            else self._policy[i]
        )
        goal, visited = (
            augmented(
                pixels_of(
                    source[torch.randint(len(source), (half,), generator=generator).numpy()], config.device
                ),
                config.augmentation,
                generator,
            )
            for source in (self._goals[i], policy)
        )
        share = torch.rand(half, generator=generator).to(goal.device)  # Beta(1, 1)
        mixed = share.view(-1, 1, 1, 1, 1) * goal + (1 - share.view(-1, 1, 1, 1, 1)) * visited
        self.module.train()
        logit = self.module(torch.cat([mixed, goal, visited]))[0, :, i]
        target = torch.cat([share, torch.ones_like(share), torch.zeros_like(share)])
        loss = F.binary_cross_entropy_with_logits(logit, target)
        self._descent.step(loss)
        accuracy = ((logit[half:] > 0) == (target[half:] > 0.5)).float().mean()
        return {"loss": loss.item(), "accuracy": accuracy.item()}

    def finish(self) -> tuple[SuccessClassifier, dict[str, float]]:
        """f as a classifier."""
        scorer = CnnScorer(self.module, self._recordings.instructions, len(self.config.cameras), "vice")
        return fitted_classifier(scorer, self._recordings, self.config)

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "seen": self._seen,
            "generator": self._generator.get_state(),
            **self._descent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self._seen = list(state["seen"])
        self._generator.set_state(state["generator"])
        self._descent.load_state_dict(state)
