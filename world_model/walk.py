"""`Walk`: a batch of windows that walk along recorded episodes, partly on the model's own predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from world_model.denoiser import to_bytes, to_pixels
from world_model.windows import FrameTable


class Walk:
    """B members, each at a frame of a table, with the window that ends there.

    A member goes on from the frame and state just predicted, or starts anew at a random real window.

    Attributes:
        cursor: int64 (B,), frames of the table. history: uint8 (B, H, h, w, 3), the windows that end there.
        state, previous: float32 (B, S), there and one step before.
        succeeded, failed: int64, the table's frames by truth. background: (3, h, w), their median.
    """

    def __init__(self, table: FrameTable, batch: int, length: int, seed: int) -> None:
        self.table, self.batch, self.length = table, batch, length
        self.generator = torch.Generator(table.frames.device).manual_seed(seed)
        self.background = self._background()
        self.succeeded = torch.nonzero(table.success).squeeze(1)
        self.failed = torch.nonzero(~table.success).squeeze(1)
        self.start()

    def start(self) -> None:
        """Every member at a random real window."""
        self.cursor = self.pick(self.table.steps, self.batch)
        self.history = self.table.history(self.cursor, self.length)
        self.state = self.table.states[self.cursor]
        self.previous = self.table.previous(self.cursor)

    def advance(self, own_context: float) -> None:
        """Start members anew at random real windows, by chance or because their episode is over."""
        fresh = self.pick(self.table.steps, self.batch)
        lot = torch.rand(self.batch, generator=self.generator, device=self.generator.device)
        renew = (lot >= own_context) | self.table.is_last[self.cursor]
        self.cursor = torch.where(renew, fresh, self.cursor)
        real = self.table.history(self.cursor, self.length)
        self.history = torch.where(renew[:, None, None, None, None], real, self.history)
        self.state = torch.where(renew[:, None], self.table.states[self.cursor], self.state)
        self.previous = torch.where(renew[:, None], self.table.previous(self.cursor), self.previous)

    def go_on(self, picture: Tensor, state: Tensor) -> None:
        """One frame on, to the predicted picture (B, 3, h, w) in [-1, 1] and state (B, S)."""
        self.history = torch.cat([self.history[:, 1:], to_bytes(picture)[:, None]], 1)
        self.previous, self.state = self.state, state
        self.cursor = self.cursor + 1

    def pick(self, rows: Tensor, count: int) -> Tensor:
        """`count` of `rows`, drawn with replacement."""
        index = torch.randint(len(rows), (count,), generator=self.generator, device=self.generator.device)
        return rows[index]

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "cursor": self.cursor,
            "history": self.history,
            "state": self.state,
            "previous": self.previous,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.table.frames.device
        self.generator.set_state(state["generator"].cpu())
        self.cursor, self.history = state["cursor"].to(device), state["history"].to(device)
        self.state, self.previous = state["state"].to(device), state["previous"].to(device)

    def _background(self) -> Tensor:
        """The median (3, h, w) of at most 255 frames spread over the episodes."""
        stride = max(1, len(self.table.frames) // 255)
        return to_pixels(self.table.frames[::stride].median(0).values)
