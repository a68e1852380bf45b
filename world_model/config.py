"""What a world model is made of, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from robot_rl.data.augmentation import AugmentationConfig
from robot_rl.errors import ConfigError, unknown

ACTION_ENCODINGS: Final = ("two_hot", "one_hot", "linear")
SPACES: Final = ("pixel", "tiny", "kl")
LANGUAGES: Final = ("none", "hashed", "clip")
TARGETS: Final = ("absolute", "residual")
PRECISIONS: Final = ("float32", "bfloat16")


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of the networks and the diffusion's noise levels. Defaults: two CPU cores, 64 x 64 frames."""

    history: int = 4
    """H, past frames on channels."""
    patch: int = 4
    """Pixel-unshuffle factor: the U-Net sees (h / patch, w / patch)."""
    channels: tuple[int, ...] = (32, 64, 96)
    """Width of the U-Net's levels; each but the last halves the picture."""
    blocks: int = 1
    groups: int = 8
    attention: bool = False
    action_encoding: str = "two_hot"
    action_bins: int = 21
    spatial_channels: int = 8
    """Channels that a linear map of the conditioning draws beside the frames (the camera is fixed); or 0."""
    head_width: int = 128
    target: str = "residual"
    """What is diffused: the next frame, or its difference to the last one."""
    sigma_data: float = 0.5
    log_sigma_mean: float = 3.0
    """High: one step starts from noise alone, so training must not see the answer through the noise."""
    log_sigma_std: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 20.0
    rho: float = 7.0
    steps: int = 1
    """Euler steps when sampling."""
    mean_share: float = 0.5
    """Share of training windows without picture or noise at sigma_max: the limit of large sigma, where the
    denoiser's answer is the mean next frame. 0 is plain EDM."""
    initial_noise: float = 0.0
    """Scale of the noise that sampling starts from. 0 asks for the mean: contact with a rigid block has one
    outcome, and what little noise a small network lets through would add up over an imagined episode."""
    precision: str = "bfloat16"
    """Of the networks' arithmetic under autocast; weights stay float32."""
    space: str = "pixel"
    """What is diffused: pixels, or the latents of a small autoencoder trained here before (diffusers'
    AutoencoderTiny or AutoencoderKL); `patch` then counts latents."""
    latent_channels: int = 4
    latent_widths: tuple[int, ...] = (32, 32, 32)
    """Width of the autoencoder's levels; each but the first halves the picture."""
    members: int = 1
    """Denoisers trained side by side; their disagreement is the uncertainty. The first one is shown."""
    end_head: bool = False
    """A second head on the picture: whether the episode has ended, by success or otherwise."""
    language: str = "none"
    """How the task's instruction enters, for a model of several tasks: not at all, as a fixed hash of its
    words, or through the frozen text tower of an open_clip model."""
    language_dim: int = 64
    """Width of the instruction's embedding; of `clip`, that of its text tower."""
    clip_model: str = ""
    """Of `clip`: an open_clip architecture with its weights as NAME:FILE, or local-dir:FOLDER."""
    channels_last: bool = False
    compile: bool = False
    """torch.compile of the frozen denoiser, with CUDA graphs on a GPU: every batch is then of one size."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("action_encoding", self.action_encoding, ACTION_ENCODINGS),
            ("target", self.target, TARGETS),
            ("space", self.space, SPACES),
            ("language", self.language, LANGUAGES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise unknown(f"world_model.{name}", value, choices)
        for name in (
            *("history", "patch", "blocks", "groups", "action_bins", "steps", "head_width"),
            *("latent_channels", "members", "language_dim"),
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"world_model.{name} is {getattr(self, name)}; expected at least 1")
        if not self.channels or any(width % self.groups for width in self.channels):
            raise ConfigError(f"world_model.channels is {self.channels}; expected multiples of {self.groups}")
        if not self.latent_widths or any(width < 1 for width in self.latent_widths):
            raise ConfigError(
                f"world_model.latent_widths is {self.latent_widths}; expected widths of at least 1"
            )
        if (self.language == "clip") != bool(self.clip_model):
            raise ConfigError(
                f"world_model.language is {self.language!r} and clip_model {self.clip_model!r}; expected "
                "clip_model with language=clip and not without: NAME:FILE or local-dir:FOLDER"
            )
        if self.spatial_channels < 0:
            raise ConfigError(f"world_model.spatial_channels is {self.spatial_channels}; expected at least 0")
        if not 0 <= self.mean_share <= 1 or self.initial_noise < 0:
            raise ConfigError(
                f"world_model.mean_share, initial_noise are {self.mean_share}, {self.initial_noise}; "
                "expected a share in [0, 1] and a scale of at least 0"
            )
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                f"world_model.sigma_min, sigma_max are {self.sigma_min}, {self.sigma_max}; "
                "expected 0 < sigma_min < sigma_max"
            )

    @property
    def reduction(self) -> int:
        """Pixels a side of what is diffused."""
        return 1 if self.space == "pixel" else 2 ** (len(self.latent_widths) - 1)

    def check_image(self, height: int, width: int) -> None:
        """Raises ConfigError where the U-Net cannot halve pictures of (height, width) as often as it must."""
        unit = self.reduction * self.patch * 2 ** (len(self.channels) - 1)
        if height % unit or width % unit:
            latent = f"{self.reduction} pixels a latent x " if self.reduction > 1 else ""
            raise ConfigError(
                f"images of {height} x {width} pixels do not fit the world model; expected multiples of "
                f"{unit} = {latent}patch {self.patch} x 2^({len(self.channels)} levels - 1)"
            )


@dataclass(frozen=True)
class WorldModelLearnerConfig:
    """How a world model is trained. Defaults: about five minutes on two CPU cores."""

    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    total_updates: int = 4500
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_updates: int = 100
    weight_decay: float = 1e-2
    gradient_clip: float = 1.0
    ema: float = 0.995
    motion_weight: float = 10.0
    """Extra weight of pixels that differ from the last frame."""
    foreground_weight: float = 0.0
    """Extra weight of pixels that differ from the static background (the median frame)."""
    change_threshold: float = 0.1
    """Such a difference, in pixels of [-1, 1]."""
    relative_floor: float = 0.0
    """If above 0, windows are weighted by 1 / (mean squared change of their picture + this, of pixels in
    [-1, 1]): equal shares of an error count alike, as they do in dB. Else a still window counts little."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Of whole windows, the next frame with them. For few scenes: it takes the fixed camera away."""
    own_context: float = 0.75
    """Probability that a window goes on from the model's own prediction instead of from real frames; it
    rises linearly to this between the two shares of training in `own_context_ramp`."""
    own_context_ramp: tuple[float, float] = (0.2, 0.5)
    validation_fraction: float = 0.1
    """Share of the episodes kept for the success threshold."""
    max_false_positive: float = 0.02
    codec_updates: int = 0
    """Updates at the start that train the autoencoder of a latent model alone; it is frozen after them."""
    codec_learning_rate: float = 1e-3
    distil_updates: int = 0
    """Updates of a consistency distillation to one step afterwards, for a model of several; 0: none."""
    uncertainty_percentile: float = 99.0
    """Of the ensemble's disagreement on validation episodes: where imagination is cut off."""
    shards: int = 1
    """Parts that the episodes and the batch are split into, for that many processes or a divisor of it."""
    start: str = ""
    """A world model to begin from, such as one of many tasks; its sizes then replace `model`."""
    device: str = "cpu"
    """Set by the command line from its own `device`."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("total_updates", "batch_size", "shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected at least 1")
        for name in ("own_context", "validation_fraction", "max_false_positive", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected in [0, 1)")
        if not self.start and (self.codec_updates > 0) != (self.model.space != "pixel"):
            raise ConfigError(
                f"world_model codec_updates is {self.codec_updates} with space={self.model.space}; expected "
                "some for a latent space and 0 for pixels"
            )
        if self.batch_size % self.shards:
            raise ConfigError(
                f"world_model batch_size is {self.batch_size}; expected a multiple of shards={self.shards}"
            )
        if not 0 < self.uncertainty_percentile <= 100:
            raise ConfigError(
                f"world_model uncertainty_percentile is {self.uncertainty_percentile}; expected in (0, 100]"
            )
        low, high = self.own_context_ramp
        if not 0 <= low < high <= 1:
            raise ConfigError(
                f"world_model own_context_ramp is {self.own_context_ramp}; expected 0 <= low < high <= 1"
            )
        for name in ("learning_rate", "codec_learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected above 0")
        if self.distil_updates and (self.model.steps < 2 or self.model.members > 1) and not self.start:
            raise ConfigError(
                f"world_model distil_updates is {self.distil_updates} with {self.model.steps} steps and "
                f"{self.model.members} members; expected at least 2 steps and 1 member"
            )
        for name in (
            "codec_updates",
            "distil_updates",
            "motion_weight",
            "foreground_weight",
            "relative_floor",
            "weight_decay",
            "warmup_updates",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected at least 0")
        if self.augmentation and self.own_context:
            raise ConfigError(
                f"world_model augmentation with own_context {self.own_context}; expected one of them at 0: a "
                "predicted picture is in its window's colours and place, and the next real one is not"
            )
