"""`WorldModelEnv`: a batch of imagined arms with the reset and step of a batch of simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError, DataError
from world_model.model import WorldModel
from world_model.windows import FrameTable

Observation = dict[str, npt.NDArray[Any]]
Step = tuple[
    Observation, npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
]


@dataclass(frozen=True)
class WorldModelEnvConfig:
    """How imagined episodes begin and end."""

    num_envs: int = 64
    horizon: int = 40
    """Steps after which a member is truncated."""
    debounce: int = 2
    """Frames in a row that must show success."""
    key_frames: float = 0.0
    """Probability that an episode starts anywhere before success instead of at an initial frame."""
    effort_cost: float = 0.0
    """Cost of a step at full action; it falls with the mean square of the action, as the energy asked of a
    spring does whose setpoint the action moves. 0: imagined steps cost nothing."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "horizon", "debounce"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"world model environment: {name}={getattr(self, name)}; expected at least 1"
                )
        if not self.effort_cost >= 0:
            raise ConfigError(f"world model environment: effort_cost={self.effort_cost}; expected at least 0")
        if not 0 <= self.key_frames <= 1:
            raise ConfigError(f"world model environment: key_frames={self.key_frames}; expected in [0, 1]")


class WorldModelEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """N imagined arms of a frozen `WorldModel`.

    Autoreset is disabled: a member that has ended stays as it is, costs no imagination, gives reward 0 and
    repeats its last observation, flags and info, until `reset` names it. Success is `debounce` frames in a
    row above the model's threshold; with it come `terminated`, `success` and reward 1. `truncated` is the
    horizon. Each member draws from a generator of its own, seeded by `reset`: its start, then the noise of
    every frame. `info` also holds `success_probability` (N,) of the newest frame.

    Args:
        model: its success threshold is used.
        starts: episodes whose real frames imagined episodes begin from.
        config: sizes.

    Raises:
        DataError: the episodes do not fit the model.
    """

    def __init__(
        self, model: WorldModel, starts: Sequence[Episode], config: WorldModelEnvConfig | None = None
    ) -> None:
        self.model, self.config = model.eval(), config or WorldModelEnvConfig()
        self.num_envs = self.config.num_envs
        spec = model.spec
        spec.check(starts)
        self._table = FrameTable(starts, spec.camera)
        self._initial, self._key = _start_frames(self._table)
        self._instructions_by_episode = [episode.metadata.instruction for episode in starts]
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": spec.control_hz}
        self.single_observation_space = gymnasium.spaces.Dict(
            {
                schema.STATE: gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32),
                spec.camera: gymnasium.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8),
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        count = self.num_envs
        self._generators = [torch.Generator() for _ in range(count)]
        self._history = torch.zeros(
            (count, model.config.history, spec.height, spec.width, 3), dtype=torch.uint8
        )
        self._state = torch.zeros(count, spec.state_dim)
        self._previous = torch.zeros(count, spec.state_dim)
        self._action = np.zeros((count, spec.action_dim), np.float32)
        self._probability = np.zeros(count, np.float32)
        self._held = np.zeros(count, np.int64)
        self._steps = np.zeros(count, np.int64)
        self._terminated = np.zeros(count, bool)
        self._truncated = np.ones(count, bool)  # nobody steps before a reset
        self._instructions = [""] * count
        self._seeds = np.random.default_rng()

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start new episodes where `options["reset_mask"]` (N,) is true (without it: everywhere).

        `seed` is a list of N seeds, or one number from which member i takes seed + i, or None: fresh ones.

        Raises:
            ConfigError: a mask or seeds of another length.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)), bool)
        if mask.shape != (self.num_envs,):
            raise ConfigError(f"reset_mask has shape {mask.shape}; expected ({self.num_envs},)")
        for index, value in zip(np.flatnonzero(mask), self._member_seeds(seed)[mask], strict=True):
            self._reset_member(int(index), int(value))
        self._probability[mask] = self.model.success_probability(self._history[mask, -1]).numpy()
        return self._observations(), {
            "success": self._probability > self.model.threshold,
            "instruction": list(self._instructions),
            "success_probability": self._probability.copy(),
        }

    def step(self, actions: npt.NDArray[np.float32]) -> Step:
        """One imagined step of every member that has not ended; `actions` (N, A) in [-1, 1].

        Raises:
            ConfigError: actions of another shape, or not finite.
        """
        if np.shape(actions) != self._action.shape or not np.isfinite(actions).all():
            raise ConfigError(
                f"actions of shape {np.shape(actions)}; expected finite numbers of shape {self._action.shape}"
            )
        live = np.flatnonzero(~(self._terminated | self._truncated))
        reward, cost = np.zeros((2, self.num_envs), np.float32)
        if len(live):
            self._action[live] = np.clip(actions[live], -1, 1)
            self._imagine(live)
            above = self._probability[live] > self.model.threshold
            self._held[live] = np.where(above, self._held[live] + 1, 0)
            self._steps[live] += 1
            self._terminated[live] = self._held[live] >= self.config.debounce
            self._truncated[live] = self._steps[live] >= self.config.horizon
            reward[live] = self._terminated[live]
            cost[live] = self.config.effort_cost * np.square(self._action[live]).mean(1)
        info = self._info() | {"cost": cost}
        return self._observations(), reward, self._terminated.copy(), self._truncated.copy(), info

    def _imagine(self, live: npt.NDArray[np.int64]) -> None:
        """Replace the live members' newest frame, state and success probability by the next ones."""
        history = self._history[live]
        prediction = self.model.predict(
            history,
            self._state[live],
            self._previous[live],
            torch.from_numpy(self._action[live]),
            [self._generators[i] for i in live],
        )
        self._history[live] = torch.cat([history[:, 1:], prediction.frame[:, None]], 1)
        self._previous[live], self._state[live] = self._state[live], prediction.state
        self._probability[live] = prediction.success.numpy()

    def _reset_member(self, index: int, seed: int) -> None:
        generator = self._generators[index].manual_seed(seed)
        lot = float(torch.rand((), generator=generator))
        frames = self._key if lot < self.config.key_frames else self._initial
        start = frames[torch.randint(len(frames), (1,), generator=generator)]
        self._history[index] = self._table.history(start, self.model.config.history)[0]
        self._state[index] = self._table.states[start[0]]
        self._previous[index] = self._table.previous(start)[0]
        self._instructions[index] = self._instructions_by_episode[int(self._table.episode[start[0]])]
        self._action[index] = 0
        self._held[index] = self._steps[index] = 0
        self._terminated[index] = self._truncated[index] = False

    def _member_seeds(self, seed: int | Sequence[int] | None) -> npt.NDArray[np.int64]:
        if seed is None:
            return self._seeds.integers(2**31, size=self.num_envs)
        if isinstance(seed, int | np.integer):
            return int(seed) + np.arange(self.num_envs)
        if len(seed) != self.num_envs:
            raise ConfigError(f"{len(seed)} seeds for {self.num_envs} imagined arms")
        return np.asarray(seed, np.int64)

    def _observations(self) -> Observation:
        return {
            schema.STATE: self._state.numpy().copy(),
            self.model.spec.camera: self._history[:, -1].numpy().copy(),
        }

    def _info(self) -> dict[str, Any]:
        return {
            "success": self._terminated.copy(),
            "action": self._action.copy(),
            "filter_reason": np.zeros(self.num_envs, np.uint8),
            "instruction": list(self._instructions),
            "success_probability": self._probability.copy(),
        }


def _start_frames(table: FrameTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames to start from: the first of each episode, and every one before the first success.

    Raises:
        DataError: every episode begins with success.
    """
    passed = table.success.long().cumsum(0)  # successes so far, over all episodes
    earlier = (passed - table.success.long())[table.first]  # those of the episodes before
    before = (passed == earlier) & ~table.is_last
    key = torch.nonzero(before).squeeze(1)
    initial = key[table.first[key] == key]
    if not len(initial):
        raise DataError("no episode to start imagination from: every one begins with success")
    return initial, key
