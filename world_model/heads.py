"""What the world model knows beside the picture: the next proprioceptive state, and success."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

PICTURE_FEATURES: Final = 32


def _downsampler(channels: int, patch: int, width: int) -> nn.Sequential:
    """Pictures (B, channels, h, w) -> (B, 2 width, h / 4 patch, w / 4 patch)."""
    return nn.Sequential(
        nn.PixelUnshuffle(patch),
        nn.Conv2d(channels * patch**2, width, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.SiLU(),
    )


def _flat_size(network: nn.Module, channels: int, height: int, width: int) -> int:
    with torch.no_grad():
        return network(torch.zeros(1, channels, height, width)).flatten(1).shape[1]


class NextStateHead(nn.Module):
    """Normalised change of the state, from the state, its last change (the servos lag), the action and the
    last two pictures (contact)."""

    def __init__(
        self, state_dim: int, action_size: int, height: int, width: int, patch: int, hidden: int
    ) -> None:
        super().__init__()
        self.picture = _downsampler(6, patch, 16)
        self.pool = nn.Linear(_flat_size(self.picture, 6, height, width), PICTURE_FEATURES)
        self.enter = nn.Linear(2 * state_dim + action_size + PICTURE_FEATURES, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
            )
            for _ in range(2)
        )
        self.leave = nn.Linear(hidden, state_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, history: Tensor, state: Tensor, motion: Tensor, action: Tensor) -> Tensor:
        """history (B, H, 3, h, w), normalised state (B, S) and change (B, S), action (B, E) -> (B, S)."""
        last_two = torch.cat([history[:, -1], history[:, -1] - history[:, -min(2, history.shape[1])]], 1)
        features = self.pool(self.picture(last_two).flatten(1))
        x = self.enter(torch.cat([state, motion, action, features], 1))
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class SuccessHead(nn.Module):
    """Whether a picture shows the task fulfilled: a small CNN, one logit.

    The loss balances the classes, so a probability of 0.5 means "as likely as not, were success and failure
    equally frequent"; `threshold` is chosen on validation pictures.

    Args:
        told: L, width of the instruction's embedding; 0 where there is one task alone.
    """

    def __init__(self, height: int, width: int, told: int = 0) -> None:
        super().__init__()
        self.picture = nn.Sequential(_downsampler(3, 2, 24), nn.Conv2d(48, 48, 3, padding=1), nn.SiLU())
        self.classify = nn.Sequential(
            nn.Linear(_flat_size(self.picture, 3, height, width) + told, 64), nn.SiLU(), nn.Linear(64, 1)
        )
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, frame: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Logits (B,) of frames (B, 3, h, w) in [-1, 1], maybe with instructions (B, L)."""
        features = self.picture(frame).flatten(1)
        if instruction is not None:
            features = torch.cat([features, instruction], 1)
        return self.classify(features).squeeze(1)


def choose_threshold(probability: Tensor, success: Tensor, max_false_positive: float) -> float:
    """The least threshold, at least 0.5, above which at most that share of failures is called success.

    Args:
        probability: (N,) in [0, 1]. success: bool (N,), the truth.
    """
    failures = probability[~success].double()
    if failures.numel() == 0:
        return 0.5
    allowed = int(max_false_positive * failures.numel())
    highest = failures.sort(descending=True).values
    # "called success" is probability > threshold, so the first failure that must not pass is the bound
    bound = float(highest[allowed]) if allowed < len(highest) else 0.0
    return max(0.5, bound)
