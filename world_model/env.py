"""`WorldModelEnv`: a batch of imagined arms with the reset and step of a batch of simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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

END_THRESHOLD = 0.5
"""Of the end head, whose loss balances the classes."""


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
    cut_uncertain: bool = False
    """Truncate a member where the ensemble's disagreement passes its limit (the 99th percentile of
    validation): what comes after is nobody's knowledge."""

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


class FrameJudge(Protocol):
    """Says what pictures show; `reward_vlm.SuccessClassifier` is one."""

    @property
    def threshold(self) -> float: ...

    def success_probability(
        self, images: npt.NDArray[np.uint8], instruction: str
    ) -> npt.NDArray[np.float32]: ...


class WorldModelEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """N imagined arms of a frozen `WorldModel`.

    Autoreset is disabled: a member that has ended stays as it is, costs no imagination, gives reward 0 and
    repeats its last observation, flags and info, until `reset` names it. Success is `debounce` frames in a
    row above the threshold; with it come `terminated`, `success` and reward 1. A model's end head ends an
    episode without reward. `truncated` is the horizon, or too much uncertainty. Each member draws from a
    generator of its own, seeded by `reset`: its start, then the noise of every frame. `info` also holds
    `success_probability` (N,) and `uncertainty` (N,) of the newest frame.

    Args:
        model: imagines, on its own device.
        starts: episodes whose real frames imagined episodes begin from.
        config: sizes.
        judge: calls success in the place of the model's own head.

    Raises:
        DataError: the episodes do not fit the model.
        ConfigError: `cut_uncertain` with a model of one member.
    """

    def __init__(
        self,
        model: WorldModel,
        starts: Sequence[Episode],
        config: WorldModelEnvConfig | None = None,
        judge: FrameJudge | None = None,
    ) -> None:
        self.model, self.config, self.judge = model.prepare(), config or WorldModelEnvConfig(), judge
        if self.config.cut_uncertain and model.config.members == 1:
            raise ConfigError(
                "world model environment: cut_uncertain=True with a model of 1 member; expected at least 2: "
                "train with world_model.model.members=2"
            )
        self.num_envs = self.config.num_envs
        spec = model.spec
        spec.check(starts)
        self._table = FrameTable(starts, spec.camera, model.embed)
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

        count, device = self.num_envs, model.device
        self._generators = [torch.Generator(device) for _ in range(count)]
        size = (count, model.config.history, spec.height, spec.width, 3)
        self._history = torch.zeros(size, dtype=torch.uint8, device=device)
        self._state = torch.zeros(count, spec.state_dim, device=device)
        self._previous = torch.zeros(count, spec.state_dim, device=device)
        told = self._table.instruction
        self._told = None if told is None else torch.zeros(count, told.shape[1], device=device)
        self._action = np.zeros((count, spec.action_dim), np.float32)
        self._probability = np.zeros(count, np.float32)
        self._uncertainty = np.zeros(count, np.float32)
        self._held = np.zeros(count, np.int64)
        self._steps = np.zeros(count, np.int64)
        self._success = np.zeros(count, bool)
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
        rows = np.flatnonzero(mask)
        own = self.model.success_probability(self._history[rows, -1], self._told_of(rows)).cpu().numpy()
        self._probability[rows] = self._judged(rows, own)
        self._uncertainty[rows] = 0
        return self._observations(), {
            "success": self._probability > self.threshold,
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
            ended = self._imagine(live)
            above = self._probability[live] > self.threshold
            self._held[live] = np.where(above, self._held[live] + 1, 0)
            self._steps[live] += 1
            self._success[live] = self._held[live] >= self.config.debounce
            self._terminated[live] = self._success[live] | ended
            self._truncated[live] = self._steps[live] >= self.config.horizon
            if self.config.cut_uncertain:
                self._truncated[live] |= self._uncertainty[live] > float(self.model.uncertainty_limit)
            reward[live] = self._success[live]
            cost[live] = self.config.effort_cost * np.square(self._action[live]).mean(1)
        info = self._info() | {"cost": cost}
        return self._observations(), reward, self._terminated.copy(), self._truncated.copy(), info

    @property
    def threshold(self) -> float:
        """A picture counts as success above this probability."""
        return self.model.threshold if self.judge is None else self.judge.threshold

    def _imagine(self, live: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Replace the live members' newest frame, state, success probability and uncertainty by the next
        ones; returns which of them the end head ends, bool (L,)."""
        # A compiled model is made for one size of batch: the others are imagined too, and left as they are.
        rows = np.arange(self.num_envs) if self.model.config.compile else live
        history = self._history[rows]
        prediction = self.model.predict(
            history,
            self._state[rows],
            self._previous[rows],
            torch.from_numpy(self._action[rows]).to(history.device),
            [self._generators[i] for i in rows],
            self._told_of(rows),
        )
        kept = live if len(rows) > len(live) else np.arange(len(live))
        self._history[live] = torch.cat([history[kept, 1:], prediction.frame[kept, None]], 1)
        self._previous[live], self._state[live] = self._state[live], prediction.state[kept]
        self._probability[live] = self._judged(live, prediction.success[kept].cpu().numpy())
        self._uncertainty[live] = prediction.uncertainty[kept].cpu().numpy()
        ended: npt.NDArray[np.bool_] = prediction.ended[kept].cpu().numpy() > END_THRESHOLD
        return ended

    def _judged(self, rows: npt.NDArray[np.int64], own: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Success probabilities of the newest pictures of members `rows`: the head's own, or the judge's."""
        if self.judge is None:
            return own
        pictures = self._history[rows, -1].cpu().numpy()
        instructions = np.array([self._instructions[row] for row in rows])
        judged = np.zeros(len(rows), np.float32)
        for instruction in np.unique(instructions):
            of = instructions == instruction
            judged[of] = self.judge.success_probability(pictures[of], str(instruction))
        return judged

    def _told_of(self, rows: npt.NDArray[np.int64]) -> torch.Tensor | None:
        return None if self._told is None else self._told[rows]

    def _reset_member(self, index: int, seed: int) -> None:
        generator, device = self._generators[index].manual_seed(seed), self.model.device
        lot = float(torch.rand((), generator=generator, device=device))
        frames = self._key if lot < self.config.key_frames else self._initial
        start = frames[torch.randint(len(frames), (1,), generator=generator, device=device).cpu()]
        told = self._table.told(start)
        if self._told is not None and told is not None:
            self._told[index] = told[0]
        self._history[index] = self._table.history(start, self.model.config.history)[0]
        self._state[index] = self._table.states[start[0]]
        self._previous[index] = self._table.previous(start)[0]
        self._instructions[index] = self._instructions_by_episode[int(self._table.episode[start[0]])]
        self._action[index] = 0
        self._held[index] = self._steps[index] = 0
        self._success[index] = self._terminated[index] = self._truncated[index] = False

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
            schema.STATE: self._state.cpu().numpy().copy(),
            self.model.spec.camera: self._history[:, -1].cpu().numpy().copy(),
        }

    def _info(self) -> dict[str, Any]:
        return {
            "success": self._success.copy(),
            "action": self._action.copy(),
            "filter_reason": np.zeros(self.num_envs, np.uint8),
            "instruction": list(self._instructions),
            "success_probability": self._probability.copy(),
            "uncertainty": self._uncertainty.copy(),
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
