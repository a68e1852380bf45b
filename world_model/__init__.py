"""A diffusion world model, and the imagined arms that live in it."""

from world_model.config import WorldModelConfig, WorldModelLearnerConfig
from world_model.env import WorldModelEnv, WorldModelEnvConfig
from world_model.learner import WorldModelLearner
from world_model.model import WorldModel, WorldModelSpec

__all__ = [
    "WorldModel",
    "WorldModelConfig",
    "WorldModelEnv",
    "WorldModelEnvConfig",
    "WorldModelLearner",
    "WorldModelLearnerConfig",
    "WorldModelSpec",
]
