"""What goes into the guard and what comes out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robot_rl.data.schema import FILTER_REASONS

Floats = npt.NDArray[np.float64]
REASON_INDEX = {name: index for index, name in enumerate(FILTER_REASONS)}


class Command(NamedTuple):
    """A requested joint setpoint."""

    values: Any
    """Setpoints (J,) [rad or m]; anything may arrive here, the guard checks."""
    stamp: float
    """When it was issued, on the guard's clock [s]."""
    sequence: int
    """Strictly increasing from command to command of one sender."""


class JointState(NamedTuple):
    """A measured joint position."""

    position: Any
    """(J,) [rad or m]; anything may arrive here, the guard checks."""
    stamp: float
    """When it was measured, on the guard's clock [s]."""


class Decision(NamedTuple):
    """What goes to the arm, and why it differs from the request."""

    executed: Floats | None
    """Setpoints (J,) [rad or m]. None: send nothing, the guard was never reset."""
    reason: str
    """One of `schema.FILTER_REASONS`; "" if the request is executed unchanged."""
    latched: bool
    """Stopped by a fault; only `CommandGuard.reset` resumes."""
    energy: float | None = None
    """In the passivity filter's tank after the step [J]; None without a filter."""
    scale: float = 1.0
    """Share in [0, 1] of the way that the passivity filter let through."""

    @property
    def reason_index(self) -> int:
        """Index of `reason` in `schema.FILTER_REASONS`, as episodes store it."""
        return REASON_INDEX[self.reason]
