"""Episodes, faults and kills for the tests of this folder."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata


def episode(seed: int, steps: int = 5, *, size: int = 8, source: str = "expert") -> Episode:
    """An episode with every field random, determined by `seed`."""
    rng = np.random.default_rng(seed)
    ended = rng.random() < 0.5
    return Episode.from_steps(
        {
            schema.STATE: rng.normal(size=(steps + 1, 7)).astype(np.float32),
            schema.IMAGE: rng.integers(0, 256, (steps + 1, size, size, 3), np.uint8),
        },
        rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        EpisodeMetadata(
            "widowx/push", "push the cube — naïvely", "wx250s", 5.0, seed, source, {"a": "1"}, {"n": [seed]}
        ),
        action_requested=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        reward=rng.normal(size=steps),
        cost=rng.random(steps),
        terminated=(np.arange(steps) == steps - 1) & ended,
        truncated=(np.arange(steps) == steps - 1) & (not ended),
        success=rng.random(steps) < 0.5,
        is_intervention=rng.random(steps) < 0.5,
        filter_reason=rng.integers(0, len(schema.FILTER_REASONS), steps),
    )


def same(first: Episode, second: Episode) -> bool:
    """Whether every array (dtype included) and the metadata are equal."""
    ours, theirs = first.arrays(), second.arrays()
    return (
        first.metadata.to_json() == second.metadata.to_json()
        and ours.keys() == theirs.keys()
        and all(ours[name].dtype == theirs[name].dtype for name in ours)
        and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    )


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every flush to the disk says that there is no space left."""

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def kill_while(work: Callable[[int], Any], delays: random.Random) -> int:
    """Run work(0), work(1), ... in a child and SIGKILL it at a random moment. Returns how many returned.

    The moment lies within about the time that two calls take, after the first has returned.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            for number in range(1_000_000):
                work(number)
                os.write(writer, b".")
        finally:
            os._exit(1)
    os.close(writer)
    begin = time.monotonic()
    done = len(os.read(reader, 1))
    time.sleep(delays.uniform(0, 2 * (time.monotonic() - begin)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended before it was killed: its work raised"
    while read := os.read(reader, 65536):
        done += len(read)
    os.close(reader)
    return done
