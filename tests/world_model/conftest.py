from __future__ import annotations

import pytest

from tests.world_model import toy
from world_model.learner import WorldModelLearner
from world_model.model import WorldModel


@pytest.fixture(scope="package")
def untrained() -> WorldModel:
    return WorldModelLearner(toy.episodes(0, 4), toy.tiny_config()).model


@pytest.fixture(scope="package")
def trained() -> WorldModel:
    """A tiny model after some seconds on the toy."""
    config = toy.tiny_config(
        total_updates=250, batch_size=24, learning_rate=3e-3, warmup_updates=10, ema=0.98
    )
    learner = WorldModelLearner(toy.episodes(0, 80), config)
    for _ in range(learner.total_updates):
        learner.update()
    return learner.model
