"""When the guard may step: on average once a period, and with little waiting for who keeps the pace.

Its rate limits count steps, so steps must not come faster than its period. A request that arrives on time is
answered at once instead of at the next tick of a clock of our own, which would cost up to a period.

The generic cell rate algorithm: with a theoretical arrival time TAT, a step at t is allowed from TAT - slack
on, and sets  TAT = max(t, TAT) + h.  In any time d there are at most  1 + (d + slack) / h  steps.
"""

from __future__ import annotations

import math

SLACK = 0.4
"""Of a period: how much too early one step may come."""
EASE = 0.99
"""Steps are let through 1 % faster than the period, so that a sender whose clock is a little fast does not
wait longer and longer."""


class Pacer:
    """Paces steps of `period_s` [s]; times are of any steady clock [s]."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._due = -math.inf

    def wait(self, now: float) -> float:
        """How long until a step is allowed [s]; 0 or less: now."""
        return self._due - SLACK * self.period_s - now

    def step(self, now: float) -> None:
        """A step was made."""
        self._due = max(now, self._due) + EASE * self.period_s
