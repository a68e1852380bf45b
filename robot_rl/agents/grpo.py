"""GRPO: PPO without a value. T steps, N members in groups of G that start alike.

Shao et al., DeepSeekMath (arXiv 2402.03300), eq. 3; inside a world model as in WMPO (arXiv 2511.09515).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.ppo import PPO, PPOConfig, Rollout
from robot_rl.errors import ConfigError


def group_advantage(reward: Tensor, group: int) -> Tensor:
    """Advantages (N,) of episodes with rewards (T, N), members of a group side by side.

    A_i = (R_i - mean_g R) / (std_g R + 1e-6), with R_i the sum of member i's rewards: 0 in a group that is of
    one mind.
    """
    total = reward.sum(0).unflatten(0, (-1, group))
    deviation = total.std(1, unbiased=False, keepdim=True)
    return ((total - total.mean(1, keepdim=True)) / (deviation + 1e-6)).flatten()


class GRPO(PPO):
    """PPO's clipped surrogate and anchor, with the group's mean return in the place of a value.

    Every step of an episode has the advantage of the whole; steps after its end are left out.

    Args:
        group: G, episodes that start alike.

    Raises:
        ConfigError: groups of one.
    """

    def __init__(self, policy: ActorPolicy, reference: ActorPolicy, config: PPOConfig, group: int) -> None:
        if group < 2:
            raise ConfigError(f"grpo group is {group}; expected at least 2 episodes that start alike")
        # There is no value to warm up.
        super().__init__(policy, reference, dataclasses.replace(config, value_warmup=0))
        self.group = group

    def actor_weight(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """The group's advantages (T, N), the same at every step of a member."""
        return group_advantage(rollout.reward, self.group).expand_as(rollout.reward)

    def value_loss(self, features: Tensor, target: Tensor) -> Tensor:
        """There is no value."""
        return torch.zeros((), device=features.device)
