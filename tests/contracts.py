"""What every batch of arms must do, simulated or imagined: docs/architecture.md, "Vector environment"."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv


def check_vector_environment(env: VectorEnv, seeds: list[int], horizon: int) -> None:
    """`env` has one member a seed, and truncates after `horizon` steps in which nothing succeeds."""
    count = env.num_envs
    action_shape = env.action_space.shape
    assert action_shape is not None
    still, other = np.zeros(action_shape, np.float32), np.full(action_shape, 0.5, np.float32)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED

    first, info = env.reset(seed=seeds)  # type: ignore[arg-type]
    assert env.observation_space.contains(first)
    assert len(info["instruction"]) == count
    assert np.shape(info["success"]) == (count,)
    again, _ = env.reset(seed=seeds)  # type: ignore[arg-type]
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])

    kept = {key: value.copy() for key, value in first.items()}
    for step in range(horizon):
        last, reward, terminated, truncated, info = env.step(other)
        assert env.observation_space.contains(last)
        assert reward.shape == (count,)
        assert terminated.dtype == truncated.dtype == info["success"].dtype == bool
        assert truncated.all() == (step == horizon - 1)
        assert info["action"].shape == action_shape
        assert info["cost"].shape == info["filter_reason"].shape == (count,)
        assert info["filter_reason"].dtype == np.uint8
    for key, value in kept.items():  # what was given is the caller's
        np.testing.assert_array_equal(first[key], value)

    after, reward, _, truncated, _ = env.step(still)  # ended members stay as they are
    assert truncated.all()
    assert not reward.any()
    for key, value in after.items():
        np.testing.assert_array_equal(value, last[key])
    mask = np.arange(count) == 0
    fresh, _ = env.reset(seed=seeds, options={"reset_mask": mask})  # type: ignore[arg-type]
    for key, value in fresh.items():
        np.testing.assert_array_equal(value[mask], kept[key][mask])
        np.testing.assert_array_equal(value[~mask], last[key][~mask])
    *_, truncated, _ = env.step(still)
    np.testing.assert_array_equal(truncated, ~mask)
