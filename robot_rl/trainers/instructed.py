"""Members of a batch that are told what to do: the instruction as a vector beside the other observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector.utils import batch_space

from robot_rl.data import schema
from robot_rl.data.language import embed


class Instructed(gymnasium.vector.VectorWrapper):
    """Adds `schema.LANGUAGE` (N, L), the vector of each member's own instruction in `info`.

    Args:
        env: N members whose `info` of reset and step holds `instruction`, a list of N.
        size: L, the policy's `language_dim`.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv, size: int) -> None:
        super().__init__(env)
        self._size, self._known = size, dict[str, npt.NDArray[np.float32]]()
        single = env.single_observation_space
        assert isinstance(single, gymnasium.spaces.Dict)
        told = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.single_observation_space = gymnasium.spaces.Dict({**single.spaces, schema.LANGUAGE: told})
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observations, info = self.env.reset(seed=seed, options=options)
        return self._told(observations, info["instruction"]), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        observations, reward, terminated, truncated, info = self.env.step(actions)
        return self._told(observations, info["instruction"]), reward, terminated, truncated, info

    def _told(self, observations: dict[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        for text in set(instructions) - self._known.keys():
            self._known[text] = embed(text, self._size)
        return {**observations, schema.LANGUAGE: np.stack([self._known[text] for text in instructions])}

    def __getattr__(self, name: str) -> Any:
        """What else the environment offers (expert actions, task facts)."""
        if name == "env":  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.env, name)
