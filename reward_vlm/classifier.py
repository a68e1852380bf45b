"""`SuccessClassifier`: is the instruction fulfilled in this picture?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reward_vlm.backbone import CONFIG_FILE, WEIGHTS_FILE, Backbone
from reward_vlm.calibration import Calibration
from reward_vlm.prompts import TEMPLATES, PromptPair, normalised, prompt_pairs
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.errors import DataError

KIND: Final = "reward"
BATCH: Final = 256
"""Pictures encoded at once: bounds memory, and on a CPU larger batches are no faster."""


class SuccessClassifier:
    """A calibrated yes/no judge of pictures for the tasks and instructions that it was trained on.

    p = sigmoid(scale * (sim(x, done) - sim(x, not done)) / T + b), with text features averaged over
    paraphrases and cached per instruction. A picture is a success at p >= threshold.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        instructions: Sequence[str],
        calibration: Calibration,
        templates: Sequence[PromptPair] = TEMPLATES,
    ) -> None:
        self.backbone = backbone.eval()
        self.tasks, self.instructions = tuple(tasks), tuple(instructions)
        self.calibration = calibration
        self.templates = tuple(templates)
        self._known = {normalised(instruction) for instruction in instructions}
        self._directions: dict[str, Tensor] = {}

    @property
    def threshold(self) -> float:
        return self.calibration.threshold

    @property
    def debounce(self) -> int:
        """Consecutive positive frames that the threshold was chosen for."""
        return self.calibration.debounce

    @torch.inference_mode()
    def logits(self, images: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """Uncalibrated logits (N,) of pictures uint8 (N, H, W, 3).

        Raises:
            DataError: the model was not trained on `instruction`, or `images` are no such pictures.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(f"pictures are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3)")
        direction = self._direction(instruction)
        pieces = [
            self.backbone.logits(self.backbone.pixels(images[start : start + BATCH]), direction).cpu().numpy()
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def success_probability(self, images: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """Calibrated probability (N,) that `instruction` is fulfilled in `images` (N, H, W, 3)."""
        return self.calibration.probability(self.logits(images, instruction))

    def decide(self, images: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.bool_]:
        """Whether each picture (N, H, W, 3) is a success, frame by frame: (N,). As `logits`."""
        return self.success_probability(images, instruction) >= self.threshold

    def _direction(self, instruction: str) -> Tensor:
        key = normalised(instruction)
        if key not in self._known:
            raise DataError(
                f"reward model for {' / '.join(map(repr, self.instructions))} was asked about "
                f"{instruction!r}: train one on episodes of that instruction"
            )
        if key not in self._directions:
            self._directions[key] = self.backbone.directions(prompt_pairs(key, self.templates)).mean(0)
        return self._directions[key]

    def save(self, path: str | Path) -> None:
        """Write the artifact: open_clip's own `local-dir:` files, and the rest in the manifest.

        Raises:
            DataError: the place cannot be written.
        """
        save_artifact(
            path,
            KIND,
            {
                CONFIG_FILE: self.backbone.config_json().encode(),
                WEIGHTS_FILE: self.backbone.clip.state_dict(),
            },
            {
                "tasks": list(self.tasks),
                "instructions": list(self.instructions),
                "calibration": dataclasses.asdict(self.calibration),
                "templates": [list(pair) for pair in self.templates],
            },
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        task: str | None = None,
        instruction: str | None = None,
        device: torch.device | str = "cpu",
    ) -> SuccessClassifier:
        """Read an artifact, checking every byte, and that it judges `task` and `instruction` where given.

        Raises:
            DataError: missing or damaged, of another kind, or for another task or instruction.
        """
        artifact = load_artifact(path, KIND)
        facts = artifact.metadata
        if task is not None and task not in facts["tasks"]:
            raise DataError(
                f"reward model {path} judges task {' / '.join(map(repr, facts['tasks']))}; "
                f"expected {task!r}: give one trained on {task!r}"
            )
        known = {normalised(each) for each in facts["instructions"]}
        if instruction is not None and normalised(instruction) not in known:
            raise DataError(
                f"reward model {path} judges {' / '.join(map(repr, facts['instructions']))}; "
                f"expected {instruction!r}: give one trained on that instruction"
            )
        backbone = Backbone(f"local-dir:{artifact.path}").to(device)
        return cls(
            backbone,
            facts["tasks"],
            facts["instructions"],
            Calibration(**facts["calibration"]),
            [PromptPair(*pair) for pair in facts["templates"]],
        )
