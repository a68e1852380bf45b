"""The rollout loop on a vector environment whose every number says where it came from."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.trainers.evaluate import evaluate
from robot_rl.trainers.rollout import EpisodeOrigin, rollout

ORIGIN = EpisodeOrigin("toy/count", "toy", 5.0, "test")


class CountingEnv(VectorEnv):
    """Member state (seed, step). Ends with success at step 2 + seed % 3, or by the clock at 3."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.state = np.zeros((num_envs, 2), np.float32)

    def observation(self) -> dict[str, npt.NDArray[Any]]:
        images = np.zeros((self.num_envs, 4, 4, 3), np.uint8)
        images[:, 0, 0, 0] = self.state[:, 1]
        return {schema.STATE: self.state.copy(), schema.IMAGE: images}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        self.state[mask] = np.stack([np.asarray(seed), np.zeros(self.num_envs)], 1)[mask]
        return self.observation(), {"instruction": ["count"] * self.num_envs, "success": np.zeros(len(mask))}

    def step(self, actions: Any) -> Any:
        self.state[:, 1] += 1
        success = self.state[:, 1] >= 2 + self.state[:, 0] % 3
        truncated = ~success & (self.state[:, 1] >= 3)
        info = {
            "success": success,
            "action": np.clip(actions, -1, 1),
            "cost": np.zeros(self.num_envs, np.float32),
            "filter_reason": np.zeros(self.num_envs, np.uint8),
            "instruction": ["count"] * self.num_envs,
        }
        return self.observation(), success.astype(np.float32), success, truncated, info


class Twice:
    """Asks for twice the step number, so that requests leave [-1, 1]."""

    def reset(self, mask: Any, seeds: Any) -> None:
        self.last = (mask.copy(), seeds.copy())

    def act(self, observations: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        return np.repeat(2 * observations[schema.STATE][:, 1:], 2, 1).astype(np.float32)


@pytest.mark.parametrize("members", [1, 3, 8])
def test_one_episode_a_seed_in_order_whatever_the_batch(members: int) -> None:
    seeds = [7, 3, 5, 11, 4, 6]
    episodes = rollout(CountingEnv(members), Twice(), seeds, ORIGIN)
    assert [episode.metadata.seed for episode in episodes] == seeds
    for seed, episode in zip(seeds, episodes, strict=True):
        assert np.array_equal(
            episode.observations[schema.STATE],
            [[seed, step] for step in range(len(episode) + 1)],  # the last is the true final observation
        )


def test_success_terminates_and_the_clock_truncates() -> None:
    success, clock = rollout(CountingEnv(2), Twice(), [3, 5], ORIGIN)
    assert success.terminated.tolist() == [False, True]
    assert not success.truncated.any()
    assert clock.truncated.tolist() == [False, False, True]
    assert not clock.terminated.any()


def test_requested_and_executed_actions_are_both_kept() -> None:
    (episode,) = rollout(CountingEnv(1), Twice(), [5], ORIGIN)
    assert episode.action_requested[:, 0].tolist() == [0, 2, 4]
    assert episode.action[:, 0].tolist() == [0, 1, 1]


def test_what_a_judge_said_is_kept_step_by_step() -> None:
    class Judged(CountingEnv):
        def step(self, actions: Any) -> Any:
            *rest, info = super().step(actions)
            return *rest, info | {"success_probability": self.state[:, 1] / 7}

    success, clock = rollout(Judged(2), Twice(), [3, 5], ORIGIN)
    assert success.metadata.extra == {"success_probability": [0.1429, 0.2857]}
    assert clock.metadata.extra == {"success_probability": [0.1429, 0.2857, 0.4286]}
    assert rollout(CountingEnv(1), Twice(), [3], ORIGIN)[0].metadata.extra == {}


def test_pictures_can_be_left_out_and_every_episode_is_reported() -> None:
    told: list[Episode] = []
    episodes = rollout(CountingEnv(2), Twice(), [1, 2, 3], ORIGIN, keep_images=False, on_episode=told.append)
    assert all(set(episode.observations) == {schema.STATE} for episode in episodes)
    assert sorted(e.metadata.seed for e in told) == [1, 2, 3]


def test_evaluation_counts_by_the_truth(tmp_path: Any) -> None:
    result, _ = evaluate(CountingEnv(4), Twice(), [3, 4, 5], ORIGIN)
    assert result.success == [1, 1, 0]
    assert result.steps == [2, 3, 3]
    assert result.summary()["mean"] == pytest.approx(2 / 3)
    result.write(tmp_path / "eval.json")
    assert type(result).read(tmp_path / "eval.json") == result
