"""Two-hot coding: a number as weights on the two bins that enclose it (World4RL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class TwoHot:
    """`bins` equally spaced bins over [low, high] in every dimension; values outside are clipped."""

    bins: int = 21
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ConfigError(f"two-hot bins={self.bins}; expected at least 2")
        if not self.low < self.high:
            raise ConfigError(f"two-hot range [{self.low}, {self.high}]; expected low < high")

    def centres(self, like: torch.Tensor) -> torch.Tensor:
        """The bins' values b (K,), in the dtype and on the device of `like`."""
        return torch.linspace(self.low, self.high, self.bins, dtype=like.dtype, device=like.device)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Values (..., A) to weights (..., A, K) that are non-negative and sum to one."""
        b = self.centres(values)
        a = values.clamp(self.low, self.high)
        # the last bin with b_k <= a, but never the last of all, so that k + 1 exists
        k = (torch.searchsorted(b, a.contiguous(), right=True) - 1).clamp(0, self.bins - 2)
        # t[k] = (b_{k+1} - a) / (b_{k+1} - b_k),  t[k+1] = 1 - t[k]
        lower = (b[k + 1] - a) / (b[k + 1] - b[k])
        weights = torch.zeros(*a.shape, self.bins, dtype=a.dtype, device=a.device)
        weights.scatter_(-1, k.unsqueeze(-1), lower.unsqueeze(-1))
        return weights.scatter_(-1, (k + 1).unsqueeze(-1), (1 - lower).unsqueeze(-1))

    def decode(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights or probabilities (..., A, K) to their expected values (..., A)."""
        return weights @ self.centres(weights)
