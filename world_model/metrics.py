"""How well a world model predicts: open loop, on held-out episodes, against copying and shuffled actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
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


def imagine(
    model: WorldModel, table: FrameTable, starts: Tensor, actions: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Open-loop prediction from real histories.

    Args:
        starts: frames of `table` (B,). actions: (B, h, A), applied one after the other.

    Returns:
        Frames uint8 (B, h, height, width, 3), states (B, h, S), success probabilities (B, h).
    """
    generator = torch.Generator().manual_seed(seed)
    history, state = table.history(starts, model.config.history), table.states[starts]
    previous = table.previous(starts)
    frames, states, success = [], [], []
    for step in range(actions.shape[1]):
        prediction = model.predict(history, state, previous, actions[:, step], generator)
        history = torch.cat([history[:, 1:], prediction.frame[:, None]], 1)
        previous, state = state, prediction.state
        frames.append(prediction.frame)
        states.append(prediction.state)
        success.append(prediction.success)
    return torch.stack(frames, 1), torch.stack(states, 1), torch.stack(success, 1)


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
    table = FrameTable(episodes, model.spec.camera)
    generator = torch.Generator().manual_seed(seed)
    metrics: dict[str, float] = {}
    for horizon in horizons:
        starts = _windows(table, horizon, max_windows, generator)
        steps = starts[:, None] + torch.arange(horizon)
        actions, truth, copied = table.actions[steps], table.frames[steps[:, -1] + 1], table.frames[starts]
        frames, states, _ = imagine(model, table, starts, actions, seed)
        wrong, _, _ = imagine(model, table, starts, actions.roll(1, 0), seed)
        error = (states[:, -1] - table.states[steps[:, -1] + 1]) / model.state_scale
        metrics |= {
            f"psnr_h{horizon}": float(psnr(frames[:, -1], truth).mean()),
            f"copy_psnr_h{horizon}": float(psnr(copied, truth).mean()),
            f"shuffled_psnr_h{horizon}": float(psnr(wrong[:, -1], truth).mean()),
            f"ssim_h{horizon}": float(ssim(frames[:, -1], truth).mean()),
            f"copy_ssim_h{horizon}": float(ssim(copied, truth).mean()),
            f"state_error_h{horizon}": float(error.square().mean().sqrt()),
        }
    return metrics | _success_metrics(model, table) | _replayed_success(model, episodes, debounce, seed)


def replay(model: WorldModel, episodes: Sequence[Episode], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Whole episodes imagined open loop from their first frame, with their own actions; T the longest.

    Returns:
        Success probabilities (B, T) of the imagined frames, the true success bool (B, T) of the real ones,
        and which of them an episode has, bool (B, T).
    """
    table = FrameTable(episodes, model.spec.camera)
    longest = max(len(episode) for episode in episodes)
    starts = table.first.unique()
    lengths = torch.tensor([len(episode) for episode in episodes])
    steps = torch.minimum(starts[:, None] + torch.arange(longest), (starts + lengths)[:, None])
    _, _, probability = imagine(model, table, starts, table.actions[steps], seed)
    valid = torch.arange(longest) < lengths[:, None]
    arrived = torch.minimum(steps + 1, (starts + lengths)[:, None])
    return probability, table.success[arrived] & valid, valid


def side_by_side(model: WorldModel, episode: Episode, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A video (T+1, h, 2 w, 3): the real episode, and beside it the one imagined from its first frame."""
    model.spec.check([episode])
    table = FrameTable([episode], model.spec.camera)
    frames, _, _ = imagine(model, table, torch.zeros(1, dtype=torch.int64), table.actions[None, :-1], seed)
    imagined = torch.cat([table.frames[:1], frames[0]])
    return torch.cat([table.frames, imagined], 2).numpy()


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
    probability = torch.cat([model.success_probability(part) for part in table.frames.split(256)])
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
    probability, _, valid = replay(model, episodes, seed)
    above = (probability > model.threshold) & valid
    runs = above.unfold(1, min(debounce, above.shape[1]), 1).all(2).any(1)
    succeeded = torch.tensor([episode.succeeded for episode in episodes])
    return {"imagined_false_success": _share(runs[~succeeded]), "imagined_recall": _share(runs[succeeded])}
