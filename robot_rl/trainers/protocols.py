"""What the trainers ask of everything they drive, stated here so that they import none of it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Observations = dict[str, npt.NDArray[Any]]
"""Schema key -> array (N, ...)."""


@runtime_checkable
class Policy(Protocol):
    """A batched policy. Deterministic given its seeds."""

    def reset(self, mask: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int64]) -> None:
        """Start new episodes where `mask` (N,) is true; `seeds` (N,) are theirs."""

    def act(self, observations: Observations) -> npt.NDArray[np.float32]:
        """Actions (N, A) in [-1, 1]."""


@runtime_checkable
class Learner(Protocol):
    """Something that improves by calling `update` `total_updates` times, and can be resumed."""

    total_updates: int

    def update(self) -> dict[str, float]:
        """One unit of work; returns metrics by name."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, readable by `torch.load(weights_only=True)`."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
