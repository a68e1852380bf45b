"""Inverse dynamics: actions that were hidden are found again, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robot_rl.agents.inverse_dynamics import (
    LABELLED_BY,
    InverseDynamics,
    InverseDynamicsConfig,
    InverseDynamicsLearner,
    label_actions,
)
from robot_rl.agents.policy import PolicyConfig
from robot_rl.data import Episode, schema
from robot_rl.data.episode import ACTION_FREE
from robot_rl.errors import ConfigError, DataError
from tests.agents.toys import metadata


def moving_episodes(count: int, seed: int) -> list[Episode]:
    """x' = x + .25 a: the action can be read off two states in a row, and off no single one."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        action = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
        state = np.vstack([np.zeros(2), 0.25 * action.cumsum(0)]).astype(np.float32)
        episodes.append(Episode.from_steps({schema.STATE: state}, action, metadata(number)))
    return episodes


def without_actions(episode: Episode) -> Episode:
    facts = dataclasses.replace(episode.metadata, extra={ACTION_FREE: True, "note": "kept"})
    return dataclasses.replace(episode, action=np.zeros_like(episode.action), metadata=facts)


def test_hidden_actions_are_found_again() -> None:
    labelled, truth = moving_episodes(20, 0), moving_episodes(5, 1)
    config = InverseDynamicsConfig(updates=400, lr=3e-3)
    model = InverseDynamics(PolicyConfig(2, 2, None, hidden=(64,)))
    hidden = [without_actions(episode) for episode in truth]
    learner = InverseDynamicsLearner(model, [*labelled, *hidden], config)
    assert len(learner.frames) == 200  # the action-free ones teach nothing
    for _ in range(config.updates):
        learner.update()
    found = label_actions(model, [*hidden, labelled[0]])
    error = np.mean([np.abs(a.action - b.action).mean() for a, b in zip(found, truth, strict=False)])
    assert error < 0.1
    assert found[-1] is labelled[0]
    for episode, before in zip(found, hidden, strict=False):
        assert not episode.action_free
        assert episode.metadata.extra[LABELLED_BY] == "inverse_dynamics"
        assert episode.metadata.extra["note"] == "kept"
        assert np.array_equal(episode.action, episode.action_requested)
        assert episode.observations is before.observations
        episode.content_hash()  # serialisable


def test_it_needs_some_actions() -> None:
    hidden = [without_actions(episode) for episode in moving_episodes(2, 0)]
    with pytest.raises(DataError, match="none of 2 episodes has actions"):
        InverseDynamicsLearner(
            InverseDynamics(PolicyConfig(2, 2, None)), hidden, InverseDynamicsConfig(updates=1)
        )
    with pytest.raises(ConfigError, match="ema=1"):
        InverseDynamicsConfig(ema=1.0)
