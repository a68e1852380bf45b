"""Small problems that a policy solves within seconds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.data import Episode, EpisodeMetadata, schema


class PointToGoal(VectorEnv):
    """N points on a line. State: (position, goal); the action moves by up to .25; at the goal it ends.

    `terminated` within .1 of the goal (reward 1), `truncated` after `limit` steps.
    """

    def __init__(self, members: int = 32, limit: int = 8) -> None:
        self.num_envs, self.limit = members, limit
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self._state = np.zeros((members, 2), np.float32)
        self._clock = np.zeros(members, int)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        for i in np.flatnonzero(mask):
            self._state[i] = np.random.default_rng(seed[i]).uniform(-1, 1, 2)
            self._clock[i] = 0
        return self._observation(), {"success": np.zeros(self.num_envs, bool)}

    def step(self, actions: npt.NDArray[np.float32]) -> tuple[Any, ...]:
        assert np.abs(actions).max() <= 1
        self._state[:, :1] += 0.25 * actions
        self._clock += 1
        success = np.abs(self._state[:, 0] - self._state[:, 1]) < 0.1
        truncated = (self._clock >= self.limit) & ~success
        return self._observation(), success.astype(np.float32), success, truncated, {"success": success}

    def _observation(self) -> dict[str, npt.NDArray[Any]]:
        return {schema.STATE: self._state}  # the same array at every step: callers must copy


def metadata(seed: int = 0) -> EpisodeMetadata:
    return EpisodeMetadata("toy", "go there", "point", 5, seed)


def seeing_episodes(count: int, steps: int = 6, size: int = 16, seed: int = 0) -> list[Episode]:
    """Episodes whose action can only be read off the picture: a white square at (column, row).

    The action is the square's centre in [-1, 1]^2; the state is noise.
    """
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        corner = rng.integers(0, size - 4, (steps + 1, 2))
        images = np.zeros((steps + 1, size, size, 3), np.uint8)
        for image, (column, row) in zip(images, corner, strict=True):
            image[row : row + 4, column : column + 4] = 255
        action = ((corner[:-1] + 2) / size * 2 - 1).astype(np.float32)
        state = rng.normal(size=(steps + 1, 2)).astype(np.float32)
        observations: dict[str, npt.NDArray[Any]] = {schema.STATE: state, schema.IMAGE: images}
        episodes.append(Episode.from_steps(observations, action, metadata(number)))
    return episodes
