"""What a policy's head means in each action dimension: a Gaussian, one squashed by tanh, a two-hot histogram.

All answer the same questions, so that every algorithm works with any. B batch, A action
dimensions, K bins; dimensions are independent, and log-probabilities are densities summed over them.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.data.two_hot import TwoHot

EDGE = 1e-6
"""Quantiles are asked for in [EDGE, 1 - EDGE], where the Gaussian's are finite."""

TANH_EDGE = 1e-6
HERMITE = (
    np.polynomial.hermite_e.hermegauss(8)[0],
    np.polynomial.hermite_e.hermegauss(8)[1] / math.sqrt(2 * math.pi),
)
"""Nodes and weights of the expectation under a standard normal."""


class ActionDistribution(Protocol):
    """A distribution over actions (B, A)."""

    @property
    def mean(self) -> Tensor:
        """The deterministic action (B, A)."""

    def quantile(self, level: Tensor) -> Tensor:
        """The action (B, A) below which lies the share `level` (B, A) of each dimension.

        Uniform levels make it a sample, and the sample has a gradient with respect to the head.
        """

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density (B,)."""

    def entropy(self) -> Tensor:
        """Differential entropy (B,) [nat]."""

    def kl(self, other: ActionDistribution) -> Tensor:
        """KL(self || other) (B,), analytic. Both must be of one kind."""


def sample(distribution: ActionDistribution, generator: torch.Generator) -> Tensor:
    """One action (B, A) a row, drawn from `generator`; not clipped."""
    mean = distribution.mean
    return distribution.quantile(torch.rand(mean.shape, generator=generator, device=mean.device))


class Gaussian:
    """N(mean, exp(log_std)^2). Clipped to [-1, 1] where it is executed, never in its log-probability."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self.log_std = mean, log_std

    @property
    def mean(self) -> Tensor:
        return self._mean

    def quantile(self, level: Tensor) -> Tensor:
        return self._mean + self.log_std.exp() * torch.special.ndtri(level.clamp(EDGE, 1 - EDGE))

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self._mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: ActionDistribution) -> Tensor:
        """log(s2 / s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2, summed over dimensions."""
        if not isinstance(other, Gaussian):
            raise TypeError(f"KL of a Gaussian to a {type(other).__name__} is not analytic")
        inverse = torch.exp(-2 * other.log_std)
        spread = torch.exp(2 * self.log_std) + (self._mean - other._mean).square()
        return (other.log_std - self.log_std + 0.5 * spread * inverse - 0.5).sum(-1)


class TanhGaussian:
    """a = tanh(u), u ~ N(mean, exp(log_std)^2): SAC's policy (arXiv 1812.05905, appendix C)."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.base = Gaussian(mean, log_std)

    @property
    def mean(self) -> Tensor:
        """tanh of the Gaussian's mean, which is the median."""
        return torch.tanh(self.base.mean)

    def quantile(self, level: Tensor) -> Tensor:
        return torch.tanh(self.base.quantile(level))

    def log_prob(self, action: Tensor) -> Tensor:
        """log N(u) - sum log(1 - tanh^2 u), u = artanh a; closer to a limit than TANH_EDGE is as there."""
        u = torch.atanh(action.clamp(-1 + TANH_EDGE, 1 - TANH_EDGE))
        return self.base.log_prob(u) - log_slope(u).sum(-1)

    def entropy(self) -> Tensor:
        """H(u) + E[sum log(1 - tanh^2 u)], the expectation by Gauss-Hermite quadrature of 8 nodes."""
        nodes, weights = (torch.as_tensor(x).to(self.base.mean) for x in HERMITE)
        u = self.base.mean[..., None] + self.base.log_std.exp()[..., None] * nodes
        return self.base.entropy() + (log_slope(u) @ weights).sum(-1)

    def kl(self, other: ActionDistribution) -> Tensor:
        """That of the Gaussians: a bijection changes no divergence."""
        if not isinstance(other, TanhGaussian):
            raise TypeError(f"KL of a tanh Gaussian to a {type(other).__name__} is not analytic")
        return self.base.kl(other.base)


def log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), exact where tanh has saturated."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class TwoHotHistogram:
    """softmax(logits) over K bin centres a dimension, read as a density of steps one bin wide.

    log_prob(a) = sum_k two_hot(a)_k log p_k - log(bin width): the two-hot cross-entropy that behaviour
    cloning minimises, and at a bin's centre (where samples lie) the log-density.
    """

    def __init__(self, logits: Tensor, codec: TwoHot) -> None:
        self.log_p = F.log_softmax(logits, dim=-1)  # (B, A, K)
        self.codec = codec
        self.centres = codec.centres(logits)

    @property
    def _log_width(self) -> float:
        return math.log(float(self.centres[1] - self.centres[0])) * self.log_p.shape[-2]

    @property
    def mean(self) -> Tensor:
        return self.log_p.exp() @ self.centres

    def quantile(self, level: Tensor) -> Tensor:
        """A bin centre; its gradient is that of the mean (straight-through)."""
        below = self.log_p.detach().exp().cumsum(-1) < level.clamp(EDGE, 1 - EDGE).unsqueeze(-1)
        centre = self.centres[below.sum(-1).clamp(max=len(self.centres) - 1)]
        mean = self.mean
        return centre + (mean - mean.detach())

    def log_prob(self, action: Tensor) -> Tensor:
        return (self.codec.encode(action) * self.log_p).sum((-2, -1)) - self._log_width

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum((-2, -1)) + self._log_width

    def kl(self, other: ActionDistribution) -> Tensor:
        """sum_k p_k (log p_k - log q_k), summed over dimensions."""
        if not isinstance(other, TwoHotHistogram):
            raise TypeError(f"KL of a two-hot histogram to a {type(other).__name__} is not analytic")
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum((-2, -1))
