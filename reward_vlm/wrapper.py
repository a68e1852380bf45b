"""The learned judge in the place of the environment's reward and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from reward_vlm.debounce import Debounce
from reward_vlm.judge import SuccessJudge, judge_members
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class RewardWrapperConfig:
    """What a step is worth: -1 and 0 as in PA-RL; 0 and 1 as in RoboFuME (r = 1 only on a yes)."""

    step_reward: float = -1.0
    success_reward: float = 0.0

    def __post_init__(self) -> None:
        if not self.success_reward > self.step_reward:
            raise ConfigError(
                f"success_reward is {self.success_reward}; expected more than step_reward {self.step_reward}"
            )

    def reward(self, success: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """success_reward where `success` (...), step_reward elsewhere."""
        return np.where(success, self.success_reward, self.step_reward).astype(np.float32)


class RewardWrapper(gymnasium.vector.VectorWrapper):
    """Rewards and ends episodes by the judge alone; only an `Oracle` lets the truth through to the agent.

    `reward` and `terminated` are functions of the judge's answers only, `truncated` stays the clock's. The
    wrapped environment's reward is dropped, and it must not end at a true success: make it with
    `hold_steps` beyond the episode's length. `info["success"]` stays the simulator's truth,
    for measurement; `info["predicted_success"]` (N,) bool and `info["success_probability"]` (N,) join it.
    """

    def __init__(
        self, env: gymnasium.vector.VectorEnv, judge: SuccessJudge, config: RewardWrapperConfig | None = None
    ) -> None:
        super().__init__(env)
        self.judge = judge
        self.config = config or RewardWrapperConfig()
        self._debounce = Debounce(judge.debounce, env.num_envs)
        self._instructions: list[str] = [""] * env.num_envs

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the members of `options["reset_mask"]` (N,), or all; their runs of positives start anew."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._debounce.reset(None if options is None else options.get("reset_mask"))
        self._instructions = list(info["instruction"])
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As `VectorEnv.step`, with the judge's reward float32 (N,) and `terminated` bool (N,).

        Raises:
            ConfigError: the environment itself terminated a member.
        """
        observations, _, terminated, truncated, info = self.env.step(actions)
        if terminated.any():
            # Going on would hang on a member that no longer moves; ending it would tell the agent the truth.
            raise ConfigError(
                f"the environment ended members {np.flatnonzero(terminated).tolist()} by its own truth "
                "under a learned reward: make it with hold_steps beyond its max_steps"
            )
        probability = judge_members(self.judge, observations, self._instructions, info.get("success"))
        success = self._debounce.update(probability >= self.judge.threshold)
        info = {**info, "predicted_success": success, "success_probability": probability}
        return observations, self.config.reward(success), success, truncated & ~success, info
