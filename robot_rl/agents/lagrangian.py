"""The price of a constraint: a Lagrange multiplier driven by a PID controller.

Stooke, Achiam and Abbeel, "Responsive safety in reinforcement learning by PID Lagrangian methods"
(arXiv 2007.03964, algorithm 2), with the gains of FSRL's SAC-Lagrangian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class LagrangianConfig:
    """Attributes:
    limit: d, the cost that an episode may have on average.
    proportional, integral, derivative: gains.
    cap: largest multiplier.
    """

    limit: float = 0.4
    proportional: float = 0.05
    integral: float = 5e-4
    derivative: float = 0.1
    cap: float = 10.0

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise ConfigError(f"lagrangian.limit={self.limit}; expected a cost of at least 0")
        for name in ("proportional", "integral", "derivative"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"lagrangian.{name}={getattr(self, name)}; expected at least 0")
        if not self.cap > 0:
            raise ConfigError(f"lagrangian.cap={self.cap}; expected above 0")


class PIDLagrangian:
    """lambda = [k_p e + k_i I + k_d (delta e)+]+, at most `cap`; e = J_c - d, I = [sum e]+.

    The sum never falls below zero, so that a long safe time does not pay for a later violation; and it
    grows no further while the multiplier stands at its cap, so that it comes down again at once.
    """

    def __init__(self, config: LagrangianConfig) -> None:
        self.config = config
        self.value = 0.0
        """lambda, the multiplier as of the last update."""
        self._sum = 0.0
        self._error: float | None = None

    def update(self, cost: float) -> float:
        """Take in the mean cost J_c of new episodes; returns the multiplier."""
        config = self.config
        error = cost - config.limit
        rise = 0.0 if self._error is None else max(0.0, error - self._error)
        if self.value < config.cap or error < 0:
            self._sum = max(0.0, self._sum + error)
        control = config.proportional * error + config.integral * self._sum + config.derivative * rise
        self._error = error
        self.value = min(max(0.0, control), config.cap)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "sum": self._sum, "error": self._error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self._sum, self._error = state["value"], state["sum"], state["error"]
