"""VLM-RM: CLIP as it is, projected on the way from a baseline to the goal (Rocamonde et al. 2023, section 3).

    r(o) = 1 - 1/2 || (x - g) P_a ||^2,   P_a = a d'd / ||d||^2 + (1 - a) I,   d = g - b

with the unit embeddings x of the picture, g of the goal prompt and b of the baseline prompt. The baseline
describes the scene without the goal; a = 0 is plain CLIP similarity, a = 1 looks along d alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reward_vlm.backbone import CONFIG_FILE, WEIGHTS_FILE, Backbone
from reward_vlm.judge import Pictures
from reward_vlm.scorer import BATCH, Scores
from robot_rl.data.artifact import Artifact, Content
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class ProjectionConfig:
    """Attributes:
    goal: prompt of the goal, with {} for the instruction. baseline: prompt of the scene without it.
    alpha: strength a of the projection, 0 .. 1.
    """

    goal: str = "the robot has managed to {}"
    baseline: str = "a robot arm above a table"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"projection alpha is {self.alpha}; expected a number in [0, 1]")
        if "{}" not in self.goal:
            raise ConfigError(f"projection goal is {self.goal!r}; expected {{}} where the instruction goes")


def projected_reward(x: Tensor, goal: Tensor, baseline: Tensor, alpha: float) -> Tensor:
    """r (N,) of unit embeddings x (N, D), g (D,) and b (D,).

    With v = x - g and its part along d, v P_a = a (v.d / ||d||^2) d + (1 - a) v.
    """
    d, v = goal - baseline, x - goal
    along = (v @ d / d.square().sum())[:, None] * d
    return 1 - 0.5 * (alpha * along + (1 - alpha) * v).square().sum(-1)


class ProjectionScorer:
    """A `Scorer` without training: only calibration and threshold see the episodes."""

    backend = "projection"

    def __init__(self, backbone: Backbone, config: ProjectionConfig) -> None:
        self.backbone, self.config = backbone.eval(), config

    @torch.inference_mode()
    def score(self, pictures: Pictures, instruction: str) -> Scores:
        """As `Scorer.score`; the mean over the cameras."""
        goal, baseline = self._text([self.config.goal.format(instruction), self.config.baseline])
        flat = pictures.reshape(-1, *pictures.shape[2:])
        pieces = [
            projected_reward(
                self.backbone.embedding(self.backbone.pixels(flat[start : start + BATCH])),
                goal,
                baseline,
                self.config.alpha,
            )
            .cpu()
            .numpy()
            for start in range(0, len(flat), BATCH)
        ]
        return (
            np.concatenate(pieces).reshape(pictures.shape[:2]).mean(1) if pieces else np.zeros(0, np.float32)
        )

    def _text(self, prompts: list[str]) -> Tensor:
        tokens = self.backbone.tokenizer(prompts).to(self.backbone.device)
        return F.normalize(self.backbone.clip.encode_text(tokens), dim=-1)

    def files(self) -> Mapping[str, Content]:
        return {
            CONFIG_FILE: self.backbone.config_json().encode(),
            WEIGHTS_FILE: self.backbone.clip.state_dict(),
        }

    def facts(self) -> Mapping[str, Any]:
        return {"projection": dataclasses.asdict(self.config)}

    @classmethod
    def load(cls, artifact: Artifact, device: torch.device | str = "cpu") -> ProjectionScorer:
        config = ProjectionConfig(**artifact.metadata["projection"])
        return cls(Backbone(f"local-dir:{artifact.path}").to(device), config)
