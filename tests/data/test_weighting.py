"""The weighted sampler draws each trajectory's steps in proportion to its weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robot_rl.data.replay import Mixer, ReplayBuffer, ReplayConfig
from robot_rl.data.weighting import WeightedSampler
from robot_rl.errors import DataError


def make_buffer(lengths: list[int]) -> ReplayBuffer:
    buffer = ReplayBuffer(ReplayConfig(capacity=100))
    for number, steps in enumerate(lengths):
        buffer.add_episode(
            {"features": np.zeros((steps + 1, 1), np.float32)},
            np.zeros((steps, 1), np.float32),
            np.full(steps, number, np.float32),
            np.zeros(steps, bool),
        )
    return buffer


def test_steps_are_drawn_by_their_trajectorys_weight() -> None:
    lengths, weights = [1, 4, 5], np.array([0.6, 0.0, 0.4])
    sampler = WeightedSampler(make_buffer(lengths), weights, lengths)
    drawn = sampler.sample(20_000, torch.Generator().manual_seed(0))["reward"].long()
    share = np.bincount(drawn.numpy(), minlength=3) / len(drawn)
    expected = weights * lengths / (weights * lengths).sum()
    np.testing.assert_allclose(share, expected, atol=0.015)
    assert share[1] == 0


def test_it_mixes_as_any_buffer_and_repeats_with_its_seed() -> None:
    sampler = WeightedSampler(make_buffer([2, 3]), [1, 0], [2, 3])
    mixer = Mixer({"weighted": sampler, "plain": make_buffer([2])}, {"weighted": 0.5, "plain": 0.5})
    one, two = (mixer.sample(8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["reward"].shape == (8,)


def test_bad_input_is_named() -> None:
    buffer = make_buffer([2, 3])
    with pytest.raises(DataError, match="5 steps"):
        WeightedSampler(buffer, [1, 1], [2, 2])
    with pytest.raises(DataError, match="1 weights for 2"):
        WeightedSampler(buffer, [1], [2, 3])
    for weights in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(DataError, match="some above 0"):
            WeightedSampler(buffer, weights, [2, 3])
