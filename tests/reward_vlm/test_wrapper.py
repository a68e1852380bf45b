from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from reward_vlm import Frames, RewardWrapper, RewardWrapperConfig
from robot_rl.data import schema
from robot_rl.errors import ConfigError

COUNT, STEPS = 4, 30


class PictureEnv(gymnasium.vector.VectorEnv):
    """Pictures whose brightness is drawn from one seed, truth and reward from another."""

    num_envs = COUNT
    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, truth_seed: int, ends_at_truth: bool = False) -> None:
        self._ends_at_truth = ends_at_truth
        self._pictures, self._truth = np.random.default_rng(0), np.random.default_rng(truth_seed)
        self._time = np.zeros(COUNT, int)

    def _observe(self) -> dict[str, Any]:
        level = self._pictures.integers(0, 256, (COUNT, 1, 1, 1), dtype=np.uint8)
        return {schema.IMAGE: np.broadcast_to(level, (COUNT, 8, 8, 3)).copy()}

    def _info(self) -> dict[str, Any]:
        instruction = ["lift", "lift", "drop", "drop"]
        return {"success": self._truth.random(COUNT) < 0.5, "instruction": instruction}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = np.ones(COUNT, bool) if options is None else options["reset_mask"]
        self._time[mask] = 0
        return self._observe(), self._info()

    def step(self, actions: Any) -> Any:
        self._time += 1
        truth = self._truth.random(COUNT)
        return self._observe(), truth, (truth < 0.4) & self._ends_at_truth, self._time >= 7, self._info()


class Brightness:
    """Calls bright pictures a success when asked to lift, dark ones when asked to drop."""

    threshold, debounce, fingerprint = 0.5, 2, "brightness"

    def judge(self, frames: Frames) -> np.ndarray:
        level = (frames.observations[schema.IMAGE].mean((1, 2, 3)) / 255).astype(np.float32)
        return level if frames.instruction == "lift" else 1 - level


def play(truth_seed: int, config: RewardWrapperConfig | None = None) -> tuple[list[Any], list[Any]]:
    env = RewardWrapper(PictureEnv(truth_seed), Brightness(), config)
    seen, infos = [env.reset(seed=0)[0]], []
    for _ in range(STEPS):
        observations, reward, terminated, truncated, info = env.step(np.zeros((COUNT, 7)))
        seen.append((observations, reward, terminated, truncated))
        infos.append(info)
        done = terminated | truncated
        if done.any():
            seen.append(env.reset(options={"reset_mask": done})[0])
    return seen, infos


def test_nothing_that_the_agent_sees_depends_on_the_truth() -> None:
    (first, infos), (second, others) = play(1), play(2)
    assert any((a["success"] != b["success"]).any() for a, b in zip(infos, others, strict=True))
    for a, b in zip(first, second, strict=True):
        for x, y in zip(_arrays(a), _arrays(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_reward_and_end_follow_the_debounced_judge() -> None:
    seen, infos = play(1)
    steps = [each for each in seen if isinstance(each, tuple)]
    run = np.zeros(COUNT, int)
    for (observations, reward, terminated, truncated), info in zip(steps, infos, strict=True):
        level = observations[schema.IMAGE][:, 0, 0, 0] / 255
        yes = np.where([True, True, False, False], level, 1 - level) >= 0.5
        run = np.where(yes, run + 1, 0)
        np.testing.assert_array_equal(terminated, run >= 2)
        np.testing.assert_array_equal(info["predicted_success"], run >= 2)
        np.testing.assert_array_equal(reward, np.where(run >= 2, 0, -1))
        assert not (terminated & truncated).any()
        assert info["success_probability"].shape == info["success"].shape == (COUNT,)
        run[terminated | truncated] = 0
    assert any(terminated.any() for _, _, terminated, _ in steps)
    assert any(truncated.any() for _, _, _, truncated in steps)


def test_environment_that_ends_by_its_own_truth_is_refused() -> None:
    env = RewardWrapper(PictureEnv(1, ends_at_truth=True), Brightness())
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"ended members \[.*\] by its own truth.*hold_steps"):
        _step_often(env)


def test_reward_convention_is_configurable() -> None:
    rewards = [each[1] for each in play(1, RewardWrapperConfig(0.0, 1.0))[0] if isinstance(each, tuple)]
    assert set(np.unique(rewards)) == {0.0, 1.0}
    assert rewards[0].dtype == np.float32
    with pytest.raises(ConfigError, match=r"success_reward is -1\.0; expected more than step_reward 0\.0"):
        RewardWrapperConfig(step_reward=0.0, success_reward=-1.0)


def _step_often(env: RewardWrapper) -> None:
    for _ in range(STEPS):
        env.step(np.zeros((COUNT, 7)))


def _arrays(seen: Any) -> list[np.ndarray]:
    if isinstance(seen, dict):
        return list(seen.values())
    observations, *rest = seen
    return [*observations.values(), *rest]
