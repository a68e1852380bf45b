"""Practice without resets: which of two directions an arm tries next, and when somebody has to help.

    forward  --predicted success-->  backward  --predicted success-->  forward ...
    time-out: the same direction again (`retry`), or the other one (`switch`)

After RoboFuME (arXiv 2310.15145), which leaves the time-out open; SERL (arXiv 2401.16013) retries. Where a
forward trial changed nothing, the backward one that `switch` sets is fulfilled before it begins, and its
success hides that the arm is stuck. Pure bookkeeping: it knows neither the arm nor the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robot_rl.errors import ConfigError, unknown

DIRECTIONS = ("forward", "backward")
ON_TIMEOUT = ("switch", "retry")
Start = Literal["first", "kept", "manual", "hard"]
"""How a trial begins: in the first scene, in the scene as the last one left it, in one that a person has put
right because the arm was stuck, or in one that was due for a reset."""


@dataclass(frozen=True)
class ResetFreeConfig:
    """Attributes:
    on_timeout: after a time-out stay (`retry`), or go on to the other direction (`switch`).
    stuck_after: time-outs in a row, without a predicted success of either direction, after which a person
        is asked to reset the scene.
    hard_reset_every: steps after which the scene is reset anyway, at the end of the trial; 0: never.
    homing_steps: at most, for the arm to let go and return to where it stood when the scene was new, before
        each trial (`robot_rl.trainers.homing`); 0: it starts where it ended.
    """

    on_timeout: Literal["switch", "retry"] = "retry"
    stuck_after: int = 10
    hard_reset_every: int = 0
    homing_steps: int = 20

    def __post_init__(self) -> None:
        if self.on_timeout not in ON_TIMEOUT:
            raise unknown("on_timeout", str(self.on_timeout), ON_TIMEOUT)
        if self.stuck_after < 1 or self.hard_reset_every < 0 or self.homing_steps < 0:
            raise ConfigError(
                f"stuck_after={self.stuck_after}, hard_reset_every={self.hard_reset_every}, "
                f"homing_steps={self.homing_steps}; expected at least 1 time-out and no fewer than 0 steps"
            )


class ForwardBackward:
    """The state machine of one arm. `direction` (0 forward, 1 backward) and `start` are the next trial's.

    A reset of either kind leads back to the forward direction, whose scene a reset makes, and to counting
    time-outs and steps anew.

    Attributes:
        trials, successes: ended trials and predicted successes of each direction.
        manual_resets, hard_resets: asked for so far. steps: of all trials.
    """

    def __init__(self, config: ResetFreeConfig | None = None) -> None:
        self.config = config or ResetFreeConfig()
        self.direction = 0
        self.start: Start = "first"
        self.trials, self.successes = [0, 0], [0, 0]
        self.manual_resets = self.hard_resets = self.steps = 0
        self._timeouts = self._steps_in_scene = 0

    @property
    def fresh(self) -> bool:
        """Whether the next trial begins in a new scene."""
        return self.start != "kept"

    def ended(self, success: bool, steps: int) -> None:
        """A trial ended after `steps`, by predicted success or by the clock; decides on the next one.

        Raises:
            ConfigError: a trial without steps.
        """
        if steps < 1:
            raise ConfigError(f"a trial ended after {steps} steps; expected at least 1")
        self.trials[self.direction] += 1
        self.successes[self.direction] += success
        self.steps += steps
        self._steps_in_scene += steps
        self._timeouts = 0 if success else self._timeouts + 1
        if success or self.config.on_timeout == "switch":
            self.direction = 1 - self.direction
        self.start = "kept"
        if self._timeouts >= self.config.stuck_after:
            self.manual_resets += 1
            self._new_scene("manual")
        elif 0 < self.config.hard_reset_every <= self._steps_in_scene:
            self.hard_resets += 1
            self._new_scene("hard")

    def _new_scene(self, start: Start) -> None:
        self.start, self.direction = start, 0
        self._timeouts = self._steps_in_scene = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes: numbers, strings and lists."""
        return {
            "direction": self.direction,
            "start": self.start,
            "trials": list(self.trials),
            "successes": list(self.successes),
            "manual_resets": self.manual_resets,
            "hard_resets": self.hard_resets,
            "steps": self.steps,
            "timeouts": self._timeouts,
            "steps_in_scene": self._steps_in_scene,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.direction, self.start = state["direction"], state["start"]
        self.trials, self.successes = list(state["trials"]), list(state["successes"])
        self.manual_resets, self.hard_resets = state["manual_resets"], state["hard_resets"]
        self.steps = state["steps"]
        self._timeouts, self._steps_in_scene = state["timeouts"], state["steps_in_scene"]
