"""Rollout actors: processes that practise, each with arms and a copy of the policy of its own.

Ray (https://docs.ray.io) starts them, on this machine or on the nodes of a cluster, carries weights to them
and episodes back, and says when one has died. What it carries it pickles, between its own processes alone;
what is kept goes to files in the formats of `robot_rl.data`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError, MissingExtraError
from robot_rl.trainers.protocols import Policy
from robot_rl.trainers.reset_free import ResetFreeEnv
from robot_rl.trainers.rollout import EpisodeOrigin, finishing

Weights = Mapping[str, npt.NDArray[Any]]
"""A network's state by name, as it is published."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Before Ray is imported: it then listens on the loopback interface alone, on Linux as elsewhere, and reports
nothing. (`ray.init(_node_ip_address="127.0.0.1")` is replaced by the machine's own address, and ignored.)"""


@dataclass(frozen=True)
class ActorsConfig:
    """Rollout actors.

    Attributes:
        number: of processes; they share the arms equally.
        max_staleness: learning rounds that the weights may be behind those that learn from what they
            practised. 0: actors and learner take turns; 1: one works while the other does.
        max_silence_s: without an episode from an actor at practice [s], after which it is taken for one that
            hangs, and ended; 0: wait for ever. A person who helps an arm counts as silence too.
        max_deaths: of one actor, after which they are taken for a fault that will not go away.
        address: of the Ray cluster that runs them, HOST:PORT, or `auto` for the one that this machine is
            part of; empty: one that starts and ends with the stage, on this machine alone.
    """

    number: int = 2
    max_staleness: int = 1
    max_silence_s: float = 600.0
    max_deaths: int = 10
    address: str = ""

    def __post_init__(self) -> None:
        least = {"number": 1, "max_staleness": 0, "max_silence_s": 0, "max_deaths": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least {bound}")
        host, _, port = self.address.rpartition(":")
        if self.address not in ("", "auto") and not (host and port.isdigit()):
            raise ConfigError(f"address={self.address!r}; expected HOST:PORT, 'auto' or an empty one")


@dataclass(frozen=True)
class Post:
    """What one actor practises with.

    Attributes:
        env: its arms, guarded and judged; a `ResetFreeEnv` keeps their scenes between two tickets.
        policy: explores. network: the part of it whose weights are published.
        origin: metadata of its episodes.
    """

    env: VectorEnv
    policy: Policy
    network: nn.Module
    origin: EpisodeOrigin


@dataclass(frozen=True)
class Ticket:
    """Leave to practise once.

    Attributes:
        numbers: of the episodes to make, no more than there are arms. A number is given out once, ever: it
            tells two episodes apart, and its seed is `first_seed` further on.
        version: of the weights to make them with: the learning rounds that they have seen.
    """

    numbers: range
    version: int
    first_seed: int


@dataclass(frozen=True)
class Rest:
    """Where an actor's `ResetFreeEnv` stands between two tickets: `state_dict()` and `counts()`."""

    state: dict[str, Any]
    counts: dict[str, float]


@dataclass(frozen=True)
class Delivery:
    """An episode under its number, if it has one; with the last of a ticket, where the kept scenes rest."""

    number: int | None
    episode: Episode
    rest: Rest | None = None


class RolloutActor:
    """One of the processes.

    Args:
        index: its number among them.
        make: builds its post, in its own process.
        rest: where the one in whose place it comes had got to.
    """

    def __init__(self, index: int, make: Callable[[], Post], rest: Rest | None = None) -> None:
        self._index, self._make, self._rest = index, make, rest
        self._post: Post | None = None

    def practise(self, ticket: Ticket, weights: Weights) -> Iterator[Delivery]:
        """Each episode as soon as it is over.

        An episode's metadata say which actor made it, with which weights, as which episode of the practice
        (`extra`: `actor`, `weights`, `practice`). A ticket without numbers gets the post ready.
        """
        post = self._post or self._take_up()
        numbers = ticket.numbers
        if not numbers:
            return
        load(post.network, weights)
        seeds = [ticket.first_seed + number for number in numbers]
        kept = post.env if isinstance(post.env, ResetFreeEnv) else None
        if kept is not None:  # arms that keep their scenes take turns together: surplus trials have no number
            seeds += seeds[-1:] * (kept.num_envs - len(seeds))
        for done, (index, episode) in enumerate(finishing(post.env, post.policy, seeds, post.origin), 1):
            number = numbers[index] if index < len(numbers) else None
            made = {"actor": self._index, "weights": ticket.version, "practice": number}
            rest = None
            if kept is not None and done == len(seeds):
                rest = Rest(kept.state_dict(), kept.counts())
            yield Delivery(number, _with_extra(episode, made), rest)

    def _take_up(self) -> Post:
        self._post = self._make()
        if self._rest is not None and isinstance(self._post.env, ResetFreeEnv):
            self._post.env.load_state_dict(self._rest.state)
        return self._post


def published(network: nn.Module) -> Weights:
    """A copy of a network's state, to send."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def load(network: nn.Module, weights: Weights) -> None:
    """Take over what `published` gave."""
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})


def _with_extra(episode: Episode, facts: Mapping[str, Any]) -> Episode:
    metadata = episode.metadata
    return dataclasses.replace(
        episode, metadata=dataclasses.replace(metadata, extra={**metadata.extra, **facts})
    )


def require_ray() -> None:
    """Raises:
    MissingExtraError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "cluster")


@contextmanager
def connected(config: ActorsConfig) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `config.address` or to one that lives as long as this.

    Where the process is connected already, it stays so.

    Raises:
        MissingExtraError: Ray is not installed. ConfigError: no cluster answers at the address.
    """
    require_ray()
    if not config.address:
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
    ray = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if config.address:
            ray.init(address=config.address, **quiet)
        else:
            ray.init(address="local", num_cpus=config.number, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"no Ray cluster at address={config.address!r} ({reason}); expected HOST:PORT of one that "
            "`ray start --head` began, 'auto', or an empty one"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
