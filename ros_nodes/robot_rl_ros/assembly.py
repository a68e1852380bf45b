"""From what passes through the graph to the steps of an episode, matched by stamps and sequence numbers.

Step k: what was seen when action k was decided (its stamp); the action requested; the action executed,
read off the setpoints that the guard let through (those with the sequence numbers of action k); and what
was seen when action k + 1 was decided, or at the end. An action that was cut off is not recorded.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.safety import ActionGuard, ActionGuardConfig
from robot_rl_ros.messages import Executed
from robot_rl_ros.observing import SAME_S, Observation, Observer
from sim.arm import SETPOINTS_PER_STEP, ArmController

STEP_S = 1 / schema.CONTROL_HZ
Arrays = dict[str, npt.NDArray[Any]]


class Requested(NamedTuple):
    """An action as it was announced."""

    stamp: float
    """Of the observation that it is based on [s]."""
    action: npt.NDArray[np.float32]
    """(7,)"""
    first: int
    """Sequence number of its first setpoint."""
    intervention: bool


class Verdict(NamedTuple):
    """What was said of one moment."""

    stamp: float
    success: bool
    reward: float = 0.0


@dataclass
class Step:
    """One finished step, as `EpisodeRecorder.step` takes it."""

    observation: Arrays
    requested: npt.NDArray[np.float32]
    executed: npt.NDArray[np.float32]
    reason: str
    intervention: bool
    truth: bool | None
    """Success by the simulator; None where there is none."""
    judgement: Verdict | None


def latest(verdicts: Sequence[Verdict], stamp: float) -> Verdict | None:
    """The newest verdict of at most one step before `stamp`."""
    index = bisect_right([verdict.stamp for verdict in verdicts], stamp + SAME_S)
    if index and stamp - verdicts[index - 1].stamp <= STEP_S + SAME_S:
        return verdicts[index - 1]
    return None


@dataclass
class Assembler:
    """Takes messages in any order between topics, and gives steps.

    Attributes:
        controller: of the arm. observer: of its joint states and cameras; kept long enough.
        guard: limits of normalised actions, as the acting node applies them.
        setpoints: how many requests an action makes.
        expects_truth, expects_judgement: wait for these.
        patience_s: but not longer than this beyond the moment [s].
    """

    controller: ArmController
    observer: Observer
    guard: ActionGuardConfig | None = None
    setpoints: int = SETPOINTS_PER_STEP
    expects_truth: bool = False
    expects_judgement: bool = False
    patience_s: float = 2.0
    actions: list[Requested] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    truths: list[Verdict] = field(default_factory=list)
    judgements: list[Verdict] = field(default_factory=list)
    trouble: str = ""
    """Why no more steps come, if so."""

    first: Observation | None = None
    """What was seen when the episode began, once it is there."""

    def __post_init__(self) -> None:
        self._guard = ActionGuard(1, len(schema.ACTION_NAMES), self.guard)
        self._start = np.zeros(0)
        """The setpoint (J,) from which the next action starts."""
        self._seen: dict[float, Observation] = {}
        """What was seen at the stamps of actions, taken while it is there."""

    @property
    def cut_off(self) -> bool:
        """Whether all that is left is an action that was not carried out to its end, by all that is known."""
        if len(self.actions) != 1 or self._carried_out(self.actions[0], self.executed):
            return False
        ended = self.actions[0].stamp + STEP_S - SAME_S
        return all(verdict.stamp < ended for verdict in self.truths)

    def _carried_out(self, action: Requested, executed: list[Executed]) -> bool:
        return bool(executed) and executed[-1].sequence >= action.first + self.setpoints - 1

    @property
    def end(self) -> float:
        """When the setpoints that have come so far were carried out [s]."""
        return self.executed[-1].time_s + 1 / schema.SETPOINT_HZ if self.executed else -math.inf

    def arrays(self, observation: Observation) -> Arrays:
        """An observation by its schema names."""
        pictures = {schema.image_key(name): picture for name, picture in observation.pictures.items()}
        return {schema.STATE: self.controller.state(observation.joints)} | pictures

    def steps(self, end: float | None = None) -> list[Step]:
        """The steps that are complete by now; `end`: when the last one ended, if no other follows [s]."""
        for action in self.actions:
            self._look(action.stamp)
        found = []
        while self.actions and not self.trouble:
            step = self._step(end)
            if step is None:
                break
            found.append(step)
        return found

    def _step(self, end: float | None) -> Step | None:
        action = self.actions[0]
        last = len(self.actions) == 1
        if last and end is None:
            return None
        after = end if last and end is not None else self.actions[-1 if last else 1].stamp
        if self.first is None:
            first = self._look(action.stamp)
            if first is None:
                return None
            self.first, self._start = first, first.joints
        beyond = math.inf if last else self.actions[1].first
        mine = [each for each in self.executed if action.first <= each.sequence < beyond]
        if not self._carried_out(action, mine):
            if not last and self.executed and self.executed[-1].sequence >= beyond:
                self.trouble = "an action was cut off"
            return None
        observation = self._look(after)
        if observation is None:
            return None
        truth, judgement = latest(self.truths, after), latest(self.judgements, after)
        lacking = (self.expects_truth and truth is None) or (self.expects_judgement and judgement is None)
        if lacking and self._newest() < after + self.patience_s:
            return None
        return self._finish(action, mine, self.arrays(observation), truth, judgement)

    def _finish(
        self,
        action: Requested,
        mine: list[Executed],
        observation: Arrays,
        truth: Verdict | None,
        judgement: Verdict | None,
    ) -> Step:
        guarded, reasons = self._guard.step(action.action[None])
        reason = next((each.reason for each in mine if each.reason), "")
        executed, end = guarded[0], np.array(mine[-1].setpoint)
        if reason:
            executed = self.controller.action_between(self._start, end)
        if reasons[0]:
            reason = schema.FILTER_REASONS[reasons[0]]
        self._start = end
        self._seen.pop(action.stamp, None)
        self.executed = [each for each in self.executed if each.sequence > mine[-1].sequence]
        self.actions.pop(0)
        return Step(
            observation,
            action.action,
            executed,
            reason,
            action.intervention,
            truth.success if truth else None,
            judgement,
        )

    def _newest(self) -> float:
        return self.observer.state.stamp if self.observer.state is not None else -math.inf

    def _look(self, stamp: float) -> Observation | None:
        """What was seen at `stamp`; None: it may be on its way, or lost, which ends the episode's steps."""
        if stamp not in self._seen:
            found = self.observer.at(stamp)
            if isinstance(found, Observation):
                self._seen[stamp] = found
            elif self._newest() > stamp + self.patience_s:
                self.trouble = found
        return self._seen.get(stamp)
