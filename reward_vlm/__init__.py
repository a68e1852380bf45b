"""Success judged from pictures: several kinds of reward models, their training, and the reward."""

from reward_vlm.backends import ClassifierLearner, make_learner
from reward_vlm.classifier import SuccessClassifier
from reward_vlm.config import RewardConfig
from reward_vlm.debounce import Debounce
from reward_vlm.evaluation import evaluate, relabel
from reward_vlm.judge import Frames, SuccessJudge
from reward_vlm.learner import RewardLearner
from reward_vlm.oracle import Oracle, OracleConfig
from reward_vlm.wrapper import RewardWrapper, RewardWrapperConfig

__all__ = [
    "ClassifierLearner",
    "Debounce",
    "Frames",
    "Oracle",
    "OracleConfig",
    "RewardConfig",
    "RewardLearner",
    "RewardWrapper",
    "RewardWrapperConfig",
    "SuccessClassifier",
    "SuccessJudge",
    "evaluate",
    "make_learner",
    "relabel",
]
