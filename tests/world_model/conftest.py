from __future__ import annotations

import pytest
import torch

from tests.world_model import toy
from world_model.learner import WorldModelLearner
from world_model.model import WorldModel


@pytest.fixture(scope="package")
def untrained() -> WorldModel:
    """A model as it begins, but for its zero-initialised outputs: every step changes something."""
    model = WorldModelLearner(toy.episodes(0, 4), toy.tiny_config()).model
    generator = torch.Generator().manual_seed(0)
    for layer in (model.denoiser.unet.conv_out, model.next_state.leave):
        layer.weight.copy_(0.1 * torch.randn(layer.weight.shape, generator=generator))
    return model


@pytest.fixture(scope="package")
def trained() -> WorldModel:
    """A tiny model after some seconds on the toy."""
    config = toy.tiny_config(
        total_updates=250, batch_size=16, learning_rate=3e-3, warmup_updates=10, ema=0.97, motion_weight=1.0
    )
    learner = WorldModelLearner(toy.episodes(0, 80), config)
    for _ in range(learner.total_updates):
        learner.update()
    return learner.model
