"""EDM diffusion of the next frame, conditioned on past frames, action and proprioception.

Preconditioning, noise schedule and sampler: Karras et al., "Elucidating the Design Space of
Diffusion-Based Generative Models" (arXiv 2206.00364). Frames stacked on channels, action and noise level
through adaptive norm: DIAMOND (arXiv 2405.12399). Two-hot actions: World4RL (arXiv 2509.19080).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Final, cast

import torch
from torch import Tensor, nn

from robot_rl import torchvision_compat  # noqa: F401  (diffusers imports torchvision)
from robot_rl.data.two_hot import TwoHot
from world_model.config import WorldModelConfig

from diffusers import UNet2DModel  # isort: skip

SIGMA_TRAIN_MAX: Final = 80.0


def precondition(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in, c_noise) at noise level `sigma`, same shape (Karras et al., table 1)."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4


def sigma_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Noise levels (steps + 1,) from sigma_max down to 0, evenly spaced in sigma^(1/rho) (equation 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)]).float()


def euler_sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor) -> Tensor:
    """Integrates dx/dsigma = (x - D(x; sigma)) / sigma over `sigmas`, from sigma_0 * noise (algorithm 1)."""
    x = noise * sigmas[0]
    for sigma, following in pairwise(sigmas):
        slope = (x - denoise(x, sigma.expand(len(x)))) / sigma
        x = x + (following - sigma) * slope
    return x


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 (..., h, w, 3) -> float (..., 3, h, w) in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> Tensor:
    """float (..., 3, h, w) in [-1, 1] -> uint8 (..., h, w, 3), rounded and clamped."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1)


class ActionEncoder(nn.Module):
    """Actions (B, A) in [-1, 1] -> (B, size): two-hot or one-hot over K bins a dimension, or as they are."""

    def __init__(self, config: WorldModelConfig, action_dim: int) -> None:
        super().__init__()
        self.bins = TwoHot(config.action_bins) if config.action_encoding != "linear" else None
        self.nearest = config.action_encoding == "one_hot"
        self.size = action_dim * (config.action_bins if self.bins else 1)

    def forward(self, action: Tensor) -> Tensor:
        if self.bins is None:
            return action
        weights = self.bins.encode(action)
        if self.nearest:  # the bin that carries most of the two-hot weight is the nearest
            weights = nn.functional.one_hot(weights.argmax(-1), self.bins.bins).to(weights)
        return weights.flatten(1)


class FrameDenoiser(nn.Module):
    """D(x; sigma, past frames, condition) = c_skip x + c_out F(c_in x, ...), F a diffusers U-Net.

    A frame is what the model's codec makes of a picture: pixels (c = 3), or latents.

    diffusers' own timestep is held at zero (its Fourier and positional embeddings do not suit continuous
    noise levels); c_noise and the condition enter as class embedding through adaptive group norm.

    Args:
        frame_shape: (c, h, w) of a frame.
        condition_dim: C, width of the condition: encoded action, state, predicted next state, instruction.
    """

    def __init__(
        self, config: WorldModelConfig, frame_shape: tuple[int, int, int], condition_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        channels, height, width = frame_shape
        self.grid = (height // config.patch, width // config.patch)
        pixels = channels * config.patch**2
        embedding = 4 * config.channels[0]  # diffusers' time_embedding_dim
        levels = len(config.channels)
        unet = UNet2DModel(
            in_channels=pixels * (config.history + 1) + config.spatial_channels,
            out_channels=pixels,
            block_out_channels=config.channels,
            layers_per_block=config.blocks,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=config.groups,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
            add_attention=config.attention,
        )
        self.unet = cast(nn.Module, unet)  # diffusers is not typed
        for parameter in self.unet.get_submodule("conv_out").parameters():
            nn.init.zeros_(parameter)  # so that the first prediction is nearly the last frame
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(embedding // 2))
        self.noise_embedding = nn.Linear(embedding, embedding)
        self.condition_embedding = nn.Sequential(
            nn.Linear(condition_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if config.spatial_channels:
            self.canvas = nn.Linear(embedding, config.spatial_channels * self.grid[0] * self.grid[1])
        self.sigmas = sigma_schedule(config.steps, config.sigma_min, config.sigma_max, config.rho)

    def forward(self, noisy: Tensor, sigma: Tensor, history: Tensor, condition: Tensor) -> Tensor:
        """F's prediction; `noisy` (B, c, h, w) is already scaled by c_in, `sigma` is (B,)."""
        c_noise = precondition(sigma, self.config.sigma_data)[3]
        angles = c_noise[:, None] * self.frequencies
        embedded = self.condition_embedding(condition)
        embedding = embedded + self.noise_embedding(torch.cat([angles.sin(), angles.cos()], 1))
        stacked = torch.cat([noisy, history.flatten(1, 2)], 1)
        inputs = nn.functional.pixel_unshuffle(stacked, self.config.patch)
        if self.config.spatial_channels:
            canvas = self.canvas(nn.functional.silu(embedded)).unflatten(1, (-1, *self.grid))
            inputs = torch.cat([inputs, canvas], 1)
        output = self.unet(inputs, torch.zeros_like(sigma), class_labels=embedding).sample
        return nn.functional.pixel_shuffle(output.float(), self.config.patch)

    def denoise(self, x: Tensor, sigma: Tensor, history: Tensor, condition: Tensor) -> Tensor:
        """D(x; sigma) of a noisy target `x` (B, c, h, w); history (B, H, c, h, w), condition (B, C)."""
        c_skip, c_out, c_in, _ = precondition(sigma[:, None, None, None], self.config.sigma_data)
        return c_skip * x + c_out * self(c_in * x, sigma, history, condition)

    def encode(self, frame: Tensor, last: Tensor) -> Tensor:
        """The diffused target of a frame: itself, or its difference to the last frame."""
        return frame if self.config.target == "absolute" else frame - last

    def decode(self, target: Tensor, last: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return target if self.config.target == "absolute" else last + target

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Training noise levels (count,): ln sigma ~ N(log_sigma_mean, log_sigma_std^2), clipped."""
        noise = torch.randn(count, generator=generator, device=generator.device)
        log_sigma = noise * self.config.log_sigma_std
        return (log_sigma + self.config.log_sigma_mean).exp().clamp(self.config.sigma_min, SIGMA_TRAIN_MAX)

    def loss(
        self, history: Tensor, condition: Tensor, frame: Tensor, weight: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """E[lambda(sigma) c_out^2 w |F - F*|^2] with lambda = 1 / c_out^2 (equation 8), pixels weighted by w.

        Args:
            history: (B, H, c, h, w). condition: (B, C). frame: true next frame (B, c, h, w).
            weight: (B, 1, h, w), mean about 1.

        Returns:
            The loss and the denoised next frame (B, c, h, w), detached, a sample of one step from sigma.
        """
        device = generator.device
        blank = torch.rand(len(frame), generator=generator, device=device) < self.config.mean_share
        sigma = torch.where(blank, self.config.sigma_max, self.draw_sigma(len(frame), generator))
        noise = torch.randn(frame.shape, generator=generator, device=device)
        c_skip, c_out, c_in, _ = precondition(sigma[:, None, None, None], self.config.sigma_data)
        clean = self.encode(frame, history[:, -1])
        noisy = torch.where(blank[:, None, None, None], 0.0, clean + sigma[:, None, None, None] * noise)
        predicted = self(c_in * noisy, sigma, history, condition)
        loss = (weight * (predicted - (clean - c_skip * noisy) / c_out) ** 2).mean()
        denoised = (c_skip * noisy + c_out * predicted).detach()
        return loss, self.decode(denoised, history[:, -1])

    def sample(self, history: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """The next frame (B, c, h, w) from standard normal `noise` of the same shape."""
        target = euler_sample(
            lambda x, sigma: self.denoise(x, sigma, history, condition),
            self.config.initial_noise * noise,
            self.sigmas.to(noise),
        )
        return self.decode(target, history[:, -1])
