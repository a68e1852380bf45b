"""`SuccessClassifier`: is the instruction fulfilled at this moment?"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from reward_vlm.calibration import Calibration
from reward_vlm.clip import ClipScorer
from reward_vlm.judge import Frames
from reward_vlm.pose import PoseCheck
from reward_vlm.prompts import normalised
from reward_vlm.scorer import Scorer, Scores, load_scorer
from robot_rl.data import schema
from robot_rl.data.artifact import MANIFEST, load_artifact, save_artifact
from robot_rl.errors import DataError

KIND: Final = "reward"


class SuccessClassifier:
    """A calibrated yes/no judge for the tasks and instructions that it was trained on.

    p = calibration(score of the back end), 0 where the pose check rules a success out. A moment is a
    success at p >= threshold, an episode after `debounce` of them in a row. A `SuccessJudge`.
    """

    def __init__(
        self,
        scorer: Scorer,
        tasks: Sequence[str],
        instructions: Sequence[str],
        calibration: Calibration,
        cameras: Sequence[str] = (schema.DEFAULT_CAMERA,),
        pose: PoseCheck | None = None,
        paraphrases: float | None = None,
    ) -> None:
        """
        Args:
            paraphrases: least cosine between the text directions of an unknown wording and of a known
                instruction at which the one is taken for the other; None refuses unknown wordings.
        """
        self.scorer = scorer
        self.tasks, self.instructions = tuple(tasks), tuple(instructions)
        self.calibration = calibration
        self.cameras, self.pose = tuple(cameras), pose
        self.paraphrases = paraphrases
        self._fingerprint = ""
        self._known = {normalised(instruction): instruction for instruction in instructions}
        if isinstance(scorer, ClipScorer):
            for instruction, wordings in scorer.wordings.items():
                self._known |= {normalised(each): self._known[instruction] for each in wordings}

    @property
    def threshold(self) -> float:
        return self.calibration.threshold

    @property
    def debounce(self) -> int:
        """Consecutive positive frames that the threshold was chosen for."""
        return self.calibration.debounce

    @property
    def fingerprint(self) -> str:
        """Of the weights, the calibration and everything else that an answer hangs on."""
        if not self._fingerprint:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder) / "model")
                manifest = (Path(folder) / "model" / MANIFEST).read_bytes()
            self._fingerprint = hashlib.sha256(manifest).hexdigest()
        return self._fingerprint

    def scores(self, frames: Frames) -> Scores:
        """Uncalibrated scores (N,).

        Raises:
            DataError: the model does not know the instruction, or the pictures are none.
        """
        pictures = frames.pictures(self.cameras)
        if pictures.dtype != np.uint8 or pictures.ndim != 5 or pictures.shape[-1] != 3:
            shape = (len(pictures), *pictures.shape[2:])
            raise DataError(f"pictures are {pictures.dtype} {shape}; expected uint8 (N, H, W, 3)")
        return self.scorer.score(pictures, normalised(self.instruction_for(frames.instruction)))

    def judge(self, frames: Frames) -> npt.NDArray[np.float32]:
        """Calibrated probability (N,) that the instruction is fulfilled. Raises as `scores`."""
        return self.probability(frames, self.scores(frames))

    def probability(self, frames: Frames, scores: Scores) -> npt.NDArray[np.float32]:
        """`judge` where the scores (N,) are known."""
        probability = self.calibration.probability(scores)
        if self.pose is not None:
            allowed = self.pose.allows(frames, self.instruction_for(frames.instruction))
            probability = np.where(allowed, probability, np.float32(0))
        return probability

    def success_probability(self, images: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """`judge` of bare pictures (N, H, W, 3), for a classifier of one camera without a pose check."""
        if len(self.cameras) != 1 or self.pose is not None:
            raise DataError(
                f"this reward model looks at {', '.join(self.cameras)}"
                f"{' and at the pose' if self.pose is not None else ''}: give `judge` whole observations"
            )
        return self.judge(Frames({schema.image_key(self.cameras[0]): images}, instruction))

    def decide(self, images: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.bool_]:
        """Whether each picture (N, H, W, 3) is a success, frame by frame: (N,)."""
        return self.success_probability(images, instruction) >= self.threshold

    def instruction_for(self, text: str) -> str:
        """The instruction that `text` is a wording of.

        Raises:
            DataError: none that the model was trained on.
        """
        known = self._known.get(normalised(text))
        if known is None and self.paraphrases is not None and isinstance(self.scorer, ClipScorer):
            similarity = self.similarities(text)
            nearest = max(similarity, key=lambda each: similarity[each])
            known = nearest if similarity[nearest] >= self.paraphrases else None
        if known is None:
            raise DataError(
                f"reward model for {' / '.join(map(repr, self.instructions))} was asked about "
                f"{text!r}: train one on episodes of that instruction"
            )
        return known

    def similarities(self, text: str) -> dict[str, float]:
        """Cosine of the text's direction with each instruction's; of a CLIP without a probe."""
        assert isinstance(self.scorer, ClipScorer)
        direction = self.scorer.text_direction([text])
        return {
            each: float(F.cosine_similarity(direction, self.scorer.direction(each), dim=0))
            for each in self.instructions
        }

    def save(self, path: str | Path) -> None:
        """Write the artifact: the back end's files, and the rest in the manifest.

        Raises:
            DataError: the place cannot be written.
        """
        save_artifact(
            path,
            KIND,
            self.scorer.files(),
            {
                **self.scorer.facts(),
                "backend": self.scorer.backend,
                "tasks": list(self.tasks),
                "instructions": list(self.instructions),
                "calibration": dataclasses.asdict(self.calibration),
                "cameras": list(self.cameras),
                "pose": self.pose and dict(self.pose.boxes),
            },
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        task: str | None = None,
        instruction: str | None = None,
        paraphrases: float | None = None,
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
        known = [
            *facts["instructions"],
            *(text for group in facts.get("wordings", {}).values() for text in group),
        ]
        if instruction is not None and normalised(instruction) not in map(normalised, known):
            raise DataError(
                f"reward model {path} judges {' / '.join(map(repr, facts['instructions']))}; "
                f"expected {instruction!r}: give one trained on that instruction"
            )
        return cls(
            load_scorer(artifact, facts["instructions"], device),
            facts["tasks"],
            facts["instructions"],
            Calibration.from_json(facts["calibration"]),
            facts.get("cameras", (schema.DEFAULT_CAMERA,)),
            PoseCheck.from_json(facts.get("pose")),
            paraphrases,
        )
