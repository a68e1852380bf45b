"""Which reward model, how it is trained, and where its threshold lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from reward_vlm.backbone import SHIPPED
from reward_vlm.generative import GenerativeConfig
from reward_vlm.oracle import OracleConfig
from reward_vlm.preference import PreferenceConfig
from reward_vlm.projection import ProjectionConfig
from robot_rl.data import schema
from robot_rl.data.augmentation import AugmentationConfig
from robot_rl.errors import ConfigError, unknown

Backend = Literal["clip", "projection", "generative", "cnn", "vice", "preference", "oracle"]
Tuning = Literal["full", "lora", "probe"]
CalibrationKind = Literal["temperature", "isotonic"]


@dataclass(frozen=True)
class RewardConfig:
    """The options of every reward model; a back end reads those that it has a use for.

    Attributes:
        backend: `clip` (done or not done), `projection` (VLM-RM), `generative` (a VLM's yes or no), `cnn` (no
            language), `vice` (goal pictures against the policy's), `preference` (RL-VLM-F) or `oracle`.
        model, pretrained: an open_clip architecture and its weights, as in `Backbone`.
        tuning: of `clip`: all weights, LoRA on the picture tower, or a linear probe on a frozen CLIP.
        lora_rank: of the LoRA.
        cameras: that the judge looks at; their scores are averaged.
        updates, batch_size, learning_rate, weight_decay: AdamW with linear warm-up and cosine decay.
        hard_fraction: of the negatives of a batch, those taken next to a success or at a failure's end.
        hard_window: how many frames that is, each side.
        near_miss_fraction: of the negatives, those taken from episodes that start from a near miss.
        counterfactual_fraction: of the successes, those asked about another task's instruction (answer:
            no); without effect where all episodes share one.
        wordings: groups of instructions that mean the same; the classifier knows them all.
        wording_weight: of the loss that pulls wordings with missing words to the group's direction.
        validation_fraction: of the episodes, held back for calibration and threshold.
        calibration: of the probabilities, by temperature and bias or by isotonic regression.
        target_fpr: of validation frames, the most that may be called a success falsely.
        target_episode_false_success: of validation episodes, the most that may be ended falsely.
        debounce: consecutive positive frames that end an episode.
        pose_margin: of the pose check, by how much of its width the box of states at success is widened;
            null: no pose check.
    """

    backend: Backend = "clip"
    model: str = SHIPPED
    pretrained: str | None = None
    tuning: Tuning = "full"
    lora_rank: int = 8
    cameras: tuple[str, ...] = (schema.DEFAULT_CAMERA,)
    updates: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    hard_fraction: float = 0.5
    hard_window: int = 4
    near_miss_fraction: float = 0.0
    counterfactual_fraction: float = 0.25
    wordings: tuple[tuple[str, ...], ...] = ()
    wording_weight: float = 0.1
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(3, 0.2, 0.2, 0.05))
    validation_fraction: float = 0.25
    calibration: CalibrationKind = "temperature"
    target_fpr: float = 0.01
    target_episode_false_success: float = 0.03
    debounce: int = 2
    pose_margin: float | None = None
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    generative: GenerativeConfig = field(default_factory=GenerativeConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    oracle: OracleConfig = field(default_factory=OracleConfig)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, kind in (("backend", Backend), ("tuning", Tuning), ("calibration", CalibrationKind)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(f"reward {name}", str(getattr(self, name)), get_args(kind))
        for name in ("updates", "hard_window", "debounce", "lora_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reward {name} is {getattr(self, name)}; expected at least 1")
        if self.batch_size < 4:
            raise ConfigError(f"reward batch_size is {self.batch_size}; expected at least 4")
        if not self.cameras:
            raise ConfigError("reward cameras is empty; expected at least one camera")
        if not self.learning_rate > 0:
            raise ConfigError(f"reward learning_rate is {self.learning_rate}; expected a positive number")
        for name in (
            "warmup_fraction",
            "hard_fraction",
            "near_miss_fraction",
            "counterfactual_fraction",
            "validation_fraction",
            "target_fpr",
            "target_episode_false_success",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"reward {name} is {getattr(self, name)}; expected a number in [0, 1)")
        if self.validation_fraction == 0:
            raise ConfigError("reward validation_fraction is 0; expected more, for the threshold's sake")
        for name in ("wording_weight", "pose_margin"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"reward {name} is {getattr(self, name)}; expected at least 0")

    def wordings_of(self, instruction: str) -> tuple[str, ...]:
        """All wordings of `instruction`, itself first."""
        for group in self.wordings:
            if instruction in group:
                return (instruction, *(each for each in group if each != instruction))
        return (instruction,)
