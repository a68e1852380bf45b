from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from robot_rl.trainers.rollout import EpisodeOrigin, rollout
from tests.contracts import check_vector_environment
from tests.world_model import toy
from world_model.env import WorldModelEnv, WorldModelEnvConfig
from world_model.model import WorldModel

STARTS = toy.episodes(200, 5)


def _env(model: WorldModel, threshold: float = 2.0, **changes: object) -> WorldModelEnv:
    """Four imagined arms that succeed above `threshold` (2: never, -1: always)."""
    model.success.threshold.fill_(threshold)
    return WorldModelEnv(model, STARTS, WorldModelEnvConfig(**({"num_envs": 4, "horizon": 5} | changes)))  # type: ignore[arg-type]


def _actions(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (4, 2)).astype(np.float32)


def test_is_a_vector_environment_without_autoreset(untrained: WorldModel) -> None:
    env = _env(untrained)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    observations, info = env.reset(seed=0)
    assert observations in env.observation_space
    assert info["instruction"] == ["push the block to the right"] * 4
    observations, reward, terminated, truncated, info = env.step(_actions())
    assert observations in env.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (4,)
    assert info["success"].dtype == terminated.dtype == bool
    assert set(info) == {
        "success", "action", "cost", "filter_reason", "instruction", "success_probability", "uncertainty"
    }  # fmt: skip
    np.testing.assert_array_equal(info["action"], _actions())


def test_keeps_the_contract_of_the_simulated_arms(untrained: WorldModel) -> None:
    check_vector_environment(_env(untrained), [3, 4, 5, 6], 5)


def test_same_seeds_and_actions_give_the_same_imagination(untrained: WorldModel) -> None:
    runs = []
    for _ in range(2):
        env = _env(untrained)
        env.reset(seed=[5, 6, 7, 5])
        runs.append([env.step(_actions(step))[0] for step in range(3)])
    for one, two in zip(*runs, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, two[key])
    env = _env(untrained)
    first, _ = env.reset(seed=[5, 6, 7, 5])
    np.testing.assert_array_equal(first[schema.IMAGE][0], first[schema.IMAGE][3])


def test_starts_are_real_initial_frames(untrained: WorldModel) -> None:
    observations, _ = _env(untrained).reset(seed=3)
    initial = [episode.observations[schema.IMAGE][0] for episode in STARTS]
    for image in observations[schema.IMAGE]:
        assert any((image == other).all() for other in initial)


def test_key_frames_start_anywhere_before_success(untrained: WorldModel) -> None:
    env = _env(untrained, key_frames=1.0, num_envs=64)
    observations, _ = env.reset(seed=0)
    before = {
        episode.observations[schema.IMAGE][t].tobytes()
        for episode in STARTS
        for t in range(len(episode))
        if not episode.success[:t].any()
    }
    images = {image.tobytes() for image in observations[schema.IMAGE]}
    assert images <= before
    assert len(images) > len(STARTS)


def test_truncated_at_the_horizon_then_frozen_until_reset(untrained: WorldModel) -> None:
    env = _env(untrained)
    env.reset(seed=0)
    for step in range(5):
        observations, reward, terminated, truncated, _ = env.step(_actions(step))
        assert not terminated.any()
        assert truncated.all() == (step == 4)
        assert not reward.any()
    again, reward, _, truncated, _ = env.step(_actions(9))
    np.testing.assert_array_equal(again[schema.IMAGE], observations[schema.IMAGE])
    assert truncated.all()
    assert not reward.any()

    mask = np.array([True, False, False, False])
    after, _ = env.reset(seed=[1, 2, 3, 4], options={"reset_mask": mask})
    np.testing.assert_array_equal(after[schema.IMAGE][1:], observations[schema.IMAGE][1:])
    moved, _, _, truncated, _ = env.step(_actions(10))
    assert truncated.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(moved[schema.STATE][1:], observations[schema.STATE][1:])
    for key in (schema.STATE, schema.IMAGE):
        assert (moved[key][0] != after[key][0]).any()


def test_success_ends_an_episode_only_after_debounce(untrained: WorldModel) -> None:
    env = _env(untrained, threshold=-1.0, debounce=3)
    env.reset(seed=0)
    history = [env.step(_actions(step)) for step in range(4)]
    assert [bool(step[2].all()) for step in history] == [False, False, True, True]
    assert [float(step[1].sum()) for step in history] == [0, 0, 4, 0]
    assert not history[2][3].any()
    assert history[2][4]["success"].all()


def test_the_one_rollout_loop_drives_it(untrained: WorldModel) -> None:
    class Still:
        def reset(self, mask: np.ndarray, seeds: np.ndarray) -> None: ...

        def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
            return np.zeros((4, 2), np.float32)

    episodes = rollout(_env(untrained), Still(), range(6), EpisodeOrigin("toy/push", "toy", 5.0, "still"))
    assert [len(episode) for episode in episodes] == [5] * 6
    assert all(episode.truncated[-1] and not episode.terminated.any() for episode in episodes)


def test_bad_requests_are_refused(untrained: WorldModel) -> None:
    env = _env(untrained)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"shape \(4, 3\); expected finite numbers of shape \(4, 2\)"):
        env.step(np.zeros((4, 3), np.float32))
    with pytest.raises(ConfigError, match="finite"):
        env.step(np.full((4, 2), np.nan, np.float32))
    with pytest.raises(ConfigError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ConfigError, match="2 seeds"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match="horizon"):
        _env(untrained, horizon=0)
    with pytest.raises(DataError, match="task"):
        WorldModelEnv(untrained, [toy.episode(0, task="toy/other")])
