"""The guard of normalised actions, on by default wherever a policy acts: evaluation, training, replay.

N members, A action dimensions. Joint limits, rates and the leash are the `CommandGuard`'s; what can be
judged without an arm is judged here, for every environment, simulated, adapted or imagined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv, VectorWrapper

from robot_rl.errors import ConfigError
from robot_rl.safety.command import REASON_INDEX

Actions = npt.NDArray[np.float32]
ROUNDING = 1e-6
"""An action this far outside [-1, 1] is clipped but not counted as curtailed."""


@dataclass(frozen=True)
class ActionGuardConfig:
    """Attributes:
    max_change: largest change of a dimension from one executed action to the next, in action units
        (the whole range is 2). The default stops only a reversal of more than three quarters of it.
    absolute: indices of dimensions that are positions rather than motions (a gripper): they may jump,
        and keep their last value when the arm is held, while motions become zero.
    """

    max_change: float = 1.5
    absolute: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if not 0 < self.max_change <= 2:
            raise ConfigError(f"action guard max_change is {self.max_change}; expected 0 < max_change <= 2")


def _float32(values: Any) -> Actions:
    with np.errstate(over="ignore"):  # a huge double becomes inf, which is judged like any other
        return np.asarray(values, np.float32)


class ActionGuard:
    """Makes any array an action that can be executed: finite, in [-1, 1], and not too sudden.

    - a wrong shape holds every member (`wrong_shape`), a non-finite row its own (`non_finite`);
    - the rest is clipped to [-1, 1] (`action_limit`), and its change to `max_change` (`acceleration_limit`:
      an action is a displacement per step, its change an acceleration).

    An action that needs none of this passes unchanged, bit for bit. Never raises.
    """

    def __init__(self, members: int, dimensions: int, config: ActionGuardConfig | None = None) -> None:
        self.config = config or ActionGuardConfig()
        if any(not -dimensions <= index < dimensions for index in self.config.absolute):
            raise ConfigError(
                f"action guard absolute={self.config.absolute}; expected indices of {dimensions} dimensions"
            )
        self._absolute = np.zeros(dimensions, bool)
        self._absolute[list(self.config.absolute)] = True
        self._last = np.zeros((members, dimensions), np.float32)

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start episodes, at rest, of the members in `mask` (N,), or of all."""
        self._last[slice(None) if mask is None else mask] = 0.0

    def step(self, requested: Any) -> tuple[Actions, npt.NDArray[np.uint8]]:
        """Executed actions (N, A) and indices into `schema.FILTER_REASONS` (N,)."""
        reasons = np.zeros(len(self._last), np.uint8)
        hold = np.where(self._absolute, self._last, np.float32(0))
        try:
            action = _float32(requested)
        except (TypeError, ValueError, OverflowError):
            action = np.empty(0, np.float32)
        if action.shape != self._last.shape:
            reasons[:] = REASON_INDEX["wrong_shape"]
            self._last = hold
            return hold.copy(), reasons

        finite: npt.NDArray[np.bool_] = np.all(np.isfinite(action), axis=1)
        action = np.where(finite[:, None], action, hold)
        clipped = np.clip(action, -1, 1)
        low, high = self._last - self.config.max_change, self._last + self.config.max_change
        limited = np.where(self._absolute, clipped, np.clip(clipped, low, high)).astype(np.float32)
        # A held member stops at once, however fast it was.
        executed = np.where(finite[:, None], limited, hold)
        reasons[np.any(executed != clipped, axis=1)] = REASON_INDEX["acceleration_limit"]
        reasons[np.any(np.abs(action) > 1 + ROUNDING, axis=1)] = REASON_INDEX["action_limit"]
        reasons[~finite] = REASON_INDEX["non_finite"]
        self._last = executed
        return executed.copy(), reasons


class GuardedVectorEnv(VectorWrapper):
    """Every action passes an `ActionGuard` before it reaches the environment.

    `info` of a step: `action` (N, A) as executed, by the environment's own account if it gives one;
    `action_requested` (N, A), with 0 for what was not a number; `filter_reason` (N,), the guard's or
    else the environment's; `cost` (N,), at least 1 on every curtailed step.
    """

    def __init__(self, env: VectorEnv, config: ActionGuardConfig | None = None) -> None:
        super().__init__(env)
        shape = env.single_action_space.shape
        if shape is None or len(shape) != 1:
            raise ConfigError(f"guarded environment has actions of shape {shape}; expected (A,)")
        self.guard = ActionGuard(env.num_envs, shape[0], config)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the members of `options["reset_mask"]` (N,), or all."""
        mask = (options or {}).get("reset_mask")
        self.guard.reset(None if mask is None else np.asarray(mask, bool))
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's, with executed and requested actions in `info`."""
        executed, reasons = self.guard.step(actions)
        observations, reward, terminated, truncated, info = self.env.step(executed)
        requested = executed
        if not (reasons == REASON_INDEX["wrong_shape"]).all():
            requested = np.nan_to_num(_float32(actions), nan=0.0)
        reasons = np.where(reasons > 0, reasons, info.get("filter_reason", reasons)).astype(np.uint8)
        return (
            observations,
            reward,
            terminated,
            truncated,
            info
            | {
                "action": np.asarray(info.get("action", executed), np.float32),
                "action_requested": requested,
                "filter_reason": reasons,
                "cost": np.maximum(info.get("cost", 0.0), reasons > 0).astype(np.float32),
            },
        )

    def __getattr__(self, name: str) -> Any:
        """What else the environment offers (expert actions, task facts)."""
        if name == "env":  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.env, name)
