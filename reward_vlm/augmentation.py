"""Random shift and colour jitter of pictures: what must not change the answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_shift(pixels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each picture of (N, 3, h, w) moved by up to `shift` pixels each way, its edge repeated (DrQ-v2)."""
    if shift == 0:
        return pixels
    n, _, h, w = pixels.shape
    padded = F.pad(pixels, (shift, shift, shift, shift), mode="replicate")
    offset = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator).to(pixels.device)
    rows = offset[0] + torch.arange(h, device=pixels.device)
    columns = offset[1] + torch.arange(w, device=pixels.device)
    member = torch.arange(n, device=pixels.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[member, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def colour_jitter(
    pixels: Tensor, brightness: float, contrast: float, colour: float, generator: torch.Generator
) -> Tensor:
    """x' = clip(mean + (1 + c)(x - mean)) (1 + b)(1 + k)), c, b one a picture and k one a channel.

    Each is uniform in plus or minus its range; `pixels` are (N, 3, h, w) in [0, 1].
    """

    def uniform(shape: tuple[int, ...], size: float) -> Tensor:
        return 1 + size * (2 * torch.rand(shape, generator=generator) - 1).to(pixels.device)

    n = len(pixels)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    gain = uniform((n, 1, 1, 1), brightness) * uniform((n, 3, 1, 1), colour)
    return ((mean + uniform((n, 1, 1, 1), contrast) * (pixels - mean)) * gain).clamp(0, 1)
