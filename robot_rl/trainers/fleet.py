"""The learner's side of practice on rollout actors: tickets out, episodes in, weights out.

    round n learns from the n-th batch of episodes, in the order of their numbers, with weights n
    a ticket is given out while fewer than (max_staleness + 1) batches wait, are practised or are learned

So the weights that learn from an episode are at most `max_staleness` rounds ahead of those that made it, and
either side waits for the other: actors that are ahead get no ticket, and a learner that is ahead waits for
the oldest episode under way (stale synchronous parallel, Ho et al. 2013). The gradient steps of a round are
those that its own steps pay for.

An episode counts from when it is committed to the store, by this process alone. Weights n are a function of
the first n batches in the store, so that after a kill the learner goes on from its last saved state through
what was committed since, and arrives where it was.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from threading import Condition
from typing import Any

from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore, read_episode
from robot_rl.errors import DataError, RobotRLError
from robot_rl.trainers.actors import ActorsConfig, Delivery, Post, Rest, RolloutActor, Ticket, Weights
from robot_rl.trainers.online import OnlineConfig

POLL_S = 0.1
"""Longest wait of the thread that serves the actors before it looks for something to give out [s]."""
NO_TICKET = Ticket(range(0), 0, 0)
"""Makes an actor get ready."""
_LOG = logging.getLogger(__name__)


@dataclass
class _Hand:
    """An actor as the learner's side sees it.

    Attributes:
        actor: Ray's handle. stream: of what the ticket under way brings; None: it waits for one.
        rest: where its scenes stood after its last whole ticket.
        heard: when it last took a ticket or brought something [s], by the steady clock.
    """

    index: int
    rest: Rest | None = None
    actor: Any = None
    ticket: Ticket = NO_TICKET
    stream: Any = None
    heard: float = 0.0
    deaths: int = 0


class Fleet:
    """Rollout actors at work for one learner, and the store of what they made.

    A thread serves them while the learner learns. An actor that dies is replaced, and one that hangs ended
    first: what it had under way is lost and made anew under other numbers, what it had delivered is not.

    Args:
        ray: the module, connected (`actors.connected`).
        make: builds an actor's post, in the actor's process; pickled.
        store: of this practice alone.
        config: of the actors.
        practice: how many episodes in all, and in a batch; the actors share a batch equally.
        first_seed: of episode 0.

    Raises:
        DataError: the store holds other episodes.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Post],
        store: EpisodeStore,
        config: ActorsConfig,
        practice: OnlineConfig,
        first_seed: int,
    ) -> None:
        self._ray, self._make, self._store, self._first_seed = ray, make, store, first_seed
        self._config, self._practice = config, practice
        self._arms = practice.episodes_per_update // config.number
        self._hands = [_Hand(index, self._saved_rest(index)) for index in range(config.number)]
        self._changed = Condition()  # guards what follows, which both threads read and write
        self._queue: dict[int, Path | None] = self._committed()
        """In the order of numbers: episodes not learned from yet, None while they are under way."""
        self._next = max(self._queue, default=-1) + 1
        self._taken = self._learning = self._version = 0
        self._weights: Any = None
        self._closing = self._stopped = False
        self._pool = ThreadPoolExecutor(1, "fleet")
        self._serving: Future[None] | None = None

    # ---- for the learner

    def begin(self, taken: int, version: int, weights: Weights) -> None:
        """Go on where `taken` episodes are learned from, which made `weights`. Nobody practises yet.

        Raises:
            DataError: the store holds fewer.
        """
        if len(self._queue) < taken:
            raise DataError(
                f"{self._store.path} holds {len(self._queue)} episodes; expected the {taken} that the state "
                "has learned from: restore them, or delete the state to learn anew from what is there"
            )
        for number in list(islice(self._queue, taken)):
            del self._queue[number]
        self._taken = taken
        self.publish(version, weights)

    def publish(self, version: int, weights: Weights) -> None:
        """The next tickets are practised with `weights`; the last batch is learned."""
        reference = self._ray.put(dict(weights))
        with self._changed:
            self._version, self._weights, self._learning = version, reference, 0

    def take(self, count: int) -> list[Episode]:
        """The next `count` episodes in the order of their numbers, read back from the store; waits for them.

        Raises:
            RobotRLError: an actor failed, or died too often.
        """
        with self._changed:
            if not self._ready(count):
                self._serve()
                self._changed.wait_for(lambda: self._stopped or self._ready(count))
            if not self._ready(count):
                assert self._serving is not None
                self._serving.result()
                raise RobotRLError("the rollout actors were sent home while the learner waited for episodes")
            numbers = list(islice(self._queue, count))
            files = [self._queue.pop(number) for number in numbers]
            self._taken += count
            self._learning = count
        return [read_episode(file) for file in files if file is not None]

    def counts(self) -> dict[str, float]:
        """The totals of all actors' `ResetFreeEnv`s, of those tickets that were brought to their end."""
        total = Counter[str]()
        for hand in self._hands:
            total.update(hand.rest.counts if hand.rest is not None else {})
        return dict(total)

    def close(self) -> None:
        """Send the actors home. What they have under way is lost; nothing committed is."""
        self._closing = True
        self._pool.shutdown()
        for hand in self._hands:
            if hand.actor is not None:
                self._ray.kill(hand.actor)
                hand.actor = None

    # ---- the thread that serves the actors

    def _serve(self) -> None:
        if self._serving is None:
            self._serving = self._pool.submit(self._work)

    def _work(self) -> None:
        try:
            for hand in self._hands:
                self._engage(hand)
            while not self._closing:
                self._give_out()
                busy = {hand.stream: hand for hand in self._hands if hand.stream is not None}
                if not busy:
                    with self._changed:
                        self._changed.wait(POLL_S)
                    continue
                for stream in self._ray.wait(list(busy), num_returns=1, timeout=POLL_S)[0]:
                    self._receive(busy[stream])
                self._end_the_silent()
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def _engage(self, hand: _Hand) -> None:
        """Start the actor. It gets no numbers before it is ready, for it may wait long for a place."""
        options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor = self._ray.remote(RolloutActor).options(**options)
        hand.actor = actor.remote(hand.index, self._make, hand.rest)
        self._send(hand, NO_TICKET, {})

    def _send(self, hand: _Hand, ticket: Ticket, weights: Any) -> None:
        hand.ticket, hand.heard = ticket, time.monotonic()
        hand.stream = hand.actor.practise.options(num_returns="streaming").remote(ticket, weights)

    def _give_out(self) -> None:
        for hand in self._hands:
            if hand.stream is None:
                with self._changed:
                    ticket, weights = self._ticket(), self._weights
                if ticket is None:
                    return
                self._send(hand, ticket, weights)

    def _ticket(self) -> Ticket | None:
        """The next ticket, if there is room for it; its last episode must not be learned from too late."""
        batch, waiting = self._practice.episodes_per_update, len(self._queue)
        room = (self._config.max_staleness + 1) * batch - waiting - self._learning
        left = self._practice.episodes - self._taken - waiting
        size = min(self._arms, room, left)
        if size < 1:
            return None
        numbers = range(self._next, self._next + size)
        self._next += size
        self._queue |= dict.fromkeys(numbers)
        return Ticket(numbers, self._version, self._first_seed)

    def _receive(self, hand: _Hand) -> None:
        """What an actor brings next: an episode, the end of its ticket, or news of its death."""
        hand.heard = time.monotonic()
        failures = self._ray.exceptions
        try:
            item: Delivery = self._ray.get(next(hand.stream))
        except StopIteration:
            hand.stream = None
        except failures.RayTaskError as error:
            if isinstance(error.cause, RobotRLError):
                raise error.cause from None
            raise
        except failures.RayError as error:
            self._replace(hand, error)
        else:
            if item.rest is not None:
                hand.rest = item.rest
                atomic_write(self._rest_file(hand.index), json.dumps(asdict(item.rest)).encode())
            if item.number is not None:
                self._commit(item.number, item.episode)

    def _end_the_silent(self) -> None:
        """Kill the actors that hang; Ray then tells of their deaths. To get ready may take any time."""
        longest = self._config.max_silence_s or math.inf
        for hand in self._hands:
            if hand.stream is not None and hand.ticket.numbers and time.monotonic() - hand.heard > longest:
                _LOG.warning("rollout actor %d has brought nothing for %g s: ended", hand.index, longest)
                hand.heard = math.inf
                self._ray.kill(hand.actor)

    def _commit(self, number: int, episode: Episode) -> None:
        """Write an episode down, once: whatever is not awaited under its number is dropped."""
        with self._changed:
            if number not in self._queue or self._queue[number] is not None:
                return
        index = self._store.append(episode)
        file = self._store.files[index]
        with self._changed:
            self._queue[number] = file
            self._changed.notify_all()

    def _replace(self, hand: _Hand, error: Exception) -> None:
        """Another actor in the place of a dead one; others' tickets make up for what it had under way."""
        with self._changed:
            lost = [number for number in hand.ticket.numbers if self._queue.get(number, Path()) is None]
            for number in lost:
                del self._queue[number]
        hand.deaths += 1
        reason = str(error).splitlines()[0]
        if hand.deaths > self._config.max_deaths:
            raise RobotRLError(
                f"rollout actor {hand.index} died {hand.deaths} times; expected at most max_deaths="
                f"{self._config.max_deaths}: {reason}"
            )
        _LOG.warning("rollout actor %d died with %d episodes under way: replaced", hand.index, len(lost))
        self._engage(hand)

    # ---- what is on the disk

    def _ready(self, count: int) -> bool:
        files = list(islice(self._queue.values(), count))
        return len(files) == count and None not in files

    def _committed(self) -> dict[int, Path | None]:
        numbered: dict[int, Path | None] = {}
        for index, file in enumerate(self._store.files):
            number = self._store.metadata(index).extra.get("practice")
            if not isinstance(number, int) or number in numbered:
                raise DataError(
                    f"{file} is number {number!r} of the practice; expected a number, and another than the "
                    "others': keep other episodes elsewhere"
                )
            numbered[number] = file
        return dict(sorted(numbered.items()))

    def _rest_file(self, index: int) -> Path:
        return self._store.path / f"actor-{index}.json"

    def _saved_rest(self, index: int) -> Rest | None:
        file = self._rest_file(index)
        return Rest(**json.loads(file.read_text())) if file.exists() else None
