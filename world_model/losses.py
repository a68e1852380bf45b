"""The losses beside the denoiser's own, each of one walk: its members' windows, B of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from world_model.config import WorldModelLearnerConfig
from world_model.denoiser import to_pixels
from world_model.model import WorldModel
from world_model.walk import Walk


def pixel_weight(config: WorldModelLearnerConfig, walk: Walk, target: Tensor, last: Tensor) -> Tensor:
    """w = 1 + motion_weight [target != last frame] + foreground_weight [target != background], mean 1;
    if `relative_floor` r > 0, divided by (mean (target - last)^2 + r) first."""
    moving = ((target - last).abs().amax(1, keepdim=True) > config.change_threshold).float()
    foreground = ((target - walk.background).abs().amax(1, keepdim=True) > config.change_threshold).float()
    weight = 1 + config.motion_weight * moving + config.foreground_weight * foreground
    if config.relative_floor:
        change = (target - last).square().mean((1, 2, 3), keepdim=True)
        weight = weight / (change + config.relative_floor)
    return weight / weight.mean()


def success_loss(model: WorldModel, walk: Walk) -> Tensor:
    """Class-balanced binary cross-entropy on real frames, disturbed to look like imagined ones."""
    half = max(1, walk.batch // 2)
    parts = [walk.pick(rows, half) for rows in (walk.succeeded, walk.failed) if len(rows)]
    index = torch.cat(parts)
    frames = to_pixels(walk.table.frames[index])
    noise = torch.randn(frames.shape, generator=walk.generator, device=index.device)
    strength, blurred = torch.rand(2, len(frames), 1, 1, 1, generator=walk.generator, device=index.device)
    frames = frames + 0.1 * strength * noise
    frames = torch.lerp(frames, F.avg_pool2d(frames, 3, 1, 1, count_include_pad=False), blurred)
    return F.binary_cross_entropy_with_logits(
        model.success(frames, walk.table.told(index)), walk.table.success[index].float()
    )


def imagined_success_loss(model: WorldModel, walk: Walk, picture: Tensor) -> Tensor:
    """Class-weighted cross-entropy on the pictures (B, 3, h, w) just imagined, against what really came.

    A head that has seen real frames alone takes a smear over the goal for success, and PPO finds that.
    """
    arrived = walk.cursor + 1
    rate = len(walk.succeeded) / (len(walk.succeeded) + len(walk.failed))
    logits = model.success(picture.clamp(-1, 1), walk.table.told(arrived))
    return balanced_loss(logits, walk.table.success[arrived], rate)


def end_loss(model: WorldModel, walk: Walk, picture: Tensor) -> Tensor:
    """The same of the end head, on the pictures imagined and those that really came."""
    arrived, table = walk.cursor + 1, walk.table
    rate = float(table.ended.float().mean())
    told, truth = table.told(arrived), table.ended[arrived]
    real = model.ending(to_pixels(table.frames[arrived]), told)
    imagined = model.ending(picture.clamp(-1, 1), told)
    return balanced_loss(real, truth, rate) + balanced_loss(imagined, truth, rate)


def balanced_loss(logits: Tensor, truth: Tensor, rate: float) -> Tensor:
    """Cross-entropy (B,) -> () with weights that make up for a share `rate` of positives; 0 of one class."""
    if not 0 < rate < 1:
        return 0.0 * logits.sum()  # the same weights have a gradient in every shard
    label = truth.float()
    weight = torch.where(label > 0.5, 0.5 / rate, 0.5 / (1 - rate))
    return F.binary_cross_entropy_with_logits(logits, label, weight)
