from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data.two_hot import TwoHot
from robot_rl.errors import ConfigError

codings = st.builds(TwoHot, bins=st.integers(2, 40), low=st.floats(-3, -0.1), high=st.floats(0.1, 3))
unit = st.lists(st.floats(0, 1), min_size=1, max_size=7)


@settings(deadline=None)
@given(coding=codings, places=unit)
def test_round_trip_weights_sum_and_neighbours(coding: TwoHot, places: list[float]) -> None:
    values = coding.low + torch.tensor(places, dtype=torch.float64) * (coding.high - coding.low)
    weights = coding.encode(values)
    assert weights.shape == (len(places), coding.bins)
    assert torch.allclose(coding.decode(weights), values.clamp(coding.low, coding.high), atol=1e-12)
    assert torch.allclose(weights.sum(-1), torch.ones_like(values), atol=1e-12)
    assert weights.min() >= 0
    for row in weights:
        used = row.nonzero().flatten()
        assert 1 <= len(used) <= 2
        assert used[-1] - used[0] == len(used) - 1


def test_bins_are_one_hot_and_outside_is_clipped() -> None:
    coding = TwoHot()
    centres = coding.centres(torch.zeros(1))
    assert torch.equal(coding.encode(centres), torch.eye(21))
    assert torch.equal(coding.encode(torch.tensor([-7.0, 7.0])), torch.eye(21)[[0, 20]])


def test_weight_falls_linearly_with_distance() -> None:
    # halfway between -1 and -.9 in 21 bins, and a quarter of the way from 0 to .1
    weights = TwoHot().encode(torch.tensor([[-0.95, 0.025]]))
    assert weights.shape == (1, 2, 21)
    assert torch.allclose(weights[0, 0, :2], torch.tensor([0.5, 0.5]), atol=1e-5)
    assert torch.allclose(weights[0, 1, 10:12], torch.tensor([0.75, 0.25]), atol=1e-5)


def test_decode_passes_gradients_and_nan_stays_visible() -> None:
    logits = torch.zeros(2, 3, 21, requires_grad=True)
    TwoHot().decode(logits.softmax(-1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert TwoHot().encode(torch.tensor([float("nan")])).isnan().any()


def test_bad_configuration() -> None:
    with pytest.raises(ConfigError, match="bins=1"):
        TwoHot(bins=1)
    with pytest.raises(ConfigError, match="low < high"):
        TwoHot(low=1, high=1)
