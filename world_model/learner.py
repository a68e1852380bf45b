"""Trains a `WorldModel`: frames, next state and success in the same update, partly on its own predictions."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.data import schema
from robot_rl.data.augmentation import augment_windows
from robot_rl.data.episode import Episode
from robot_rl.data.statistics import STD_FLOOR
from robot_rl.errors import DataError, RobotRLError
from world_model.codec import LatentCodec
from world_model.config import WorldModelLearnerConfig
from world_model.denoiser import to_pixels
from world_model.heads import choose_threshold
from world_model.losses import end_loss, imagined_success_loss, pixel_weight, success_loss
from world_model.metrics import replay
from world_model.model import WorldModel, WorldModelSpec
from world_model.parallel import Group
from world_model.walk import Walk
from world_model.windows import FrameTable


class DivergenceError(RobotRLError):
    """Training met a loss that is not finite. Nothing was changed by that update."""


class WorldModelLearner:
    """A `robot_rl.trainers.protocols.Learner`.

    Every member of the batch walks along an episode: with probability `own_context` its next window ends
    in the frame and state it has just predicted, so the model learns to mend its own drift at no extra
    forward pass; otherwise it starts anew at a random real window.

    With `shards` above 1 the episodes and the batch are split, and the gradient is the mean over shards; the
    processes of `group` hold equal numbers of them, so their number does not change what is learnt.

    Args:
        episodes: every process gets all of them, in the same order, and keeps the pictures of its shards.
        start: weights to begin from, such as those of a model of many tasks.

    Raises:
        DataError: episodes of several robots, cameras or resolutions, of several tasks without `language`, or
            too few.
        ConfigError: pictures that do not fit the network.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        config: WorldModelLearnerConfig,
        camera: str = schema.IMAGE,
        group: Group | None = None,
        start: WorldModel | None = None,
    ) -> None:
        if start is not None:
            config = dataclasses.replace(config, model=start.config, start=config.start or "given")
        self.config, self.group = config, group or Group()
        self.codec_updates = 0 if start is not None else config.codec_updates
        self.total_updates = self.codec_updates + config.total_updates
        held = max(1, round(config.validation_fraction * len(episodes)))
        if len(episodes) < held + config.shards:
            raise DataError(
                f"{len(episodes)} episodes for the world model; expected at least {held + config.shards}: "
                "collect more"
            )
        several = config.model.language != "none"
        spec = (
            WorldModelSpec.of_tasks(episodes, camera) if several else WorldModelSpec.of(episodes[0], camera)
        )
        if start is not None:
            spec = start.spec
        spec.check(episodes)
        order = np.random.default_rng(config.seed).permutation(len(episodes))
        self.validation = [episodes[i] for i in order[:held]]
        train = [episodes[i] for i in order[held:]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.online = WorldModel(spec, config.model)
        self._fit_statistics(train)
        if start is not None:
            self.online.load_state_dict(start.state_dict())
            self.online.codec.requires_grad_(False)
        self.online.to(config.device)
        self.averaged = copy.deepcopy(self.online).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.online.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.updates = 0
        self.walks = [
            Walk(
                FrameTable(train[shard :: config.shards], camera, self.online.embed).to(config.device),
                config.batch_size // config.shards,
                config.model.history,
                config.seed + 1_000_003 * shard,
            )
            for shard in self.group.shards(config.shards)
        ]

    @property
    def model(self) -> WorldModel:
        """The averaged weights, frozen; the last update sets success threshold and uncertainty limit."""
        return self.averaged

    def update(self) -> dict[str, float]:
        """One optimiser step: on the autoencoder at first, then on every part that dreams.

        Raises:
            DivergenceError: the loss is not finite; weights and optimiser are as before.
        """
        training_codec = self.updates < self.codec_updates
        self.optimiser.zero_grad(set_to_none=True)
        means = [
            self._accumulate(*(self._codec_losses(walk) if training_codec else self._losses(walk)))
            for walk in self.walks
        ]
        names = list(means[0])
        values = torch.stack([torch.stack([mean[name] for name in names]) for mean in means]).mean(0)
        values = self.group.average(values)
        metrics = dict(zip(names, values.tolist(), strict=True))
        if not math.isfinite(loss := metrics.pop("loss")):
            raise DivergenceError(
                f"world model loss is {loss} at update {self.updates}; the last checkpoint is good: resume "
                f"from it with a learning_rate below {self.config.learning_rate:g}"
            )
        self.group.average_gradients(self.online.parameters())
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        # Each part by itself: the picture's gradient is the largest by far and would drown the others.
        norms = [
            float(nn.utils.clip_grad_norm_(part.parameters(), self.config.gradient_clip))
            for part in self._parts()
        ]
        if not all(map(math.isfinite, norms)):  # before a weight is touched
            raise DivergenceError(
                f"world model gradients have norms {norms} at update {self.updates}; the last checkpoint is "
                f"good: resume from it with a learning_rate below {self.config.learning_rate:g}"
            )
        self.optimiser.step()
        self._average()
        self.updates += 1
        metrics["gradient_norm"] = max(norms)
        if self.updates == self.codec_updates:
            self._freeze_codec()
        if self.updates == self.total_updates:
            metrics["success_threshold"] = self.calibrate()
        return metrics

    def _parts(self) -> list[nn.Module]:
        model = self.online
        heads = [model.next_state, model.success] + ([model.ending] if model.config.end_head else [])
        codec = [model.codec] if self.updates < self.codec_updates else []
        return [*model.denoisers, *heads, *codec]

    def _accumulate(self, loss: Tensor, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradient of a shard's share of the loss."""
        if torch.isfinite(loss):  # else no weight is touched, and `update` says so
            (loss / len(self.walks)).backward()
        return {name: value.detach().float() for name, value in ({"loss": loss} | metrics).items()}

    def calibrate(self, distilled: WorldModel | None = None) -> float:
        """Set the success threshold on the validation episodes, real and imagined, and return it; and the
        limit of the uncertainty on the imagined ones. Of this learner's model, or of one distilled from it,
        which imagines otherwise."""
        model = distilled or self.averaged
        table = FrameTable(self.validation, self.online.spec.camera, model.embed).to(self.config.device)
        index = torch.arange(len(table.frames), device=self.config.device)
        real = torch.cat(
            [model.success_probability(table.frames[part], table.told(part)) for part in index.split(256)]
        ).cpu()
        played = replay(model, self.validation)
        threshold = choose_threshold(
            torch.cat([real, played.success[played.valid]]),
            torch.cat([table.success.cpu(), played.truth[played.valid]]),
            self.config.max_false_positive,
        )
        for part in [distilled] if distilled else [self.averaged, self.online]:
            part.success.threshold.fill_(threshold)
            if self.config.model.members > 1:
                share = self.config.uncertainty_percentile / 100
                part.uncertainty_limit.fill_(torch.quantile(played.uncertainty[played.valid], share))
        return threshold

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes. In a group of processes without the windows, which are those of one
        process alone: a resumed group draws new ones."""
        state = {
            "online": self.online.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
        }
        return state | {"walks": [walk.state_dict() for walk in self.walks] if self.group.size == 1 else []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.online.load_state_dict(state["online"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = int(state["updates"])
        self.online.codec.requires_grad_(self.updates < self.codec_updates)
        if self.group.size == 1 and len(state["walks"]) == len(self.walks):
            for walk, stored in zip(self.walks, state["walks"], strict=True):
                walk.load_state_dict(stored)
            return
        for shard, walk in zip(self.group.shards(self.config.shards), self.walks, strict=True):
            walk.generator.manual_seed(self.config.seed + 1_000_003 * shard + self.updates)
            walk.start()

    # ---- losses of one shard

    def _losses(self, walk: Walk) -> tuple[Tensor, dict[str, Tensor]]:
        walk.advance(self._own_context())
        frame_loss, state_loss, picture, state = self._dynamics_loss(walk)
        judged = success_loss(self.online, walk) + imagined_success_loss(self.online, walk, picture)
        loss = frame_loss + 0.1 * state_loss + 0.1 * judged
        metrics = {"frame_loss": frame_loss, "state_loss": state_loss, "success_loss": judged}
        if self.config.model.end_head:
            metrics["end_loss"] = end_loss(self.online, walk, picture)
            loss = loss + 0.1 * metrics["end_loss"]
        if torch.isfinite(loss):
            walk.go_on(picture, state)
        return loss, metrics

    def _codec_losses(self, walk: Walk) -> tuple[Tensor, dict[str, Tensor]]:
        codec = self.online.codec
        assert isinstance(codec, LatentCodec)
        pixels = to_pixels(walk.table.frames[walk.pick(walk.table.steps, walk.batch)])
        with self.online.autocast():
            loss = codec.loss(pixels, walk.generator)
        return loss, {"codec_loss": loss}

    def _dynamics_loss(self, walk: Walk) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(frame loss, state loss, predicted picture (B, 3, h, w), predicted state (B, S))."""
        model, table = self.online, walk.table
        history = to_pixels(walk.history)
        action = model.encode_action(table.actions[walk.cursor])
        target = to_pixels(table.frames[walk.cursor + 1])
        if self.config.augmentation:
            window = torch.cat([history, target[:, None]], 1) / 2 + 0.5
            window = augment_windows(window, self.config.augmentation, walk.generator) * 2 - 1
            history, target = window[:, :-1], window[:, -1]
        next_state = model.predict_state(history, walk.state, walk.previous, table.actions[walk.cursor])
        error = (next_state - table.states[walk.cursor + 1]) / model.delta_scale
        state_loss = F.smooth_l1_loss(error, torch.zeros_like(error))
        told = table.told(walk.cursor)
        condition = model.condition(walk.state, action, next_state.detach(), told)
        weight = model.codec.shrink(pixel_weight(self.config, walk, target, history[:, -1]))
        with model.autocast():
            with torch.no_grad():  # a codec of latents is frozen by now
                past, following = model.codec.encode(history), model.codec.encode(target).float()
            losses = [
                member.loss(past, condition, following, weight, walk.generator) for member in model.denoisers
            ]
            with torch.no_grad():
                picture = model.codec.decode(losses[0][1]).float()
        frame_loss = torch.stack([loss for loss, _ in losses]).mean() if len(losses) > 1 else losses[0][0]
        return frame_loss, state_loss, picture, next_state.detach()

    def _own_context(self) -> float:
        """Early predictions are no frames to learn from, so windows are real at first."""
        low, high = self.config.own_context_ramp
        share = (self._progress() - low) / (high - low)
        return self.config.own_context * min(1.0, max(0.0, share))

    def _progress(self) -> float:
        """The share of the updates done, of those after the codec's."""
        return (self.updates - self.codec_updates) / self.config.total_updates

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a hundredth."""
        config = self.config
        if self.updates < self.codec_updates:
            return config.codec_learning_rate
        warmup = min(1.0, (self.updates - self.codec_updates + 1) / (config.warmup_updates + 1))
        return config.learning_rate * warmup * (0.505 + 0.495 * math.cos(math.pi * self._progress()))

    @torch.no_grad()
    def _average(self) -> None:
        """averaged <- averaged + (1 - ema) (online - averaged), faster at first."""
        rate = 1 - min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.online.parameters()), rate)

    def _freeze_codec(self) -> None:
        """Latents keep their meaning from now on."""
        for model in (self.online, self.averaged):
            codec = model.codec
            assert isinstance(codec, LatentCodec)
            codec.load_state_dict(self.online.codec.state_dict())
            # Of the validation episodes, which every process holds: all must take the same scale.
            frames = FrameTable(self.validation, model.spec.camera).frames.to(self.config.device)
            codec.fit_scale(to_pixels(frames))
            codec.requires_grad_(False)

    def _fit_statistics(self, episodes: Sequence[Episode]) -> None:
        """Set the model's scales and ranges of the state from the training episodes."""
        rows = [torch.from_numpy(episode.observations[schema.STATE]).float() for episode in episodes]
        states = torch.cat(rows)
        change = torch.cat([row[1:] - row[:-1] for row in rows])
        low, high = states.amin(0), states.amax(0)
        margin = 0.05 * (high - low)
        for name, value in (
            ("state_mean", states.mean(0)),
            ("state_scale", _scale(states)),
            ("delta_scale", _scale(change)),
            ("state_low", low - margin),
            ("state_high", high + margin),
        ):
            getattr(self.online, name).copy_(value)


def _scale(rows: Tensor) -> Tensor:
    """Deviation of each column, 1 where it is constant."""
    deviation = rows.std(0)
    return torch.where(deviation < STD_FLOOR, torch.ones_like(deviation), deviation)
