"""Data-parallel training through torch.distributed: every process holds a share of the episodes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """The processes that train one model together; `torchrun` starts them.

    Attributes:
        rank: this process, from 0. size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device | str = "cpu") -> Group:
        """The group that torchrun's environment names; a group of one without it.

        Raises:
            ConfigError: an environment that names no usable group.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            try:
                dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"WORLD_SIZE={size} and no group of processes ({str(error).splitlines()[0]}); "
                    "start it with torchrun"
                ) from error
        return cls(dist.get_rank(), size)

    def shards(self, count: int) -> range:
        """Which of `count` shards this process holds.

        Raises:
            ConfigError: shards that do not divide among the processes.
        """
        if count % self.size:
            raise ConfigError(f"world_model.shards is {count}; expected a multiple of {self.size} processes")
        return range(self.rank, count, self.size)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """g <- mean over processes of g, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, values: Tensor) -> Tensor:
        """Mean over processes of `values`, of the same shape everywhere."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the group, if there is one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
