"""`WorldModel`: imagines the next picture, the next state and the chance of success."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from robot_rl.data import schema
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError
from world_model.codec import make_codec
from world_model.config import WorldModelConfig
from world_model.denoiser import ActionEncoder, FrameDenoiser, to_bytes, to_pixels
from world_model.heads import NextStateHead, SuccessHead
from world_model.language import make_language

KIND: Final = "world_model"
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
TASKS_JOINT: Final = "|"


@dataclass(frozen=True)
class WorldModelSpec:
    """What a world model was made for; it fits nothing that differs in any field."""

    task: str
    """Its name; of several tasks, their names in alphabetical order with a bar between."""
    robot: str
    control_hz: float
    camera: str
    """The observation key of the picture that is imagined."""
    height: int
    width: int
    state_dim: int
    action_dim: int

    @classmethod
    def of(cls, episode: Episode, camera: str = schema.IMAGE) -> WorldModelSpec:
        """
        Raises:
            DataError: the episode has no such camera.
        """
        if camera not in episode.observations:
            raise DataError(f"episode lacks the camera {camera!r}; it has {sorted(episode.observations)}")
        _, height, width, _ = episode.observations[camera].shape
        return cls(
            task=episode.metadata.task,
            robot=episode.metadata.robot,
            control_hz=float(episode.metadata.control_hz),
            camera=camera,
            height=height,
            width=width,
            state_dim=episode.observations[schema.STATE].shape[1],
            action_dim=episode.action.shape[1],
        )

    @classmethod
    def of_tasks(cls, episodes: Sequence[Episode], camera: str = schema.IMAGE) -> WorldModelSpec:
        """Of all the tasks that `episodes` show.

        Raises:
            DataError: an episode has no such camera.
        """
        tasks = sorted({episode.metadata.task for episode in episodes})
        return dataclasses.replace(cls.of(episodes[0], camera), task=TASKS_JOINT.join(tasks))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that the model knows."""
        return tuple(self.task.split(TASKS_JOINT))

    def check(self, episodes: Sequence[Episode]) -> None:
        """Raises DataError naming the first episode and field that differ from this specification."""
        for number, episode in enumerate(episodes):
            other = WorldModelSpec.of(episode, self.camera)
            for field in dataclasses.fields(self):
                found, wanted = getattr(other, field.name), getattr(self, field.name)
                if field.name == "task" and found in self.tasks:
                    continue
                if found != wanted:
                    raise DataError(
                        f"episode {number} has {field.name} {found!r}; the world model expects {wanted!r}: "
                        "use episodes of one task, robot, camera and resolution"
                    )


@dataclass
class Prediction:
    """One imagined step of B arms."""

    frame: Tensor
    """uint8 (B, h, w, 3)."""
    state: Tensor
    """float32 (B, S), in the units of the observations."""
    success: Tensor
    """float32 (B,), probability for balanced classes."""
    uncertainty: Tensor
    """float32 (B,): the denoisers' disagreement, in pixels of [-1, 1]; 0 of one alone."""
    ended: Tensor
    """float32 (B,), probability that the episode has ended; 0 without an end head."""


class WorldModel(nn.Module):
    """Frame denoiser, next-state head and success head of one task.

    Attributes:
        spec: what it was made for. config: its sizes.
        state_mean, state_scale, delta_scale, state_low, state_high: float32 (S,), from the training data.
        uncertainty_limit: float32 (), the 99th percentile on validation; of several denoisers.

    Raises:
        ConfigError: pictures that do not fit the networks, or an instruction's model that cannot be read.
    """

    state_mean: Tensor
    state_scale: Tensor
    delta_scale: Tensor
    state_low: Tensor
    state_high: Tensor
    uncertainty_limit: Tensor

    def __init__(self, spec: WorldModelSpec, config: WorldModelConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.encode_action = ActionEncoder(config, spec.action_dim)
        encoded = self.encode_action.size
        self.codec = make_codec(config, spec.height, spec.width)
        self.language = make_language(config)
        told = config.language_dim if self.language else 0
        width = encoded + 2 * spec.state_dim + told
        self.denoiser = FrameDenoiser(config, self.codec.frame_shape, width)
        self.next_state = NextStateHead(
            spec.state_dim,
            spec.action_dim + encoded,
            spec.height,
            spec.width,
            config.patch * config.reduction,
            config.head_width,
        )
        self.success = SuccessHead(spec.height, spec.width, told)
        # What only some models have comes last, and adds nothing to the others' state.
        if config.end_head:
            self.ending = SuccessHead(spec.height, spec.width, told)
        self.others = nn.ModuleList(
            FrameDenoiser(config, self.codec.frame_shape, width) for _ in range(config.members - 1)
        )
        if config.members > 1:
            self.register_buffer("uncertainty_limit", torch.tensor(torch.inf))
        for name, value in (("state_mean", 0.0), ("state_low", -torch.inf), ("state_high", torch.inf)):
            self.register_buffer(name, torch.full((spec.state_dim,), value))
        for name in ("state_scale", "delta_scale"):
            self.register_buffer(name, torch.ones(spec.state_dim))

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    @property
    def denoisers(self) -> list[FrameDenoiser]:
        """Every member of the ensemble, the one that is shown first."""
        return [self.denoiser, *(cast(FrameDenoiser, other) for other in self.others)]

    def embed(self, instructions: Sequence[str]) -> Tensor | None:
        """Instructions (N,) -> (N, L), or None for a model of one task."""
        return self.language.embed(instructions).to(self.device) if self.language else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the denoiser's arithmetic."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def normalise(self, state: Tensor) -> Tensor:
        """States (B, S) about zero with deviation about one."""
        return (state - self.state_mean) / self.state_scale

    def predict_state(self, history: Tensor, state: Tensor, previous: Tensor, action: Tensor) -> Tensor:
        """Next states (B, S), kept within the range of the training data.

        history (B, H, 3, h, w), state and the one before it (B, S), action (B, A) as it is and encoded.
        """
        motion = (state - previous) / self.delta_scale
        told = torch.cat([action, self.encode_action(action)], 1)
        delta = self.next_state(history, self.normalise(state), motion, told)
        return (state + delta * self.delta_scale).clamp(self.state_low, self.state_high)

    def condition(
        self, state: Tensor, encoded_action: Tensor, next_state: Tensor, instruction: Tensor | None = None
    ) -> Tensor:
        """What the denoiser is told (B, C): the encoded action, the state, where it will be, the task."""
        told = [encoded_action, self.normalise(state), self.normalise(next_state)]
        return torch.cat(told if instruction is None else [*told, instruction], 1)

    @torch.inference_mode()
    def predict(
        self,
        frames: Tensor,
        state: Tensor,
        previous: Tensor,
        action: Tensor,
        generator: torch.Generator | Sequence[torch.Generator],
        instruction: Tensor | None = None,
    ) -> Prediction:
        """Imagine one step.

        Args:
            frames: the last H frames, oldest first, uint8 (B, H, h, w, 3).
            state, previous: float32 (B, S), now and one step before. action: float32 (B, A) in [-1, 1].
            generator: of the denoiser's noise; a sequence of B gives each member its own.
            instruction: (B, L), as `embed` gives it.
        """
        history = to_pixels(frames)
        encoded = self.encode_action(action)
        next_state = self.predict_state(history, state, previous, action)
        noise = self._noise(len(frames), generator).to(history)
        with self.autocast():
            past = self.codec.encode(history)
            condition = self.condition(state, encoded, next_state, instruction)
            imagined = [
                self.codec.decode(member.sample(past, condition, noise)).float() for member in self.denoisers
            ]
        frame = to_bytes(imagined[0])
        absent = torch.zeros(len(frame), device=self.device)
        pixels = to_pixels(frame)
        return Prediction(
            frame,
            next_state,
            self.success(pixels, instruction).sigmoid(),
            disagreement(imagined) if len(imagined) > 1 else absent,
            self.ending(pixels, instruction).sigmoid() if self.config.end_head else absent,
        )

    def _noise(self, count: int, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
        """Standard normal (count, c, h, w)."""
        shape = self.codec.frame_shape
        if isinstance(generator, torch.Generator):
            return torch.randn((count, *shape), generator=generator, device=generator.device)
        return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generator])

    @torch.inference_mode()
    def success_probability(self, frames: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Probability (B,) that uint8 frames (B, h, w, 3) show success."""
        return self.success(to_pixels(frames), instruction).sigmoid()

    def prepare(self) -> WorldModel:
        """Frozen, laid out and compiled as the configuration says, to imagine with; returns itself."""
        self.eval().requires_grad_(False)
        for member in self.denoisers:
            if self.config.channels_last:
                member.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.config.compile:
                # CUDA graphs need batches of one size, which `WorldModelEnv` then gives.
                mode = "reduce-overhead" if self.device.type == "cuda" else "default"
                member.unet.compile(mode=mode, dynamic=False)
        return self

    @property
    def threshold(self) -> float:
        """A frame counts as success above this probability."""
        return float(self.success.threshold)

    def save(self, path: str | Path) -> None:
        """Write an artifact of kind `world_model`.

        Raises:
            DataError: the disk is full or the place cannot be written.
        """
        config = dataclasses.asdict(self.config)
        files = {WEIGHTS: self.state_dict(), CONFIG: config}
        save_artifact(path, KIND, files, dataclasses.asdict(self.spec))

    @classmethod
    def load(cls, path: str | Path, expect: WorldModelSpec | None = None) -> WorldModel:
        """The frozen model at `path`, in evaluation mode.

        Raises:
            DataError: damaged, or made for something other than `expect`; the message names what differs.
        """
        artifact = load_artifact(path, KIND, dataclasses.asdict(expect) if expect else None)
        config = artifact.json(CONFIG)
        config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        model = cls(WorldModelSpec(**artifact.metadata), WorldModelConfig(**config))
        model.load_state_dict(artifact.tensors(WEIGHTS))
        return model.eval().requires_grad_(False)


def disagreement(frames: Sequence[Tensor]) -> Tensor:
    """u (B,) of M members' pictures (B, 3, h, w): the root of the mean variance, over members, of a pixel.

    Members start from other weights and differ where data was short (as in RWM-U, arXiv 2504.16680).
    """
    return torch.stack(list(frames)).var(0, unbiased=False).mean((1, 2, 3)).sqrt()
