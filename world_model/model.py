"""`WorldModel`: imagines the next picture, the next state and the chance of success."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from robot_rl.data import schema
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError
from world_model.denoiser import ActionEncoder, FrameDenoiser, WorldModelConfig, to_bytes, to_pixels
from world_model.heads import NextStateHead, SuccessHead

KIND: Final = "world_model"
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class WorldModelSpec:
    """What a world model was made for; it fits nothing that differs in any field."""

    task: str
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

    def check(self, episodes: Sequence[Episode]) -> None:
        """Raises DataError naming the first episode and field that differ from this specification."""
        for number, episode in enumerate(episodes):
            other = WorldModelSpec.of(episode, self.camera)
            for field in dataclasses.fields(self):
                found, wanted = getattr(other, field.name), getattr(self, field.name)
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


class WorldModel(nn.Module):
    """Frame denoiser, next-state head and success head of one task.

    Attributes:
        spec: what it was made for. config: its sizes.
        state_mean, state_scale, delta_scale, state_low, state_high: float32 (S,), from the training data.
    """

    state_mean: Tensor
    state_scale: Tensor
    delta_scale: Tensor
    state_low: Tensor
    state_high: Tensor

    def __init__(self, spec: WorldModelSpec, config: WorldModelConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.encode_action = ActionEncoder(config, spec.action_dim)
        encoded = self.encode_action.size
        self.denoiser = FrameDenoiser(config, spec.height, spec.width, encoded + 2 * spec.state_dim)
        self.next_state = NextStateHead(
            spec.state_dim,
            spec.action_dim + encoded,
            spec.height,
            spec.width,
            config.patch,
            config.head_width,
        )
        self.success = SuccessHead(spec.height, spec.width)
        for name, value in (("state_mean", 0.0), ("state_low", -torch.inf), ("state_high", torch.inf)):
            self.register_buffer(name, torch.full((spec.state_dim,), value))
        for name in ("state_scale", "delta_scale"):
            self.register_buffer(name, torch.ones(spec.state_dim))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the denoiser's arithmetic."""
        bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.state_mean.device.type, torch.bfloat16, enabled=bfloat16)

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

    def condition(self, state: Tensor, encoded_action: Tensor, next_state: Tensor) -> Tensor:
        """What the denoiser is told (B, C): the encoded action, the state, and where it will be."""
        return torch.cat([encoded_action, self.normalise(state), self.normalise(next_state)], 1)

    @torch.inference_mode()
    def predict(
        self,
        frames: Tensor,
        state: Tensor,
        previous: Tensor,
        action: Tensor,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> Prediction:
        """Imagine one step.

        Args:
            frames: the last H frames, oldest first, uint8 (B, H, h, w, 3).
            state, previous: float32 (B, S), now and one step before. action: float32 (B, A) in [-1, 1].
            generator: of the denoiser's noise; a sequence of B gives each member its own.
        """
        history = to_pixels(frames)
        encoded = self.encode_action(action)
        next_state = self.predict_state(history, state, previous, action)
        shape = (len(frames), 3, self.spec.height, self.spec.width)
        if isinstance(generator, torch.Generator):
            noise = torch.randn(shape, generator=generator, device=generator.device)
        else:
            noise = torch.stack([torch.randn(shape[1:], generator=g, device=g.device) for g in generator])
        with self.autocast():
            pixels = self.denoiser.sample(
                history, self.condition(state, encoded, next_state), noise.to(history)
            )
        frame = to_bytes(pixels)
        return Prediction(frame, next_state, self.success_probability(frame))

    @torch.inference_mode()
    def success_probability(self, frames: Tensor) -> Tensor:
        """Probability (B,) that uint8 frames (B, h, w, 3) show success."""
        return self.success(to_pixels(frames)).sigmoid()

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
        config["channels"] = tuple(config["channels"])
        model = cls(WorldModelSpec(**artifact.metadata), WorldModelConfig(**config))
        model.load_state_dict(artifact.tensors(WEIGHTS))
        return model.eval().requires_grad_(False)
