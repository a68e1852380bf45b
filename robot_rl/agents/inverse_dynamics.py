"""Inverse dynamics: which action leads from one observation to the next, to label videos without actions.

VPT (Baker et al., arXiv 2206.11795) and SS-ORL (Zheng et al., arXiv 2210.06518): train on the labelled part,
label the action-free trajectories, then learn from all of them. B batch, F features, A action dimensions.

An action-free episode says so (`Episode.action_free`). What was labelled has `ACTION_FREE: False` and
`LABELLED_BY: "inverse_dynamics"` in its metadata's `extra`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robot_rl.agents.bc import Descent, DescentConfig, Frames
from robot_rl.agents.distributions import ActionDistribution
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.data import Episode, schema
from robot_rl.data.augmentation import shift_images
from robot_rl.data.episode import ACTION_FREE
from robot_rl.data.statistics import Statistics
from robot_rl.errors import DataError

LABELLED_BY = "actions_labelled_by"


@dataclass(frozen=True)
class InverseDynamicsConfig(DescentConfig):
    updates: int = 2000
    shift: int = 4
    """Random shift of pictures in pixels, the same for both of a pair."""


class InverseDynamics(torch.nn.Module):
    """p(a | o, o'): one encoder for both, a trunk over features, next features and their change."""

    def __init__(self, config: PolicyConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        eye = ActorPolicy(config, statistics)
        width = 3 * eye.feature_dim
        head = ActorPolicy(dataclasses.replace(config, state_dim=width, image_shape=None, language_dim=0))
        self.eye, self.head = eye, head
        del self.eye.trunk  # it only sees

    def forward(self, features: Tensor, following: Tensor) -> ActionDistribution:
        """For features (B, F) of an observation and of the next one."""
        return self.head(torch.cat([features, following, following - features], dim=-1))

    @torch.no_grad()
    def label(self, episode: Episode) -> Episode:
        """The episode with the mean action of each step, marked as labelled.

        Raises:
            DataError: the episode lacks what the model reads.
        """
        features = self.eye.encode(episode)
        action = self(features[:-1], features[1:]).mean.clamp(-1, 1).cpu().numpy().astype(np.float32)
        extra = {**episode.metadata.extra, ACTION_FREE: False, LABELLED_BY: "inverse_dynamics"}
        return dataclasses.replace(
            episode,
            action=action,
            action_requested=action.copy(),
            metadata=dataclasses.replace(episode.metadata, extra=extra),
        )


def label_actions(model: InverseDynamics, episodes: Sequence[Episode]) -> list[Episode]:
    """`episodes`, with actions in those that were free of them; the others are passed through."""
    return [model.label(episode) if episode.action_free else episode for episode in episodes]


class InverseDynamicsLearner(Descent[InverseDynamics, InverseDynamicsConfig]):
    """Maximises log p(a | o, o') on the labelled episodes. A `trainers.protocols.Learner`.

    Raises:
        DataError: no labelled episodes, or one lacks what the model reads.
    """

    def __init__(
        self, model: InverseDynamics, episodes: Sequence[Episode], config: InverseDynamicsConfig
    ) -> None:
        labelled = [episode for episode in episodes if not episode.action_free]
        if not labelled:
            raise DataError(
                f"none of {len(episodes)} episodes has actions; expected some that are not {ACTION_FREE!r}"
            )
        super().__init__(model, config)
        self.frames = Frames(labelled, model.eye, following=True)

    def update(self) -> dict[str, float]:
        """One gradient step of -log p(a | o, o')."""
        config = self.config
        rows = torch.randint(len(self.frames), (config.batch,), generator=self._generator)
        now = {key: value[rows] for key, value in self.frames.observations.items()}
        following = {key: value[rows] for key, value in self.frames.following.items()}
        if schema.IMAGE in now:  # side by side, so that both move alike
            pair = torch.cat([now[schema.IMAGE], following[schema.IMAGE]], dim=-1)
            shifted = shift_images(pair, config.shift, self._generator)
            now[schema.IMAGE], following[schema.IMAGE] = shifted.chunk(2, dim=-1)
        features, next_features = (
            self._raw.eye.features({k: v.to(self._raw.eye.device) for k, v in each.items()})
            for each in (now, following)
        )
        action = self.frames.action[rows].to(features.device)
        distribution = self._raw(features, next_features)
        loss = -distribution.log_prob(action).mean()
        self._descend(loss)
        return {"nll": loss.item(), "mse": (distribution.mean - action).square().mean().item()}
