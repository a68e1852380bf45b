"""Random shift and colour jitter of pictures: what must not change the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges of the random changes; 0 changes nothing. Shift in pixels, the rest as fractions of 1."""

    shift: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(f"augmentation shift is {self.shift}; expected at least 0 pixels")
        for name in ("brightness", "contrast", "colour"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"augmentation {name} is {getattr(self, name)}; expected a number in [0, 1)"
                )

    def __bool__(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.shift or self.brightness or self.contrast or self.colour)


def augment(pixels: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Pictures (N, 3, h, w) in [0, 1], each changed by itself."""
    pixels = random_shift(pixels, config.shift, generator)
    return colour_jitter(pixels, config.brightness, config.contrast, config.colour, generator)


def augment_images(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Pictures (N, h, w, 3) uint8 as they are recorded, each changed by itself."""
    images = shift_images(images, config.shift, generator)
    if not (config.brightness or config.contrast or config.colour):
        return images
    pixels = images.permute(0, 3, 1, 2).float() / 255
    changed = colour_jitter(pixels, config.brightness, config.contrast, config.colour, generator)
    return (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def shift_images(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Pictures (B, h, w, C) each moved by up to `pad` pixels with its edge repeated (DrQ, pad 4)."""
    if pad == 0:
        return images
    batch, height, width, _ = images.shape
    corner = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator).numpy()
    padded = np.pad(images.numpy(), ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    # All windows as a view (B, 2 pad + 1, 2 pad + 1, h, w, C): picking one copies whole blocks, 8 times
    # faster than gathering pixels.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    return torch.from_numpy(windows.transpose(0, 1, 2, 4, 5, 3)[np.arange(batch), corner[0], corner[1]])


def augment_windows(pixels: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Windows (B, T, 3, h, w) of pictures in [0, 1]; all T of a window are changed alike."""
    _, frames, channels, height, _ = pixels.shape
    moved = random_shift(pixels.flatten(1, 2), config.shift, generator).unflatten(1, (frames, channels))
    tall = moved.transpose(1, 2).flatten(2, 3)  # one picture (B, 3, T h, w): one jitter a window
    tall = colour_jitter(tall, config.brightness, config.contrast, config.colour, generator)
    return tall.unflatten(2, (frames, height)).transpose(1, 2)


def random_shift(pixels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each picture of (N, C, h, w) moved by up to `shift` pixels each way, its edge repeated (DrQ-v2)."""
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
