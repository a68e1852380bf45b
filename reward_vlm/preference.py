"""RL-VLM-F: rewards from a model's preferences between two pictures (Wang et al. 2024).

label y: 0, the first picture is nearer to the goal; 1, the second; -1, no preference (dropped)
P[o1 > o0] = exp r(o1) / (exp r(o0) + exp r(o1))                       (Bradley & Terry 1952)
L = - E [ y log P[o1 > o0] + (1 - y) log P[o0 > o1] ],    r the mean of an ensemble of 3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from reward_vlm.judge import Pictures
from reward_vlm.scorer import Scorer
from robot_rl.errors import ConfigError, unknown

Preferences = npt.NDArray[np.int64]
"""0, 1 or -1 (no preference) for each pair (P,)."""
Prefer = Callable[[Pictures, Pictures, str], Preferences]
"""First and second pictures (P, C, H, W, 3) and an instruction to preferences (P,)."""
Source = Literal["truth", "projection", "generative"]


@dataclass(frozen=True)
class PreferenceConfig:
    """Attributes:
    source: who prefers: the recorded `truth`, CLIP's `projection`, or the `generative` VLM.
    pairs: asked about, once, before training. members: of the ensemble.
    margin: difference of scores below which a model has no preference.
    """

    source: Source = "truth"
    pairs: int = 2000
    members: int = 3
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise unknown("preference source", self.source, get_args(Source))
        if self.pairs < 1 or self.members < 1 or not self.margin >= 0:
            raise ConfigError(
                f"preference pairs={self.pairs}, members={self.members}, margin={self.margin}; "
                "expected at least 1, 1 and 0"
            )


def preferences_of(
    scores0: npt.NDArray[np.float32], scores1: npt.NDArray[np.float32], margin: float
) -> Preferences:
    """Which of two scores (P,) is higher by more than `margin`, else -1."""
    difference = scores1 - scores0
    return np.where(np.abs(difference) > margin, (difference > 0).astype(np.int64), -1)


def by_scores(scorer: Scorer, margin: float) -> Prefer:
    """The preferences of a scorer."""

    def prefer(first: Pictures, second: Pictures, instruction: str) -> Preferences:
        return preferences_of(scorer.score(first, instruction), scorer.score(second, instruction), margin)

    return prefer


def bradley_terry_loss(rewards0: Tensor, rewards1: Tensor, label: Tensor) -> Tensor:
    """L over pairs (..., P) with labels 0 or 1 (P,): the mean over pairs and members."""
    difference = rewards1 - rewards0  # log P[o1 > o0] / P[o0 > o1]
    return F.binary_cross_entropy_with_logits(difference, label.float().expand_as(difference))
