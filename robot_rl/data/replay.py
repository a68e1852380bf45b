"""Replay: flat transitions, with bootstrap masks and returns computed once, and mixing of buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from robot_rl.errors import ConfigError, DataError

Batch = dict[str, torch.Tensor]
ArrayLike = npt.NDArray[Any] | torch.Tensor
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReplayConfig:
    """Attributes:
    capacity: transitions kept; the oldest are overwritten.
    gamma: discount.
    n_step: rewards summed before bootstrapping.
    truncated_tail: value of what follows an episode that did not terminate, in its Monte-Carlo return:
        `zero`, or `repeat` of the last reward for ever, r / (1 - gamma).
    failure_reward: if given, every return of an episode that never succeeds is
        failure_reward / (1 - gamma), the value Cal-QL gives sparse-reward failures.
    """

    capacity: int
    gamma: float = 0.99
    n_step: int = 1
    truncated_tail: Literal["zero", "repeat"] = "zero"
    failure_reward: float | None = None

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.n_step < 1:
            raise ConfigError(f"capacity={self.capacity}, n_step={self.n_step}; expected both at least 1")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"gamma={self.gamma}; expected 0 <= gamma <= 1")
        if self.gamma == 1 and (self.truncated_tail == "repeat" or self.failure_reward is not None):
            raise ConfigError("gamma=1 leaves r / (1 - gamma) undefined; expected gamma below 1")
        if self.truncated_tail not in ("zero", "repeat"):
            raise ConfigError(f"truncated_tail={self.truncated_tail!r}; expected 'zero' or 'repeat'")


def bootstrap_mask(terminated: npt.NDArray[np.bool_]) -> FloatArray:
    """1 where the value goes on after the step, 0 where the task ended; a truncated step goes on."""
    return 1.0 - terminated.astype(np.float32)


def monte_carlo_returns(reward: FloatArray, mask: FloatArray, gamma: float, tail: float = 0.0) -> FloatArray:
    """G_t = r_t + gamma mask_t G_{t+1} (T,), with G_T = `tail`."""
    returns = np.empty(len(reward), np.float64)
    following = tail
    for t in reversed(range(len(reward))):
        following = float(reward[t]) + gamma * float(mask[t]) * following
        returns[t] = following
    return returns.astype(np.float32)


def n_step_targets(
    reward: FloatArray, mask: FloatArray, gamma: float, n: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """For k = min(n, T - t): sum_{i<k} gamma^i r_{t+i}, gamma^k mask_{t+k-1}, and t + k; each (T,)."""
    steps = len(reward)
    following = np.minimum(np.arange(steps) + n, steps)
    total = np.zeros(steps, np.float64)
    for i in range(min(n, steps)):
        total[: steps - i] += gamma**i * reward[i:]
    discount = gamma ** (following - np.arange(steps)) * mask[following - 1]
    return total.astype(np.float32), discount.astype(np.float32), following


class Sampler(Protocol):
    """What batches are drawn from: a buffer, a mixture of buffers, a weighted buffer."""

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """`batch` transitions: name -> (batch, ...)."""
        ...


class ReplayBuffer:
    """A ring of transitions held in one contiguous tensor for each name.

    A batch holds, for each feature `f` of the observation, `f` and `next_f` (n steps later), and
    `action`, `reward` (n-step sum), `discount` (B,) (gamma^k, and 0 where the task terminated, so that a
    target is reward + discount * V(next)), `mc_return` (B,), and whatever extras `add_episode` was given.
    The first episode fixes names, shapes and dtypes. Memory is taken as the ring fills.
    """

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self._tensors: Batch = {}
        self._position = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add_episode(
        self,
        features: Mapping[str, ArrayLike],
        action: ArrayLike,
        reward: ArrayLike,
        terminated: ArrayLike,
        *,
        succeeded: bool | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
        only: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one episode of T steps. One that does not end terminated is bootstrapped at its end.

        Args:
            features: name -> (T+1, ...), of the observations.
            action: (T, A), as executed.
            reward: (T,). terminated: (T,), true at the last step or nowhere.
            succeeded: by the judgement that gave the reward; by default, whether it terminated.
            extras: name -> (T, ...), sampled as they are.
            only: steps (T,) to keep; returns and targets are those of the whole episode.

        Raises:
            DataError: a length, name, shape or dtype does not fit, or a step follows a terminated one.
        """
        r, ended = np.asarray(reward, np.float32), np.asarray(terminated, np.bool_)
        steps = len(r)
        self._check_lengths(steps, features, {"action": action, "terminated": ended} | dict(extras or {}))
        if ended[:-1].any():
            raise DataError(
                f"terminated at step {int(ended.argmax())} of {steps}; expected only at the last: cut there"
            )
        gamma = self.config.gamma
        mask = bootstrap_mask(ended)
        summed, discount, following = n_step_targets(r, mask, gamma, self.config.n_step)
        rows: dict[str, ArrayLike] = {"action": action, "reward": summed, "discount": discount}
        rows |= {"mc_return": self._returns(r, mask, succeeded)} | dict(extras or {})
        for name, values in features.items():
            rows |= {name: values[:-1], f"next_{name}": values[following]}
        if only is not None:
            rows = {name: torch.as_tensor(value)[torch.as_tensor(only)] for name, value in rows.items()}
        self.add(rows)

    def add(self, transitions: Mapping[str, ArrayLike]) -> None:
        """Add N ready-made transitions, name -> (N, ...)."""
        rows = {name: torch.as_tensor(value) for name, value in transitions.items()}
        count = len(next(iter(rows.values())))
        if not self._tensors:
            self._allocate(rows)
        self._check_rows(rows, count)
        index = (self._position + torch.arange(count)) % self.config.capacity
        for name, value in rows.items():
            self._tensors[name].index_copy_(0, index, value)
        self._position = (self._position + count) % self.config.capacity
        self._size = min(self._size + count, self.config.capacity)

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """`batch` transitions drawn uniformly with replacement: name -> (batch, ...)."""
        return self.gather(self._draw(batch, generator))

    def gather(self, index: torch.Tensor) -> Batch:
        """The transitions at `index` (B,), in the order of `all`: name -> (B, ...)."""
        return {name: tensor.index_select(0, index) for name, tensor in self._tensors.items()}

    def all(self) -> Batch:
        """Views of what is held, name -> (len(self), ...), in no particular order."""
        return {name: tensor[: self._size] for name, tensor in self._tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        """Contents and position, readable by `torch.load(weights_only=True)`."""
        tensors = {name: value.clone() for name, value in self.all().items()}
        return {
            "config": asdict(self.config),
            "position": self._position,
            "size": self._size,
            "tensors": tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved buffer's contents.

        Raises:
            DataError: it was saved under another configuration.
        """
        if state["config"] != asdict(self.config):
            raise DataError(
                f"replay buffer was saved with {state['config']}; expected {asdict(self.config)}: "
                "resume with the settings it was made with"
            )
        self._allocate(state["tensors"])
        for name, value in state["tensors"].items():
            self._tensors[name][: len(value)] = value
        self._position, self._size = int(state["position"]), int(state["size"])

    def _allocate(self, rows: Batch) -> None:
        """Room for `capacity` rows like these. It is not written to, so that the system finds memory for it
        only where transitions come to lie."""
        self._tensors = {
            name: torch.empty(self.config.capacity, *value.shape[1:], dtype=value.dtype)
            for name, value in rows.items()
        }

    def _draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        if self._size == 0:
            raise DataError("cannot sample from an empty replay buffer; add an episode first")
        return torch.randint(self._size, (batch,), generator=generator)

    def _returns(self, reward: FloatArray, mask: FloatArray, succeeded: bool | None) -> FloatArray:
        gamma, failure = self.config.gamma, self.config.failure_reward
        if failure is not None and not (mask[-1] == 0 if succeeded is None else succeeded):
            return np.full(len(reward), failure / (1 - gamma), np.float32)
        tail = float(reward[-1]) / (1 - gamma) if self.config.truncated_tail == "repeat" else 0.0
        return monte_carlo_returns(reward, mask, gamma, tail)

    def _check_lengths(
        self, steps: int, features: Mapping[str, ArrayLike], per_step: Mapping[str, ArrayLike]
    ) -> None:
        if steps == 0:
            raise DataError("episode has 0 steps; expected at least 1")
        expected = {name: (value, steps + 1) for name, value in features.items()}
        expected |= {name: (value, steps) for name, value in per_step.items()}
        for name, (value, length) in expected.items():
            if len(value) != length:
                raise DataError(f"{name!r} has length {len(value)}; expected {length} for {steps} rewards")

    def _check_rows(self, rows: Batch, count: int) -> None:
        if count > self.config.capacity:
            raise DataError(f"{count} transitions exceed capacity={self.config.capacity}; raise capacity")
        if rows.keys() != self._tensors.keys():
            raise DataError(f"transitions have {sorted(rows)}; expected {sorted(self._tensors)}")
        for name, value in rows.items():
            held = self._tensors[name]
            if value.dtype != held.dtype or value.shape != (count, *held.shape[1:]):
                raise DataError(
                    f"{name!r} is {value.dtype} {tuple(value.shape)}; "
                    f"expected {held.dtype} {(count, *held.shape[1:])}"
                )


@dataclass(frozen=True)
class Mixer:
    """Samples from several buffers by ratio, e.g. half offline and half online (RLPD).

    Attributes:
        buffers: name -> buffer; all hold the same names, shapes and dtypes.
        ratio: name -> share of each batch, normalised here. Every batch holds the same counts.
    """

    buffers: Mapping[str, Sampler]
    ratio: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ratio:
            object.__setattr__(self, "ratio", dict.fromkeys(self.buffers, 1.0))
        if self.ratio.keys() != self.buffers.keys():
            raise ConfigError(f"ratio names {sorted(self.ratio)}; expected {sorted(self.buffers)}")
        if min(self.ratio.values()) < 0 or sum(self.ratio.values()) <= 0:
            raise ConfigError(f"ratio={dict(self.ratio)}; expected shares >= 0 with a sum above 0")

    def counts(self, batch: int) -> dict[str, int]:
        """How many of `batch` come from each buffer: the largest remainders are rounded up."""
        exact = {name: batch * share / sum(self.ratio.values()) for name, share in self.ratio.items()}
        counts = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
        for name in by_remainder[: batch - sum(counts.values())]:
            counts[name] += 1
        return counts

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """A batch, ordered by buffer: name -> (batch, ...)."""
        counts = self.counts(batch)
        used = [(name, count) for name, count in counts.items() if count]
        parts = [self.buffers[name].sample(count, generator) for name, count in used]
        for (name, _), part in zip(used, parts, strict=True):
            if part.keys() != parts[0].keys():
                raise DataError(f"buffer {name!r} holds {sorted(part)}; expected {sorted(parts[0])}")
        if len(parts) == 1:
            return parts[0]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
