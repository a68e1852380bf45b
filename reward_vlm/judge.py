"""What every reward model is, whatever is inside: moments and an instruction in, probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from reward_vlm.metrics import Labels, Probabilities
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError

Pictures = npt.NDArray[np.uint8]
"""(N, C, H, W, 3): N moments, each seen by C cameras."""


@dataclass(frozen=True)
class Frames:
    """N moments at which an instruction may be fulfilled.

    Attributes:
        observations: schema key -> array (N, ...).
        instruction: the one that is asked about.
        truth: whether it is fulfilled (N,), where a simulator knows; for the oracle alone.
    """

    observations: Mapping[str, npt.NDArray[Any]]
    instruction: str
    truth: Labels | None = None

    @classmethod
    def of(cls, episode: Episode) -> Frames:
        """What each of the episode's T steps led to."""
        moments = {key: value[1:] for key, value in episode.observations.items()}
        return cls(moments, episode.metadata.instruction, episode.success)

    def __len__(self) -> int:
        return len(next(iter(self.observations.values())))

    def where(self, mask: npt.NDArray[Any]) -> Frames:
        """The moments of a mask (N,) or of indices, in their order."""
        chosen = {key: value[mask] for key, value in self.observations.items()}
        return Frames(chosen, self.instruction, None if self.truth is None else self.truth[mask])

    def pictures(self, cameras: Sequence[str]) -> Pictures:
        """uint8 (N, C, H, W, 3).

        Raises:
            DataError: a camera is missing, or the cameras' pictures differ in size.
        """
        return stacked(self.observations, cameras)


def stacked(observations: Mapping[str, npt.NDArray[Any]], cameras: Sequence[str]) -> Pictures:
    """Pictures (N, C, H, W, 3) of the cameras, in their order. Raises DataError as `Frames.pictures`."""
    for camera in cameras:
        if schema.image_key(camera) not in observations:
            raise DataError(
                f"episode has no pictures {schema.image_key(camera)!r}; it has "
                f"{', '.join(sorted(observations))}: record it with that camera, or name another"
            )
    views = [observations[schema.image_key(camera)] for camera in cameras]
    sizes = {view.shape[1:] for view in views}
    if len(sizes) != 1:
        raise DataError(
            f"pictures of {', '.join(cameras)} differ in size: {sorted(sizes)}; expected one size"
        )
    return views[0][:, None] if len(views) == 1 else np.stack(views, 1)


class SuccessJudge(Protocol):
    """What rewards: a `SuccessClassifier` around any back end, or the simulator's truth (`Oracle`)."""

    @property
    def threshold(self) -> float:
        """A moment is a success at a probability of at least this."""

    @property
    def debounce(self) -> int:
        """Consecutive successes that end an episode."""

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever an answer could."""

    def judge(self, frames: Frames) -> Probabilities:
        """Calibrated probability (N,) that the instruction is fulfilled at each moment."""


def judge_members(
    judge: SuccessJudge,
    observations: Mapping[str, npt.NDArray[Any]],
    instructions: Sequence[str],
    truth: Labels | None = None,
) -> Probabilities:
    """Probabilities (N,) of N moments with an instruction each; one batch for every instruction."""
    probability = np.zeros(len(instructions), np.float32)
    asked = np.array(instructions)
    for instruction in sorted(set(instructions)):
        mine = asked == instruction
        probability[mine] = judge.judge(Frames(observations, instruction, truth).where(mine))
    return probability
