"""Networks, policies and learners; one algorithm a file. Imports nothing of the stack but the data."""

from robot_rl.agents.bc import BCConfig, BCLearner
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.agents.ppo import PPO, PPOConfig

__all__ = ["PPO", "ActorPolicy", "BCConfig", "BCLearner", "PPOConfig", "PolicyConfig", "PolicyRunner"]
