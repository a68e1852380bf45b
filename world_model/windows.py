"""`FrameTable`: every frame of a set of episodes in one tensor, and windows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError


class FrameTable:
    """F frames of E episodes, one after the other; the action at a frame leads to the next frame.

    Attributes:
        frames: uint8 (F, h, w, 3). states: float32 (F, S).
        actions: executed, float32 (F, A); zeros at an episode's last frame.
        success: bool (F,), the truth at that frame. first: int64 (F,), where the frame's episode begins.
        episode: int64 (F,), the number of the frame's episode.
        ended: bool (F,), whether the task ended with that frame, by success or otherwise.
        instruction: float32 (E, L), of the episodes; None where it plays no part.
        steps: int64 (M,), frames that have a next one.
    """

    instruction: Tensor | None

    def __init__(
        self,
        episodes: Sequence[Episode],
        camera: str = schema.IMAGE,
        embed: Callable[[Sequence[str]], Tensor | None] | None = None,
    ) -> None:
        if not episodes:
            raise DataError("no episodes for the world model; expected at least one")
        lengths = np.array([len(episode) + 1 for episode in episodes])
        starts = np.cumsum(lengths) - lengths
        self.frames = torch.from_numpy(np.concatenate([e.observations[camera] for e in episodes]))
        self.states = torch.from_numpy(np.concatenate([e.observations[schema.STATE] for e in episodes]))
        self.states = self.states.float()
        self.actions = torch.from_numpy(
            np.concatenate([np.pad(e.action, ((0, 1), (0, 0))) for e in episodes])
        )
        self.success = torch.from_numpy(np.concatenate([np.pad(e.success, (1, 0)) for e in episodes]))
        self.ended = torch.from_numpy(np.concatenate([np.pad(e.terminated, (1, 0)) for e in episodes]))
        self.instruction = embed([e.metadata.instruction for e in episodes]) if embed else None
        self.first = torch.from_numpy(np.repeat(starts, lengths))
        self.episode = torch.from_numpy(np.repeat(np.arange(len(episodes)), lengths))
        last = torch.zeros(len(self.frames), dtype=torch.bool)
        last[torch.from_numpy(starts + lengths - 1)] = True
        self.steps = torch.nonzero(~last).squeeze(1)
        self.is_last = last

    def to(self, device: torch.device | str) -> FrameTable:
        """The same, moved to `device`; returns itself."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def told(self, index: Tensor) -> Tensor | None:
        """Instructions (B, L) of the episodes that frames `index` (B,) are of."""
        return None if self.instruction is None else self.instruction[self.episode[index]]

    def previous(self, index: Tensor) -> Tensor:
        """States (B, S) one step before `index` (B,); at an episode's first frame, those of that frame."""
        return self.states[torch.maximum(index - 1, self.first[index])]

    def history(self, index: Tensor, length: int) -> Tensor:
        """The `length` frames that end at `index` (B,), the episode's first one repeated before it began.

        Returns:
            uint8 (B, length, h, w, 3), oldest first.
        """
        back = torch.arange(1 - length, 1, device=index.device)
        return self.frames[torch.maximum(index[:, None] + back, self.first[index, None])]
