"""AdamW with warm-up and cosine decay, which never steps on a loss that is no number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reward_vlm.config import RewardConfig


class Descent:
    """The optimiser of every reward model, and the counter of its steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: RewardConfig) -> None:
        self.config, self.parameters = config, list(parameters)
        self.updates = 0
        self._optimiser = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
        )

    def step(self, loss: Tensor) -> None:
        """One step down `loss`. With a loss or gradient that is not finite nothing moves."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if bool(norm.isfinite() & loss.isfinite()):
            self._optimiser.step()
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self._optimiser.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimiser.load_state_dict(state["optimiser"])
        self.updates = int(state["updates"])

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to 0, as a fraction of the peak."""
        total = self.config.updates
        warmup = self.config.warmup_fraction * total
        if self.updates < warmup:
            return self.config.learning_rate * (self.updates + 1) / (warmup + 1)
        progress = (self.updates - warmup) / (total - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
