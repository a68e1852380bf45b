"""A back end of the judge: uncalibrated evidence that an instruction is fulfilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from reward_vlm.judge import Pictures
from robot_rl.data.artifact import Artifact, Content
from robot_rl.errors import unknown

BATCH = 256
"""Pictures encoded at once: bounds memory, and on a CPU larger batches are no faster."""
Scores = npt.NDArray[np.float32]


class Scorer(Protocol):
    """Pictures and an instruction in, one number a moment out: the higher, the more a success.

    Calibration, threshold, debounce and the refusal of unknown instructions are the classifier's.
    """

    @property
    def backend(self) -> str:
        """The name in configs/reward and in the artifact."""

    def score(self, pictures: Pictures, instruction: str) -> Scores:
        """Scores (N,) of moments (N, C, H, W, 3) for an instruction in `prompts.normalised` form."""

    def files(self) -> Mapping[str, Content]:
        """What an artifact must hold to make this scorer again."""

    def facts(self) -> Mapping[str, Any]:
        """The same, of its metadata."""


def load_scorer(artifact: Artifact, instructions: Sequence[str], device: torch.device | str) -> Scorer:
    """The scorer of an artifact. Each back end is imported where it is needed."""
    backend = artifact.metadata.get("backend", "clip")
    if backend == "clip":
        from reward_vlm.clip import ClipScorer

        return ClipScorer.load(artifact, device)
    if backend == "projection":
        from reward_vlm.projection import ProjectionScorer

        return ProjectionScorer.load(artifact, device)
    if backend == "generative":
        from reward_vlm.generative import GenerativeScorer

        return GenerativeScorer.load(artifact, device)
    if backend in ("cnn", "vice", "preference"):
        from reward_vlm.cnn import CnnScorer

        return CnnScorer.load(artifact, instructions, device)
    raise unknown(
        "reward back end", backend, ("clip", "projection", "generative", "cnn", "vice", "preference")
    )
