"""A diffusion world model, and the imagined arms that live in it."""

from world_model.denoiser import WorldModelConfig
from world_model.env import WorldModelEnv, WorldModelEnvConfig
from world_model.learner import WorldModelLearner, WorldModelLearnerConfig
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
