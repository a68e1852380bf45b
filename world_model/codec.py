"""What the denoiser sees of a picture: its pixels, or the latents of a small autoencoder trained here.

Latents: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752).
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl import torchvision_compat  # noqa: F401  (diffusers imports torchvision)
from world_model.config import WorldModelConfig

from diffusers import AutoencoderKL, AutoencoderTiny  # isort: skip

KL_WEIGHT: Final = 1e-6
KL_GROUPS: Final = 8


class PixelCodec(nn.Module):
    """A frame is the picture itself."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.frame_shape = (3, height, width)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (..., 3, h, w) in [-1, 1] -> frames (..., c, h', w')."""
        return pixels

    def decode(self, frames: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return frames

    def shrink(self, weight: Tensor) -> Tensor:
        """Weights of pixels (B, 1, h, w) -> of a frame's places (B, 1, h', w')."""
        return weight


class LatentCodec(nn.Module):
    """A frame is the autoencoder's latents, shifted to mean 0 and scaled to the deviation sigma_data.

    Args:
        config: `space` chooses AutoencoderTiny or AutoencoderKL; widths and channels.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: WorldModelConfig, height: int, width: int) -> None:
        super().__init__()
        widths, channels, levels = config.latent_widths, config.latent_channels, len(config.latent_widths)
        self.kind, self.sigma_data, self.reduction = config.space, config.sigma_data, config.reduction
        self.frame_shape = (channels, height // self.reduction, width // self.reduction)
        network: Any  # diffusers is not typed
        if config.space == "tiny":
            network = AutoencoderTiny(
                encoder_block_out_channels=widths,
                decoder_block_out_channels=widths[::-1],
                num_encoder_blocks=(1,) * levels,
                num_decoder_blocks=(1,) * levels,
                latent_channels=channels,
            )
        else:
            network = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=widths,
                layers_per_block=1,
                latent_channels=channels,
                norm_num_groups=KL_GROUPS,
                mid_block_add_attention=False,
            )
        self.network = cast(nn.Module, network)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (..., 3, h, w) in [-1, 1] -> frames (..., c, h', w')."""
        latents = self._latents(pixels.flatten(0, -4))[0]
        return (self.sigma_data * (latents - self.mean) / self.scale).unflatten(0, pixels.shape[:-3])

    def decode(self, frames: Tensor) -> Tensor:
        """Frames (B, c, h', w') -> pictures (B, 3, h, w)."""
        latents = frames * self.scale / self.sigma_data + self.mean
        return cast(Any, self.network).decode(latents).sample

    def shrink(self, weight: Tensor) -> Tensor:
        """Weights of pixels (B, 1, h, w) -> of a frame's places (B, 1, h', w')."""
        return F.avg_pool2d(weight, self.reduction)

    def loss(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared and absolute error of the picture, and 1e-6 KL to N(0, 1) where there is one."""
        latents, log_variance = self._latents(pixels)
        penalty = torch.zeros((), device=pixels.device)
        if log_variance is not None:
            penalty = 0.5 * (latents**2 + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean()
            noise = torch.randn(latents.shape, generator=generator, device=generator.device)
            latents = latents + (0.5 * log_variance).exp() * noise
        rebuilt = cast(Any, self.network).decode(latents).sample.float()
        return F.mse_loss(rebuilt, pixels) + F.l1_loss(rebuilt, pixels) + KL_WEIGHT * penalty

    @torch.no_grad()
    def fit_scale(self, pixels: Tensor) -> None:
        """Set the latents' mean and deviation (c,) from pictures (N, 3, h, w)."""
        latents = torch.cat([self._latents(part)[0] for part in pixels.split(64)])
        self.mean.copy_(latents.mean((0, 2, 3))[:, None, None])
        self.scale.copy_(latents.std((0, 2, 3)).clamp_min(1e-6)[:, None, None])

    def _latents(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Their mean (B, c, h', w'), and the log of their variance where the encoder has one."""
        encoded = cast(Any, self.network).encode(pixels)
        if self.kind == "tiny":
            return encoded.latents, None
        return encoded.latent_dist.mean, encoded.latent_dist.logvar


Codec = PixelCodec | LatentCodec


def make_codec(config: WorldModelConfig, height: int, width: int) -> Codec:
    """The codec of `config` for pictures of (height, width).

    Raises:
        ConfigError: pictures that do not fit it.
    """
    config.check_image(height, width)
    return PixelCodec(height, width) if config.space == "pixel" else LatentCodec(config, height, width)
