"""Success judged from pictures: an open_clip classifier, its training, and the reward made of it."""

from reward_vlm.classifier import SuccessClassifier
from reward_vlm.debounce import Debounce
from reward_vlm.evaluation import evaluate, relabel
from reward_vlm.learner import RewardConfig, RewardLearner
from reward_vlm.wrapper import RewardWrapper, RewardWrapperConfig

__all__ = [
    "Debounce",
    "RewardConfig",
    "RewardLearner",
    "RewardWrapper",
    "RewardWrapperConfig",
    "SuccessClassifier",
    "evaluate",
    "relabel",
]
