"""From observations to the features that critics and actor share: computed once, or learned on the way.

With a frozen encoder a buffer keeps features in the place of pictures, which is what makes updates
cheap. With a trained one it keeps the observations, and every batch is shifted and encoded anew.
B batch, F features, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robot_rl.agents.policy import ActorPolicy
from robot_rl.data import Episode, schema
from robot_rl.data.augmentation import shift_images


def recorded_features(policy: ActorPolicy, episode: Episode, raw: bool = False) -> dict[str, Tensor]:
    """What a replay buffer keeps of an episode, name -> (T+1, ...): `features`, or `raw` observations.

    Raises:
        DataError: the episode lacks what the policy reads.
    """
    if raw:
        return policy.observations(episode)
    return {"features": policy.encode(episode).cpu()}


def imitable(episode: Episode) -> dict[str, npt.NDArray[np.float32]]:
    """A buffer's column `clone` (T,): 1 in an episode that ended in success, which a BC term may imitate."""
    return {"clone": np.full(len(episode), float(episode.terminated.any()), np.float32)}


def encoded(
    policy: ActorPolicy, batch: Mapping[str, Tensor], shift: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """A batch of observations with `features` and `next_features` (B, F) beside them.

    Pictures are shifted at random, those of now and of next apart (DrQ, arXiv 2004.13649). The graph of
    `features` reaches the encoder; `next_features`, which only targets read, have none.
    """

    def features(prefix: str) -> Tensor:
        observations = {key: batch[prefix + key].to(policy.device) for key in policy.reads}
        if schema.IMAGE in observations:
            shifted = shift_images(batch[prefix + schema.IMAGE], shift, generator)
            observations[schema.IMAGE] = shifted.to(policy.device)
        return policy.features(observations)

    with torch.no_grad():
        following = features("next_")
    return {**batch, "features": features(""), "next_features": following}
