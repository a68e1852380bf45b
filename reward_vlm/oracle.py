"""The simulator's truth behind the judge's face, with as much error as one wants to study."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reward_vlm.judge import Frames
from reward_vlm.metrics import Probabilities
from robot_rl.errors import ConfigError, DataError


@dataclass(frozen=True)
class OracleConfig:
    """Attributes:
    false_positive, false_negative: share of failures called a success, and of successes not seen.
        RoboFuME measured .06 and .80 for its fine-tuned VLM (arXiv 2310.15145).
    debounce: consecutive successes that end an episode.
    seed: of the errors: other moments are misjudged with another.
    """

    false_positive: float = 0.0
    false_negative: float = 0.0
    debounce: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("false_positive", "false_negative"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"oracle {name} is {getattr(self, name)}; expected a number in [0, 1]")
        if self.debounce < 1:
            raise ConfigError(f"oracle debounce is {self.debounce}; expected at least 1 frame")


class Oracle:
    """A `SuccessJudge` that is told the truth, and errs at the rates of its config.

    Whether it errs on a moment depends on what is observed then, and on the seed, alone: as a model it errs
    again where it erred before, in every process, and in a run that was resumed.
    """

    threshold = 0.5

    def __init__(self, config: OracleConfig | None = None) -> None:
        self.config = config or OracleConfig()

    @property
    def debounce(self) -> int:
        return self.config.debounce

    @property
    def fingerprint(self) -> str:
        return f"oracle {self.config}"

    def judge(self, frames: Frames) -> Probabilities:
        """1 where the answer is yes, else 0: (N,).

        Raises:
            DataError: the frames do not hold the truth.
        """
        if frames.truth is None:
            raise DataError("the oracle was asked about frames without their truth; give a learned judge")
        rates = np.where(frames.truth, self.config.false_negative, self.config.false_positive)
        if not rates.any():
            return frames.truth.astype(np.float32)
        return (frames.truth ^ (self._chances(frames) < rates)).astype(np.float32)

    def _chances(self, frames: Frames) -> npt.NDArray[np.float64]:
        """A number in [0, 1) for each moment (N,), uniform over the moments."""
        drawn = np.empty(len(frames))
        columns = [np.ascontiguousarray(value) for _, value in sorted(frames.observations.items())]
        for moment in range(len(frames)):
            content = hashlib.blake2b(str(self.config.seed).encode(), digest_size=8)
            for column in columns:
                content.update(column[moment].tobytes())
            drawn[moment] = int.from_bytes(content.digest(), "big") / 2**64
        return drawn
