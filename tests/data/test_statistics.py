from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data import schema
from robot_rl.data.statistics import Statistics
from robot_rl.errors import DataError
from tests.data.make import episode


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), offset=st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_one_pass_equals_all_at_once(lengths: list[int], offset: float) -> None:
    episodes = [episode(seed, steps) for seed, steps in enumerate(lengths)]
    for e in episodes:
        e.observations[schema.STATE] = e.observations[schema.STATE] + np.float32(offset)
    statistics = Statistics.from_episodes(iter(episodes))
    for name in (schema.STATE, "action", "reward"):
        rows = np.concatenate([e.arrays()[name] for e in episodes]).astype(np.float64)
        feature = statistics.features[name]
        assert feature.count == len(rows)
        assert feature.mean == pytest.approx(rows.mean(0), abs=1e-6)
        assert feature.std == pytest.approx(rows.std(0), abs=1e-6)
        assert np.array_equal(feature.min, rows.min(0))
        assert np.array_equal(feature.max, rows.max(0))


def test_pictures_and_flags_are_left_out() -> None:
    features = Statistics.from_episodes([episode(0)]).features
    assert set(features) == {schema.STATE, "action", "action_requested", "reward", "cost"}


def test_a_constant_dimension_is_not_scaled() -> None:
    e = episode(0)
    e.observations[schema.STATE][:, 2] = 0.3
    state = Statistics.from_episodes([e]).features[schema.STATE]
    assert state.scale[2] == 1
    assert np.array_equal(np.delete(state.scale, 2), np.delete(state.std, 2))


def test_json_round_trip_is_exact() -> None:
    statistics = Statistics.from_episodes([episode(0), episode(1)])
    again = Statistics.from_json(statistics.to_json())
    assert again.to_json() == statistics.to_json()
    for name, feature in statistics.features.items():
        assert np.array_equal(again.features[name].scale, feature.scale)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="no episodes"):
        Statistics.from_episodes([])
    broken = episode(1)
    broken.observations[schema.STATE][0, 0] = np.nan
    with pytest.raises(DataError, match=r"episode 1: 'observation.state' holds a non-finite"):
        Statistics.from_episodes([episode(0), broken])
    other = episode(1)
    other.observations[schema.STATE] = other.observations[schema.STATE][:, :3]
    with pytest.raises(DataError, match=r"episode 1: .*shape \(3,\); expected \(7,\)"):
        Statistics.from_episodes([episode(0), other])
    for text in ("{", "[]", '{"action": {"mean": 1}}'):
        with pytest.raises(DataError, match="statistics cannot be read"):
            Statistics.from_json(text)
