"""The energy tank: a bounded account, and the books that prove it (J = joule here)."""

from __future__ import annotations

RESERVE = 1e-12
"""Left above the floor by whatever takes energy out [J], so that rounding cannot go below it."""


class EnergyTank:
    """A store of energy between `minimum` and `maximum` [J], with books of everything that moved.

    What is not there cannot be drawn (the filters see to it); what does not fit is spilled, never kept:

        level = start + refilled + returned + metered - drawn - spilled + rounding

    where `rounding` sums the exact error of every addition, so the books prove themselves to the last bit.
    """

    __slots__ = (
        "drawn",
        "level",
        "maximum",
        "metered",
        "minimum",
        "refilled",
        "returned",
        "rounding",
        "spilled",
        "start",
    )

    def __init__(self, minimum: float, maximum: float, start: float) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.reset(start)

    def reset(self, start: float) -> None:
        """Begin new books with `start` [J] inside."""
        self.start = self.level = start
        self.refilled = 0.0
        """From energy that the servos are known to have dissipated, as far as it fitted."""
        self.returned = 0.0
        """From springs that were relaxed, as far as it fitted."""
        self.metered = 0.0
        """From outside, as far as it fitted (energy-bounded mode only)."""
        self.drawn = 0.0
        """Into springs that were tensed."""
        self.spilled = 0.0
        """Let out by the cap at contact."""
        self.rounding = 0.0

    @property
    def available(self) -> float:
        """What may be drawn [J]."""
        return max(0.0, self.level - self.minimum)

    def refill(self, energy: float) -> None:
        """Take in `energy` >= 0 [J] that was dissipated."""
        self.refilled += self._take(energy)

    def meter(self, energy: float) -> None:
        """Take in `energy` >= 0 [J] from outside: this is what makes a filter active."""
        self.metered += self._take(energy)

    def settle(self, energy: float) -> None:
        """Pay for a spring that now holds `energy` [J] more, or take back what it holds less."""
        if energy > 0.0:
            self.drawn += energy
            self._add(-energy)
            below = self.minimum - self.level
            if 0.0 < below < RESERVE:  # what was asked for had been rounded up
                self.rounding += below
                self.level = self.minimum
        else:
            self.returned += self._take(-energy)

    def keep(self, energy: float) -> None:
        """Spill whatever is available beyond `energy` [J]."""
        excess = self.level - self.minimum - max(RESERVE, energy)
        if excess > 0.0:
            self.spilled += excess
            self._add(-excess)

    def _take(self, energy: float) -> float:
        taken = min(energy, self.maximum - self.level)
        if taken > 0.0:
            self._add(taken)
            if self.level > self.maximum:  # by a rounding of the sum
                self._add(self.maximum - self.level)
            return taken
        return 0.0

    def _add(self, energy: float) -> None:
        # Knuth's two-sum: the error of an addition, exactly.
        level = self.level
        total = level + energy
        part = total - level
        self.rounding -= (level - (total - part)) + (energy - part)
        self.level = total
