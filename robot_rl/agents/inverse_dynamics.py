"""Inverse dynamics: which action leads from one observation to the next, to label videos without actions.

VPT (Baker et al., arXiv 2206.11795) and SS-ORL (Zheng et al., arXiv 2210.06518): train on the labelled part,
label the action-free trajectories, then learn from all of them. B batch, F features, A action dimensions.

An action-free episode says so: its metadata's `extra` has `ACTION_FREE: True`, and its actions are zeros
that mean nothing. What was labelled has `ACTION_FREE: False` and `LABELLED_BY: "inverse_dynamics"`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.agents.bc import Frames
from robot_rl.agents.distributions import ActionDistribution
from robot_rl.agents.networks import move_towards
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.data import Episode, schema
from robot_rl.data.augmentation import shift_images
from robot_rl.data.statistics import Statistics
from robot_rl.errors import ConfigError, DataError

ACTION_FREE = "action_free"
LABELLED_BY = "actions_labelled_by"


@dataclass(frozen=True)
class InverseDynamicsConfig:
    updates: int = 2000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    shift: int = 4
    """Random shift of pictures in pixels, the same for both of a pair."""
    ema: float = 0.995
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"inverse_dynamics.{name}={getattr(self, name)}; expected at least 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"inverse_dynamics.ema={self.ema}; expected 0 <= ema < 1")


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


def is_action_free(episode: Episode) -> bool:
    """Whether the episode's actions mean nothing."""
    return bool(episode.metadata.extra.get(ACTION_FREE, False))


def label_actions(model: InverseDynamics, episodes: Sequence[Episode]) -> list[Episode]:
    """`episodes`, with actions in those that were free of them; the others are passed through."""
    return [model.label(episode) if is_action_free(episode) else episode for episode in episodes]


class InverseDynamicsLearner:
    """Maximises log p(a | o, o') on the labelled episodes. A `trainers.protocols.Learner`.

    `model` always holds the averaged weights: the ones to label with.

    Raises:
        DataError: no labelled episodes, or one lacks what the model reads.
    """

    def __init__(
        self, model: InverseDynamics, episodes: Sequence[Episode], config: InverseDynamicsConfig
    ) -> None:
        labelled = [episode for episode in episodes if not is_action_free(episode)]
        if not labelled:
            raise DataError(
                f"none of {len(episodes)} episodes has actions; expected some that are not {ACTION_FREE!r}"
            )
        self.model, self.config = model, config
        self.total_updates = config.updates
        self.frames = Frames(labelled, model.eye, following=True)
        self._raw = copy.deepcopy(model)
        self._parameters = list(self._raw.parameters())
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self._updates = 0

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
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, config.grad_clip)
        self._optimiser.step()
        self._updates += 1
        decay = min(config.ema, self._updates / (self._updates + 10)) if config.ema else 0.0
        move_towards(self.model, self._raw, 1 - decay)
        return {"nll": loss.item(), "mse": (distribution.mean - action).square().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "raw": self._raw.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._raw.load_state_dict(state["raw"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._updates = state["updates"]
