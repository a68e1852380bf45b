"""Trains a `WorldModel`: frames, next state and success in the same update, partly on its own predictions."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.data import schema
from robot_rl.data.augmentation import AugmentationConfig, augment_windows
from robot_rl.data.episode import Episode
from robot_rl.data.statistics import STD_FLOOR
from robot_rl.errors import ConfigError, DataError, RobotRLError
from world_model.denoiser import WorldModelConfig, to_bytes, to_pixels
from world_model.heads import choose_threshold
from world_model.metrics import replay
from world_model.model import WorldModel, WorldModelSpec
from world_model.windows import FrameTable


class DivergenceError(RobotRLError):
    """Training met a loss that is not finite. Nothing was changed by that update."""


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
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("total_updates", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected at least 1")
        for name in ("own_context", "validation_fraction", "max_false_positive", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected in [0, 1)")
        low, high = self.own_context_ramp
        if not 0 <= low < high <= 1:
            raise ConfigError(
                f"world_model own_context_ramp is {self.own_context_ramp}; expected 0 <= low < high <= 1"
            )
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"world_model {name} is {getattr(self, name)}; expected above 0")
        for name in (
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


class WorldModelLearner:
    """A `robot_rl.trainers.protocols.Learner`.

    Every member of the batch walks along an episode: with probability `own_context` its next window ends
    in the frame and state it has just predicted, so the model learns to mend its own drift at no extra
    forward pass; otherwise it starts anew at a random real window.

    Raises:
        DataError: episodes of several tasks, robots, cameras or resolutions, or too few.
        ConfigError: pictures that do not fit the network.
    """

    def __init__(
        self, episodes: Sequence[Episode], config: WorldModelLearnerConfig, camera: str = schema.IMAGE
    ) -> None:
        if len(episodes) < 2:
            raise DataError(
                f"{len(episodes)} episodes for the world model; expected at least 2: collect more"
            )
        self.config = config
        self.total_updates = config.total_updates
        spec = WorldModelSpec.of(episodes[0], camera)
        spec.check(episodes)
        order = np.random.default_rng(config.seed).permutation(len(episodes))
        held = max(1, round(config.validation_fraction * len(episodes)))
        self.validation = [episodes[i] for i in order[:held]]
        self.table = FrameTable([episodes[i] for i in order[held:]], camera)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.online = WorldModel(spec, config.model)
        self._fit_statistics()
        self.averaged = copy.deepcopy(self.online).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.online.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.updates = 0
        self.background = self._background()
        self.succeeded = torch.nonzero(self.table.success).squeeze(1)
        self.failed = torch.nonzero(~self.table.success).squeeze(1)
        self.cursor = self._draw_steps(config.batch_size)
        self.history = self.table.history(self.cursor, config.model.history)
        self.state = self.table.states[self.cursor]
        self.previous = self.table.previous(self.cursor)

    @property
    def model(self) -> WorldModel:
        """The averaged weights, frozen; the success threshold is set by the last update."""
        return self.averaged

    def update(self) -> dict[str, float]:
        """One optimiser step on every part of the model.

        Raises:
            DivergenceError: the loss is not finite; weights and optimiser are as before.
        """
        self._advance_windows()
        frame_loss, state_loss, frame, state = self._dynamics_loss()
        success_loss = self._success_loss() + self._imagined_success_loss(frame)
        loss = frame_loss + 0.1 * state_loss + 0.1 * success_loss
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"world model loss is {loss.item()} at update {self.updates}; the last checkpoint is good: "
                f"resume from it with a learning_rate below {self.config.learning_rate:g}"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        # Each part by itself: the picture's gradient is the largest by far and would drown the others.
        norm = max(
            float(nn.utils.clip_grad_norm_(part.parameters(), self.config.gradient_clip))
            for part in (self.online.denoiser, self.online.next_state, self.online.success)
        )
        self.optimiser.step()
        self._average()
        self.history = torch.cat([self.history[:, 1:], to_bytes(frame)[:, None]], 1)
        self.previous, self.state = self.state, state
        self.cursor = self.cursor + 1
        self.updates += 1
        metrics = {
            "frame_loss": frame_loss.item(),
            "state_loss": state_loss.item(),
            "success_loss": success_loss.item(),
            "gradient_norm": norm,
        }
        if self.updates == self.total_updates:
            metrics["success_threshold"] = self.calibrate()
        return metrics

    def calibrate(self) -> float:
        """Set the success threshold on the validation episodes, real and imagined, and return it."""
        table = FrameTable(self.validation, self.online.spec.camera)
        real = torch.cat([self.averaged.success_probability(part) for part in table.frames.split(256)])
        imagined, truth, valid = replay(self.averaged, self.validation)
        threshold = choose_threshold(
            torch.cat([real, imagined[valid]]),
            torch.cat([table.success, truth[valid]]),
            self.config.max_false_positive,
        )
        self.averaged.success.threshold.fill_(threshold)
        self.online.success.threshold.fill_(threshold)
        return threshold

    def state_dict(self) -> dict[str, Any]:
        return {
            "online": self.online.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "cursor": self.cursor,
            "history": self.history,
            "state": self.state,
            "previous": self.previous,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.online.load_state_dict(state["online"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.updates = int(state["updates"])
        self.cursor, self.history = state["cursor"], state["history"]
        self.state, self.previous = state["state"], state["previous"]

    def _advance_windows(self) -> None:
        """Start members anew at random real windows, by chance or because their episode is over."""
        fresh = self._draw_steps(self.config.batch_size)
        lot = torch.rand(self.config.batch_size, generator=self.generator)
        renew = (lot >= self._own_context()) | self.table.is_last[self.cursor]
        self.cursor = torch.where(renew, fresh, self.cursor)
        real = self.table.history(self.cursor, self.config.model.history)
        self.history = torch.where(renew[:, None, None, None, None], real, self.history)
        self.state = torch.where(renew[:, None], self.table.states[self.cursor], self.state)
        self.previous = torch.where(renew[:, None], self.table.previous(self.cursor), self.previous)

    def _dynamics_loss(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(frame loss, state loss, predicted frame (B, 3, h, w), predicted state (B, S))."""
        model = self.online
        history = to_pixels(self.history)
        action = model.encode_action(self.table.actions[self.cursor])
        target = to_pixels(self.table.frames[self.cursor + 1])
        if self.config.augmentation:
            window = torch.cat([history, target[:, None]], 1) / 2 + 0.5
            window = augment_windows(window, self.config.augmentation, self.generator) * 2 - 1
            history, target = window[:, :-1], window[:, -1]
        next_state = model.predict_state(history, self.state, self.previous, self.table.actions[self.cursor])
        error = (next_state - self.table.states[self.cursor + 1]) / model.delta_scale
        state_loss = F.smooth_l1_loss(error, torch.zeros_like(error))
        condition = model.condition(self.state, action, next_state.detach())
        weight = self._pixel_weight(target, history[:, -1])
        with model.autocast():
            frame_loss, frame = model.denoiser.loss(history, condition, target, weight, self.generator)
        return frame_loss, state_loss, frame, next_state.detach()

    def _pixel_weight(self, target: Tensor, last: Tensor) -> Tensor:
        """w = 1 + motion_weight [target != last frame] + foreground_weight [target != background], mean 1;
        if `relative_floor` r > 0, divided by (mean (target - last)^2 + r) first."""
        config = self.config
        moving = ((target - last).abs().amax(1, keepdim=True) > config.change_threshold).float()
        foreground = (
            (target - self.background).abs().amax(1, keepdim=True) > config.change_threshold
        ).float()
        weight = 1 + config.motion_weight * moving + config.foreground_weight * foreground
        if config.relative_floor:
            change = (target - last).square().mean((1, 2, 3), keepdim=True)
            weight = weight / (change + config.relative_floor)
        return weight / weight.mean()

    def _success_loss(self) -> Tensor:
        """Class-balanced binary cross-entropy on real frames, disturbed to look like imagined ones."""
        half = self.config.batch_size // 2
        parts = [self._pick(rows, half) for rows in (self.succeeded, self.failed) if len(rows)]
        index = torch.cat(parts)
        frames = to_pixels(self.table.frames[index])
        noise = torch.randn(frames.shape, generator=self.generator)
        strength, blurred = torch.rand(2, len(frames), 1, 1, 1, generator=self.generator)
        frames = frames + 0.1 * strength * noise
        frames = torch.lerp(frames, F.avg_pool2d(frames, 3, 1, 1, count_include_pad=False), blurred)
        return F.binary_cross_entropy_with_logits(
            self.online.success(frames), self.table.success[index].float()
        )

    def _imagined_success_loss(self, frame: Tensor) -> Tensor:
        """Class-weighted cross-entropy on the frames (B, 3, h, w) just imagined, against what really came.

        A head that has seen real frames alone takes a smear over the goal for success, and PPO finds that.
        """
        label = self.table.success[self.cursor + 1].float()
        rate = len(self.succeeded) / (len(self.succeeded) + len(self.failed))
        if not 0 < rate < 1:
            return torch.zeros(())
        weight = torch.where(label > 0.5, 0.5 / rate, 0.5 / (1 - rate))
        return F.binary_cross_entropy_with_logits(self.online.success(frame.clamp(-1, 1)), label, weight)

    def _draw_steps(self, count: int) -> Tensor:
        return self._pick(self.table.steps, count)

    def _pick(self, rows: Tensor, count: int) -> Tensor:
        return rows[torch.randint(len(rows), (count,), generator=self.generator)]

    def _own_context(self) -> float:
        """Early predictions are no frames to learn from, so windows are real at first."""
        low, high = self.config.own_context_ramp
        share = (self.updates / self.config.total_updates - low) / (high - low)
        return self.config.own_context * min(1.0, max(0.0, share))

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a hundredth."""
        config = self.config
        warmup = min(1.0, (self.updates + 1) / (config.warmup_updates + 1))
        progress = self.updates / config.total_updates
        return config.learning_rate * warmup * (0.505 + 0.495 * math.cos(math.pi * progress))

    @torch.no_grad()
    def _average(self) -> None:
        """averaged <- averaged + (1 - ema) (online - averaged), faster at first."""
        rate = 1 - min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.online.parameters()), rate)

    def _fit_statistics(self) -> None:
        """Set the model's scales and ranges of the state from the training episodes."""
        model, table = self.online, self.table
        change = table.states[table.steps + 1] - table.states[table.steps]
        low, high = table.states.amin(0), table.states.amax(0)
        margin = 0.05 * (high - low)
        for name, value in (
            ("state_mean", table.states.mean(0)),
            ("state_scale", _scale(table.states)),
            ("delta_scale", _scale(change)),
            ("state_low", low - margin),
            ("state_high", high + margin),
        ):
            getattr(model, name).copy_(value)

    def _background(self) -> Tensor:
        """The median (3, h, w) of at most 255 frames spread over the episodes."""
        stride = max(1, len(self.table.frames) // 255)
        return to_pixels(self.table.frames[::stride].median(0).values)


def _scale(rows: Tensor) -> Tensor:
    """Deviation of each column, 1 where it is constant."""
    deviation = rows.std(0)
    return torch.where(deviation < STD_FLOOR, torch.ones_like(deviation), deviation)
