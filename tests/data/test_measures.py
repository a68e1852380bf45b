"""Dataset measures: known values, invariances, and what bad input says."""

from __future__ import annotations

import numpy as np
import pytest

from robot_rl.data import Episode, EpisodeMetadata, schema
from robot_rl.data.measures import (
    episode_weights,
    returns,
    state_action_coverage,
    trajectory_quality,
    trajectory_weights,
    unique_pairs,
)
from robot_rl.errors import ConfigError, DataError

FACTS = EpisodeMetadata("toy", "go", "point", 5)


def episode(states: list[float], actions: list[float], rewards: list[float]) -> Episode:
    return Episode.from_steps(
        {schema.STATE: np.array(states, np.float32)[:, None]},
        np.array(actions, np.float32)[:, None],
        FACTS,
        reward=np.array(rewards),
    )


def test_returns_are_discounted_sums() -> None:
    episodes = [episode([0, 0, 0], [0, 0], [1, 2]), episode([0, 0], [0], [-3])]
    np.testing.assert_allclose(returns(episodes), [3, -3])
    np.testing.assert_allclose(returns(episodes, gamma=0.5), [2, -3])


def test_quality_is_zero_at_the_worst_and_one_at_the_best() -> None:
    assert trajectory_quality([-10, -10], -10, -2) == 0
    assert trajectory_quality([-2], -10, -2) == 1
    assert trajectory_quality([-10, -2], -10, -2) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="worst < best"):
        trajectory_quality([1], 2, 2)


def test_pairs_are_counted_once_however_often_they_occur() -> None:
    one = episode([0, 1, 0], [-1, 1], [0, 0])
    assert unique_pairs([one], bins=2) == 2
    assert unique_pairs([one, one, one], bins=2) == 2
    assert unique_pairs([one, episode([0, 1, 0], [1, -1], [0, 0])], bins=2) == 4


def test_coverage_is_relative_to_the_reference_on_the_reference_grid() -> None:
    full = [episode([0, 1, 0, 1, 0], [-1, -1, 1, 1], [0] * 4)]
    part = [episode([0, 0.1, 0.1], [-1, -1], [0, 0])]  # by its own range two cells, by the reference's one
    assert state_action_coverage(full, full, bins=2) == 1
    assert state_action_coverage(part, full, bins=2) == pytest.approx(1 / 4)
    assert state_action_coverage(full, bins=2) == 1
    assert state_action_coverage([*full, *full], bins=2) == pytest.approx(0.5)


def test_weights_prefer_what_is_better_than_its_start_lets_expect() -> None:
    start = np.arange(8.0)[:, None]
    luck = 5 * start[:, 0]  # an easy start, no merit
    merit = np.zeros(8)
    merit[2] = 1
    weights = trajectory_weights(luck + merit, start, alpha=0.5)
    assert weights.argmax() == 2
    assert weights.sum() == pytest.approx(1)
    assert trajectory_weights(luck + merit, alpha=0.5).argmax() == 7
    # V explains everything, or all are the same: no preference
    np.testing.assert_allclose(trajectory_weights(luck, start), 1 / 8)
    np.testing.assert_allclose(trajectory_weights(np.full(8, -3.0)), 1 / 8)


def test_weights_do_not_change_with_the_scale_of_rewards() -> None:
    achieved = np.array([1.0, 2.0, 5.0])
    weights = trajectory_weights(achieved, alpha=0.2)
    np.testing.assert_allclose(trajectory_weights(7 * achieved - 100, alpha=0.2), weights, rtol=1e-6)
    assert weights[2] / weights[0] == pytest.approx(np.exp(1 / 0.2))


def test_episode_weights_read_states_and_rewards() -> None:
    episodes = [episode([x, x], [0], [x + (x == 3)]) for x in range(6)]
    assert episode_weights(episodes).argmax() == 3


def test_bad_input_is_named() -> None:
    wide = Episode.from_steps(
        {schema.STATE: np.zeros((2, 3), np.float32)}, np.zeros((1, 1), np.float32), FACTS
    )
    narrow = episode([0, 0], [0], [0])
    with pytest.raises(DataError, match="no episodes"):
        state_action_coverage([])
    with pytest.raises(DataError, match="measure each apart"):
        unique_pairs([wide, narrow])
    with pytest.raises(DataError, match="in the reference"):
        state_action_coverage([narrow], [wide])
    with pytest.raises(ConfigError, match="bins=0"):
        unique_pairs([narrow], bins=0)
    with pytest.raises(ConfigError, match="alpha=0"):
        trajectory_weights([1.0], alpha=0)
    with pytest.raises(DataError, match="2 first states"):
        trajectory_weights([1.0], np.zeros((2, 1)))
