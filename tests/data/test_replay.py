from __future__ import annotations

import io
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data.replay import (
    Mixer,
    ReplayBuffer,
    ReplayConfig,
    bootstrap_mask,
    monte_carlo_returns,
    n_step_targets,
)
from robot_rl.errors import ConfigError, DataError

GAMMA = 0.9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add(
    buffer: ReplayBuffer, steps: int, *, terminated: bool, first: float = 0.0, reward: float = 1.0
) -> None:
    """An episode whose observation t is first + t and whose action t is 10 (first + t)."""
    observation = first + np.arange(steps + 1, dtype=np.float32)[:, None]
    buffer.add_episode(
        {"x": observation},
        10 * observation[:-1],
        np.full(steps, reward, np.float32),
        (np.arange(steps) == steps - 1) & terminated,
    )


def rows(buffer: ReplayBuffer) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in buffer.all().items()}


def test_only_termination_stops_bootstrapping() -> None:
    buffer = ReplayBuffer(ReplayConfig(10, GAMMA))
    add(buffer, 3, terminated=True)
    add(buffer, 2, terminated=False)  # truncated
    assert buffer.all()["discount"].tolist() == pytest.approx([GAMMA, GAMMA, 0, GAMMA, GAMMA])


def test_memory_is_taken_as_the_ring_fills() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    buffer = ReplayBuffer(ReplayConfig(capacity=100_000, gamma=GAMMA))
    buffer.add({"picture": np.zeros((2, 64, 64, 3), np.uint8)})  # 1.2 GB if the ring were full
    assert resident() - before < 200e6
    assert buffer.all()["picture"].shape == (2, 64, 64, 3)


def test_next_observation_is_the_true_final_one() -> None:
    buffer = ReplayBuffer(ReplayConfig(10, GAMMA))
    add(buffer, 3, terminated=False)
    assert rows(buffer)["x"] == [0, 1, 2]
    assert rows(buffer)["next_x"] == [1, 2, 3]
    assert rows(buffer)["action"] == [0, 10, 20]


def test_n_steps_ahead_the_end_of_the_episode_is_the_limit() -> None:
    buffer = ReplayBuffer(ReplayConfig(10, GAMMA, n_step=2))
    add(buffer, 3, terminated=True)
    assert rows(buffer)["next_x"] == [2, 3, 3]
    assert buffer.all()["reward"].tolist() == pytest.approx([1 + GAMMA, 1 + GAMMA, 1])
    assert buffer.all()["discount"].tolist() == pytest.approx([GAMMA**2, 0, 0])


@settings(deadline=None)
@given(
    reward=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12),
    terminated=st.booleans(),
    gamma=st.floats(0, 1),
    n=st.integers(1, 15),
    values=st.integers(0, 1000),
)
def test_returns_and_targets_agree_with_their_definitions(
    reward: list[float], terminated: bool, gamma: float, n: int, values: int
) -> None:
    steps = len(reward)
    r = np.array(reward, np.float32)
    mask = bootstrap_mask((np.arange(steps) == steps - 1) & terminated)
    tail = 3.0
    alive = 0.0 if terminated else 1.0
    expected = [
        sum(gamma ** (i - t) * reward[i] for i in range(t, steps)) + alive * gamma ** (steps - t) * tail
        for t in range(steps)
    ]
    returns = monte_carlo_returns(r, mask, gamma, tail)
    assert returns == pytest.approx(np.array(expected), abs=1e-3)
    # bootstrapping n steps later with the true values gives the true values back
    total, discount, following = n_step_targets(r, mask, gamma, n)
    assert following.tolist() == [min(t + n, steps) for t in range(steps)]
    value = np.append(returns, tail)
    assert total + discount * value[following] == pytest.approx(returns, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "terminated", "expected"),
    [
        (ReplayConfig(9, GAMMA), True, [-1.9, -1.0]),
        (ReplayConfig(9, GAMMA), False, [-1.9, -1.0]),
        (ReplayConfig(9, GAMMA, truncated_tail="repeat"), True, [-1.9, -1.0]),
        (ReplayConfig(9, GAMMA, truncated_tail="repeat"), False, [-10.0, -10.0]),
        (ReplayConfig(9, GAMMA, failure_reward=-2.0), True, [-1.9, -1.0]),
        (ReplayConfig(9, GAMMA, failure_reward=-2.0), False, [-20.0, -20.0]),
    ],
)
def test_monte_carlo_returns_of_truncated_and_failed_episodes(
    config: ReplayConfig, terminated: bool, expected: list[float]
) -> None:
    buffer = ReplayBuffer(config)
    add(buffer, 2, terminated=terminated, reward=-1.0)
    assert buffer.all()["mc_return"].tolist() == pytest.approx(expected)


def test_success_may_be_judged_apart_from_termination() -> None:
    buffer = ReplayBuffer(ReplayConfig(9, GAMMA, failure_reward=-1.0))
    observation = np.zeros((3, 1), np.float32)
    never, crashed = np.zeros(2, bool), np.array([False, True])
    buffer.add_episode({"x": observation}, observation[1:], np.zeros(2), never, succeeded=True)
    buffer.add_episode({"x": observation}, observation[1:], np.zeros(2), crashed, succeeded=False)
    assert buffer.all()["mc_return"].tolist() == pytest.approx([0, 0, -10, -10])


def test_ring_keeps_the_newest() -> None:
    buffer = ReplayBuffer(ReplayConfig(5, GAMMA))
    for first in (0, 100, 200):
        add(buffer, 3, terminated=True, first=first)
    assert len(buffer) == 5
    assert sorted(rows(buffer)["x"]) == [101, 102, 200, 201, 202]
    held = rows(buffer)
    assert all(after == before + 1 for before, after in zip(held["x"], held["next_x"], strict=True))


def test_samples_are_whole_rows_uniform_and_determined_by_the_generator() -> None:
    buffer = ReplayBuffer(ReplayConfig(50, GAMMA))
    for first in (0, 100):
        add(buffer, 10, terminated=True, first=first)
    batch = buffer.sample(4000, generator(3))
    assert torch.equal(batch["next_x"], batch["x"] + 1)
    assert torch.equal(batch["action"], batch["x"] * 10)
    _, counts = batch["x"].unique(return_counts=True)
    assert len(counts) == 20
    assert counts.min() > 130  # of 200 expected; five standard deviations
    again = buffer.sample(4000, generator(3))
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_state_round_trip_gives_the_same_samples_and_the_same_future() -> None:
    config = ReplayConfig(7, GAMMA, n_step=2)
    original, restored = ReplayBuffer(config), ReplayBuffer(config)
    for first in (0, 50, 100):
        add(original, 3, terminated=first == 50, first=first)
    stream = io.BytesIO()
    torch.save(original.state_dict(), stream)
    stream.seek(0)
    restored.load_state_dict(torch.load(stream, weights_only=True))
    for buffer in (original, restored):
        add(buffer, 4, terminated=True, first=1000)
    ours, theirs = original.sample(64, generator()), restored.sample(64, generator())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(DataError, match=r"saved with .*'capacity': 7.*expected .*'capacity': 8"):
        ReplayBuffer(ReplayConfig(8, GAMMA, n_step=2)).load_state_dict(original.state_dict())


def test_saved_state_is_independent_of_later_additions() -> None:
    buffer = ReplayBuffer(ReplayConfig(3, GAMMA))
    add(buffer, 3, terminated=True)
    state = buffer.state_dict()
    add(buffer, 3, terminated=True, first=100)
    assert state["tensors"]["x"].flatten().tolist() == [0, 1, 2]


def test_what_does_not_fit_is_refused() -> None:
    buffer = ReplayBuffer(ReplayConfig(4, GAMMA))
    with pytest.raises(DataError, match="empty replay buffer"):
        buffer.sample(1, generator())
    x, action, zeros = np.zeros((4, 2), np.float32), np.zeros((3, 1), np.float32), np.zeros(3)
    with pytest.raises(DataError, match="'x' has length 3; expected 4"):
        buffer.add_episode({"x": x[1:]}, action, zeros, zeros)
    with pytest.raises(DataError, match="terminated at step 1 of 3"):
        buffer.add_episode({"x": x}, action, zeros, np.array([0, 1, 0]))
    buffer.add_episode({"x": x}, action, zeros, zeros)
    with pytest.raises(DataError, match=r"'x' is torch.float64 \(3, 2\); expected torch.float32 \(3, 2\)"):
        buffer.add_episode({"x": x.astype(np.float64)}, action, zeros, zeros)
    with pytest.raises(DataError, match=r"transitions have .*'y'"):
        buffer.add_episode({"y": x}, action, zeros, zeros)
    with pytest.raises(DataError, match="exceed capacity=4"):
        add(buffer, 5, terminated=True)
    for wrong in ({"capacity": 0}, {"gamma": 1.5}, {"n_step": 0}, {"truncated_tail": "none"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ReplayConfig(**({"capacity": 1} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gamma=1"):
        ReplayConfig(1, gamma=1.0, failure_reward=-1.0)


@settings(deadline=None)
@given(batch=st.integers(1, 300), a=st.integers(0, 10), b=st.integers(0, 10), c=st.integers(1, 10))
def test_mixer_counts_are_exact(batch: int, a: int, b: int, c: int) -> None:
    buffers = {name: ReplayBuffer(ReplayConfig(1)) for name in "abc"}
    shares = {"a": a, "b": b, "c": c}
    counts = Mixer(buffers, shares).counts(batch)
    assert sum(counts.values()) == batch
    for name, share in shares.items():
        assert abs(counts[name] - batch * share / (a + b + c)) < 1
        assert share or not counts[name]


def test_mixer_draws_the_counts_from_each_buffer() -> None:
    offline, online, empty = (ReplayBuffer(ReplayConfig(10)) for _ in range(3))
    add(offline, 5, terminated=True)
    add(online, 5, terminated=True, first=1000)
    batch = Mixer({"offline": offline, "online": online}).sample(64, generator())
    assert int((batch["x"] >= 1000).sum()) == 32
    alone = Mixer({"offline": offline, "empty": empty}, {"offline": 1, "empty": 0}).sample(8, generator())
    assert len(alone["x"]) == 8
    with pytest.raises(DataError, match="empty replay buffer"):
        Mixer({"offline": offline, "empty": empty}).sample(8, generator())
    with pytest.raises(ConfigError, match=r"ratio names \['online'\]; expected \['offline'\]"):
        Mixer({"offline": offline}, {"online": 1.0})
