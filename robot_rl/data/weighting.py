"""Trajectory weighting as a sampler, for any offline algorithm (Hong et al., arXiv 2306.13085)."""

from __future__ import annotations

import numpy.typing as npt
import torch

from robot_rl.data.replay import Batch, ReplayBuffer
from robot_rl.errors import DataError


class WeightedSampler:
    """Draws transitions of a buffer in proportion to their trajectory's weight, with replacement.

    p(transition of trajectory i) = w_i / sum_j T_j w_j, so that no expectation but the data's changes: an
    algorithm that keeps to the data keeps to its good trajectories.

    Args:
        buffer: holds the trajectories in the order of `weights`, none of them overwritten.
        weights: w (n,), as `robot_rl.data.measures.trajectory_weights` gives them.
        lengths: T (n,), steps of each trajectory.

    Raises:
        DataError: lengths do not add up to the buffer's, or a weight is negative or all are 0.
    """

    def __init__(self, buffer: ReplayBuffer, weights: npt.ArrayLike, lengths: npt.ArrayLike) -> None:
        w, steps = torch.as_tensor(weights, dtype=torch.float64), torch.as_tensor(lengths)
        if len(w) != len(steps) or int(steps.sum()) != len(buffer):
            raise DataError(
                f"{len(w)} weights for {len(steps)} trajectories of {int(steps.sum())} steps; expected "
                f"as many weights as trajectories, and the buffer's {len(buffer)} steps"
            )
        if not torch.isfinite(w).all() or (w < 0).any() or w.sum() == 0:
            raise DataError("trajectory weights are negative, not finite or all 0; expected some above 0")
        self.buffer = buffer
        self._cumulative = w.repeat_interleave(steps).cumsum(0)
        self._cumulative /= self._cumulative[-1].clone()

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """`batch` transitions: name -> (batch, ...)."""
        level = torch.rand(batch, generator=generator, dtype=torch.float64)
        index = torch.searchsorted(self._cumulative, level, right=True)
        return self.buffer.gather(index.clamp(max=len(self.buffer) - 1))
