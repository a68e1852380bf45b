"""How well a world model predicts: open loop, on held-out episodes, against copying and shuffled actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.data.episode import Episode
from robot_rl.errors import DataError
from world_model.model import WorldModel
from world_model.windows import FrameTable


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [dB] (B,) of uint8 pictures (B, h, w, 3); 1 / 12 grey level^2 at least."""
    error = ((images.float() - truth.float()) ** 2).flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error.clamp_min(1 / 12))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (B,) of uint8 pictures (B, h, w, 3); Wang et al. 2004: Gaussian 11 x 11, 1.5."""
    offsets = torch.arange(-5, 6, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = kernel / kernel.sum()

    def smooth(x: Tensor) -> Tensor:
        rows = F.conv2d(x, kernel.view(1, 1, -1, 1))
        return F.conv2d(rows, kernel.view(1, 1, 1, -1))

    x, y = (part.movedim(-1, 1).float().flatten(0, 1)[:, None] for part in (images, truth))
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    value = value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.flatten(1).mean(1).unflatten(0, (len(images), 3)).mean(1)


@dataclass
class Imagined:
    """h steps imagined open loop, of B windows."""

    frames: Tensor
    """uint8 (B, h, height, width, 3), as are their truths."""
    states: Tensor
    """float32 (B, h, S)."""
    success: Tensor
    """Probability (B, h)."""
    uncertainty: Tensor
    """The ensemble's disagreement (B, h); 0 of one member."""


def imagine(model: WorldModel, table: FrameTable, starts: Tensor, actions: Tensor, seed: int = 0) -> Imagined:
    """Open-loop prediction from real histories; the result lies on the CPU.

    Args:
        starts: frames of `table` (B,). actions: (B, h, A), applied one after the other.
    """
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    history = table.history(starts, model.config.history).to(device)
    state, previous = table.states[starts].to(device), table.previous(starts).to(device)
    told = on(device, table.told(starts))
    steps = []
    for step in range(actions.shape[1]):
        following = model.predict(history, state, previous, actions[:, step].to(device), generator, told)
        history = torch.cat([history[:, 1:], following.frame[:, None]], 1)
        previous, state = state, following.state
        steps.append(following)
    return Imagined(
        *(
            torch.stack([getattr(step, name) for step in steps], 1).cpu()
            for name in ("frame", "state", "success", "uncertainty")
        )
    )


def evaluate_world_model(
    model: WorldModel,
    episodes: Sequence[Episode],
    horizons: Sequence[int] = (1, 5, 20),
    max_windows: int = 128,
    debounce: int = 2,
    seed: int = 0,
) -> dict[str, float]:
    """Figures of merit on held-out episodes; dB, or shares in [0, 1], or units of the state's deviation.

    For each horizon h: `psnr_h`, `ssim_h` of the h-th imagined frame; `copy_psnr_h`, `copy_ssim_h` of the
    last real frame in its place; `shuffled_psnr_h` with the actions of other windows (a model that ignores
    its actions loses nothing); `state_error_h`. Of the success head: `success_fpr`, `success_recall` on real
    frames; `imagined_false_success`, `imagined_recall` of whole episodes replayed in imagination with
    `debounce` frames in a row above the threshold.

    Raises:
        DataError: the episodes do not fit the model, or none is as long as a horizon.
    """
    model.spec.check(episodes)
    table = FrameTable(episodes, model.spec.camera, model.embed)
    generator = torch.Generator().manual_seed(seed)
    metrics: dict[str, float] = {}
    for horizon in horizons:
        starts = _windows(table, horizon, max_windows, generator)
        steps = starts[:, None] + torch.arange(horizon)
        actions, truth, copied = table.actions[steps], table.frames[steps[:, -1] + 1], table.frames[starts]
        played = imagine(model, table, starts, actions, seed)
        frames = played.frames
        wrong = imagine(model, table, starts, actions.roll(1, 0), seed).frames
        error = (played.states[:, -1] - table.states[steps[:, -1] + 1]) / model.state_scale.cpu()
        metrics |= {
            f"psnr_h{horizon}": float(psnr(frames[:, -1], truth).mean()),
            f"copy_psnr_h{horizon}": float(psnr(copied, truth).mean()),
            f"shuffled_psnr_h{horizon}": float(psnr(wrong[:, -1], truth).mean()),
            f"ssim_h{horizon}": float(ssim(frames[:, -1], truth).mean()),
            f"copy_ssim_h{horizon}": float(ssim(copied, truth).mean()),
            f"state_error_h{horizon}": float(error.square().mean().sqrt()),
        }
    return metrics | _success_metrics(model, table) | _replayed_success(model, episodes, debounce, seed)


@dataclass
class Replay:
    """B whole episodes imagined open loop from their first frame, with their own actions; T the longest."""

    success: Tensor
    """Probability (B, T) of the imagined frames."""
    uncertainty: Tensor
    """(B, T) of the imagined frames."""
    truth: Tensor
    """bool (B, T): success of the real ones."""
    valid: Tensor
    """bool (B, T): which of them an episode has."""

    def succeeded(self, threshold: float, debounce: int) -> Tensor:
        """bool (B,): whether `debounce` imagined frames in a row lie above the threshold."""
        above = (self.success > threshold) & self.valid
        return above.unfold(1, min(debounce, above.shape[1]), 1).all(2).any(1)


def replay(model: WorldModel, episodes: Sequence[Episode], seed: int = 0) -> Replay:
    """Imagine whole episodes again."""
    table = FrameTable(episodes, model.spec.camera, model.embed)
    longest = max(len(episode) for episode in episodes)
    starts = table.first.unique()
    lengths = torch.tensor([len(episode) for episode in episodes])
    steps = torch.minimum(starts[:, None] + torch.arange(longest), (starts + lengths)[:, None])
    played = imagine(model, table, starts, table.actions[steps], seed)
    valid = torch.arange(longest) < lengths[:, None]
    arrived = torch.minimum(steps + 1, (starts + lengths)[:, None])
    return Replay(played.success, played.uncertainty, table.success[arrived] & valid, valid)


def on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    """The tensor on `device`, if there is one."""
    return None if tensor is None else tensor.to(device)


def _windows(table: FrameTable, horizon: int, most: int, generator: torch.Generator) -> Tensor:
    """At most `most` random frames that are followed by `horizon` others of their episode."""
    index = torch.arange(len(table.frames) - horizon)
    valid = index[table.episode[index] == table.episode[index + horizon]]
    if len(valid) < 2:
        raise DataError(f"no held-out episodes of {horizon} steps; give longer ones or a shorter horizon")
    return valid[torch.randperm(len(valid), generator=generator)[:most]]


def _share(flags: Tensor) -> float:
    """The share that is true; nan of none."""
    return float(flags.float().mean()) if len(flags) else float("nan")


def _success_metrics(model: WorldModel, table: FrameTable) -> dict[str, float]:
    device = model.device
    probability = torch.cat(
        [
            model.success_probability(table.frames[part].to(device), on(device, table.told(part))).cpu()
            for part in torch.arange(len(table.frames)).split(256)
        ]
    )
    called = probability > model.threshold
    return {
        "success_fpr": _share(called[~table.success]),
        "success_recall": _share(called[table.success]),
        "success_threshold": model.threshold,
    }


def _replayed_success(
    model: WorldModel, episodes: Sequence[Episode], debounce: int, seed: int
) -> dict[str, float]:
    """Whole episodes replayed from their first frame: are the imagined ends those of the real ones?"""
    runs = replay(model, episodes, seed).succeeded(model.threshold, debounce)
    succeeded = torch.tensor([episode.succeeded for episode in episodes])
    return {"imagined_false_success": _share(runs[~succeeded]), "imagined_recall": _share(runs[succeeded])}
