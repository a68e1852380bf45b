"""k consecutive positives before a success counts.

With independent errors a per-frame false-positive rate p ends a T-step episode falsely with
probability 1 - (1 - p)^T: 1.5 % over 40 steps is 45 %. Asking for k in a row makes it about T p^k.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError


class Debounce:
    """Counts consecutive positives for each of N members."""

    def __init__(self, k: int, num_envs: int) -> None:
        if k < 1:
            raise ConfigError(f"debounce k is {k}; expected at least 1 frame")
        self.k = k
        self._run = np.zeros(num_envs, np.int64)

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Forget the run of the members where `mask` (N,) is true, or of all."""
        self._run[slice(None) if mask is None else mask] = 0

    def update(self, positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether the last k frames, this one included, were all positive. Both (N,)."""
        self._run = np.where(positive, self._run + 1, 0)
        return self._run >= self.k


def fires(positive: npt.NDArray[np.bool_], k: int) -> npt.NDArray[np.bool_]:
    """At which frames of `positive` (T,) a `Debounce` of k fires: (T,)."""
    if len(positive) < k:
        return np.zeros(len(positive), bool)
    runs = np.lib.stride_tricks.sliding_window_view(positive, k).all(-1)
    return np.concatenate([np.zeros(k - 1, bool), runs])


def first_firing(positive: npt.NDArray[np.bool_], k: int) -> int | None:
    """The first frame of `positive` (T,) at which a `Debounce` of k fires, or None."""
    fired = fires(positive, k)
    return int(fired.argmax()) if fired.any() else None
