"""The pose check: what the arm itself can rule out, whatever the pictures look like.

A success that ends with an open gripper above the goal cannot be one while the gripper is closed. The
box that holds the arm's state in every success of the training episodes says so, for each instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_vlm.judge import Frames
from reward_vlm.metrics import Labels
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError


@dataclass(frozen=True)
class PoseCheck:
    """Least and largest `schema.STATE` (S,) at a success, by instruction, in the state's own units."""

    boxes: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]

    @classmethod
    def of(cls, episodes: Sequence[Episode], margin: float) -> PoseCheck:
        """The boxes around the successes of `episodes`, each side moved out by `margin` of its width."""
        boxes = {}
        for instruction in sorted({episode.metadata.instruction for episode in episodes}):
            states = np.concatenate(
                [
                    episode.observations[schema.STATE][1:][episode.success]
                    for episode in episodes
                    if episode.metadata.instruction == instruction
                ]
            )
            if len(states) == 0:
                raise DataError(f"no success of {instruction!r} to take a pose check from")
            low, high = states.min(0), states.max(0)
            wider = margin * (high - low)
            boxes[instruction] = (tuple((low - wider).tolist()), tuple((high + wider).tolist()))
        return cls(boxes)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> PoseCheck | None:
        """From what `boxes` becomes in JSON; None stays None."""
        return None if value is None else cls({k: (tuple(v[0]), tuple(v[1])) for k, v in value.items()})

    def allows(self, frames: Frames, instruction: str) -> Labels:
        """Whether the arm is where it was at some success of `instruction`: (N,)."""
        if schema.STATE not in frames.observations:
            raise DataError(f"the pose check needs {schema.STATE!r}; there is {sorted(frames.observations)}")
        low, high = self.boxes[instruction]
        state: npt.NDArray[Any] = frames.observations[schema.STATE]
        inside = (state >= np.array(low, np.float32)) & (state <= np.array(high, np.float32))
        return np.asarray(inside.all(-1), bool)
