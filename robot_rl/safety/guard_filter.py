"""The guard behind the simulator's setpoint hook."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.safety.config import GuardConfig
from robot_rl.safety.guard import REASON_INDEX, Command, CommandGuard, JointState


class GuardFilter:
    """`filter(requested (J,), measured (J,), time_s) -> (executed (J,), reason index)`.

    Requests and states are fresh by construction; what remains are the limits, the rates and the leash.
    `reset`, or a clock that jumps back, starts a new episode: at the measured pose, with the latch open.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.guard = CommandGuard(config)
        self._sequence = 0
        self._time = np.inf

    def reset(self) -> None:
        """Start a new episode with the next call."""
        self._time = np.inf

    def __call__(
        self, requested: npt.ArrayLike, measured: npt.ArrayLike, time_s: float
    ) -> tuple[npt.NDArray[np.float64], int]:
        if time_s < self._time:
            self.guard.reset(measured, time_s)
            self._sequence = 0
        self._time = time_s
        self._sequence += 1
        decision = self.guard.step(
            Command(requested, time_s, self._sequence), JointState(measured, time_s), time_s
        )
        assert decision.executed is not None  # it was reset above
        return decision.executed, REASON_INDEX[decision.reason]


def widowx_guard_factory(**changes: Any) -> GuardFilter:
    """A fresh `GuardFilter` of the WidowX 250 S; picklable by name, for environments in processes."""
    return GuardFilter(GuardConfig.widowx_250s(**changes))
