"""What every simulated environment agrees on: how a task is described, and who may change a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import RobotRLError, unknown

FloatArray = npt.NDArray[np.float64]
Observation = dict[str, npt.NDArray[Any]]
Config = TypeVar("Config")


class SimulationError(RobotRLError):
    """The simulator was asked for something it cannot do, or a worker of it failed."""


@dataclass(frozen=True)
class TaskSpec:
    """A task as data: what a recorder, a policy bundle or a report needs to know about it."""

    name: str
    """As given to `sim.make`, for example `widowx/push`."""
    robot: str
    control_hz: float
    instruction: str
    max_steps: int
    port: str = "joints"
    """What a command filter judges: `joints` (a `CommandFilter`), or `springs` (a `sim.peg.SpringFilter`)."""


class CommandFilter(Protocol):
    """Stands between the controller and the servos: limits, guards and energy filters fit here.

    An object with a `reset()` method is reset at the start of every episode.
    """

    def __call__(self, requested: FloatArray, measured: FloatArray, time_s: float) -> tuple[FloatArray, int]:
        """Judge one joint setpoint; called at `schema.SETPOINT_HZ`.

        Args:
            requested: setpoint (7,): six joints [rad], finger travel [m].
            measured: the same quantities as they are now.
            time_s: time since the episode began [s].

        Returns:
            The setpoint to execute (7,), and the index into `schema.FILTER_REASONS` (0 = unchanged).
        """


def parse_action(action: npt.ArrayLike, size: int = len(schema.ACTION_NAMES)) -> npt.NDArray[np.float32]:
    """The action (size,) as float32, clipped to [-1, 1].

    Raises:
        SimulationError: wrong shape or a non-finite number.
    """
    array = np.asarray(action, np.float32)
    if array.shape != (size,):
        raise SimulationError(f"action has shape {array.shape}; expected ({size},)")
    if not np.isfinite(array).all():
        raise SimulationError(
            f"action {array.tolist()} holds a non-finite number; expected numbers in [-1, 1]"
        )
    return np.clip(array, -1.0, 1.0)


def config_of(cls: type[Config], value: Config | Mapping[str, Any], kind: str) -> Config:
    """The config dataclass `cls` from itself, or from a mapping with some of its fields as a file gives it.

    Raises:
        ConfigError: an unknown field, called a `kind`.
    """
    if isinstance(value, cls):
        return value
    assert isinstance(value, Mapping)
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in value:
        if name not in fields:
            raise unknown(kind, name, fields)
    return cls(**value)
