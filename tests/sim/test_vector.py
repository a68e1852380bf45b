"""The vector environment equals its members, survives their failures, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.workers import shares_of_cores
from tests.contracts import check_vector_environment

SEEDS = [11, 12, 13]


class HalfSpeed:
    """A filter that holds the first setpoint it saw."""

    def __init__(self) -> None:
        self.held: np.ndarray | None = None

    def reset(self) -> None:
        self.held = None

    def __call__(self, requested: np.ndarray, measured: np.ndarray, time_s: float) -> tuple[np.ndarray, int]:
        if self.held is None:
            self.held = measured.copy()
        return self.held, schema.FILTER_REASONS.index("estop")


class Broken:
    def __call__(self, requested: np.ndarray, measured: np.ndarray, time_s: float) -> tuple[np.ndarray, int]:
        raise ValueError("a broken filter")


@pytest.fixture(scope="module")
def vector() -> Iterator[sim.ParallelVectorEnv]:
    env = sim.ParallelVectorEnv("widowx/push", 3, workers=2, max_steps=6)
    yield env
    env.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_members_equal_single_environments(workers: int, vector: sim.ParallelVectorEnv) -> None:
    many = vector if workers else sim.ParallelVectorEnv("widowx/push", 3, workers=0, max_steps=6)
    singles = [sim.make("widowx/push", max_steps=6) for _ in SEEDS]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 7)).astype(np.float32)
    observations, info = many.reset(seed=SEEDS)
    firsts = [single.reset(seed=seed)[0] for single, seed in zip(singles, SEEDS, strict=True)]
    for key in (schema.STATE, schema.IMAGE):
        np.testing.assert_array_equal(observations[key], [first[key] for first in firsts])
    assert info["instruction"] == ["push the red block onto the green plate"] * 3
    for batch in actions:
        expert = many.expert_actions()
        np.testing.assert_array_equal(expert, [single.unwrapped.expert_action() for single in singles])
        observations, rewards, terminated, truncated, info = many.step(batch)
        results = [single.step(action) for single, action in zip(singles, batch, strict=True)]
        for key in (schema.STATE, schema.IMAGE):
            np.testing.assert_array_equal(observations[key], [result[0][key] for result in results])
        np.testing.assert_allclose(rewards, [result[1] for result in results], rtol=1e-6)
        np.testing.assert_array_equal(info["action"], batch)
        assert not (terminated | truncated).any()
    for single in singles:
        single.close()


def test_spaces_and_metadata(vector: sim.ParallelVectorEnv) -> None:
    observations, _ = vector.reset(seed=SEEDS)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert vector.observation_space.contains(observations)
    *_, info = vector.step(np.zeros((3, 7), np.float32))
    assert info["success"].dtype == bool
    assert info["filter_reason"].dtype == np.uint8
    assert info["cost"].shape == (3,)
    assert info["action"].shape == (3, 7)


def test_keeps_the_contract_that_imagined_arms_keep_too(vector: sim.ParallelVectorEnv) -> None:
    check_vector_environment(vector, list(SEEDS), 6)


def test_ended_members_stay_until_reset(vector: sim.ParallelVectorEnv) -> None:
    vector.reset(seed=SEEDS)
    action = np.full((3, 7), 0.5, np.float32)
    for _ in range(6):
        last, _, _, truncated, _ = vector.step(action)
    assert truncated.all()
    again, rewards, _, truncated, _ = vector.step(-action)
    np.testing.assert_array_equal(again[schema.IMAGE], last[schema.IMAGE])
    assert (rewards == 0).all()
    assert truncated.all()
    mask = np.array([False, True, False])
    partly, _ = vector.reset(seed=[0, 12, 0], options={"reset_mask": mask})
    fresh, _ = sim.make("widowx/push", max_steps=6).reset(seed=12)
    np.testing.assert_array_equal(partly[schema.STATE][1], fresh[schema.STATE])
    np.testing.assert_array_equal(partly[schema.IMAGE][~mask], last[schema.IMAGE][~mask])
    _, _, _, truncated, _ = vector.step(action)
    np.testing.assert_array_equal(truncated, ~mask)


def test_returned_arrays_are_copies(vector: sim.ParallelVectorEnv) -> None:
    before, _ = vector.reset(seed=SEEDS)
    kept = before[schema.STATE].copy()
    vector.step(np.full((3, 7), 0.5, np.float32))
    np.testing.assert_array_equal(before[schema.STATE], kept)


def test_noise_is_repeatable_and_of_its_size(vector: sim.ParallelVectorEnv) -> None:
    def actions(noise: float, **options: tuple[float, float]) -> np.ndarray:
        observations, _ = vector.reset(seed=SEEDS)
        policy = sim.ExpertPolicy(vector, noise, **options)
        policy.reset(np.ones(3, bool), np.array(SEEDS))
        return policy.act(observations)

    np.testing.assert_array_equal(actions(0.2), actions(0.2))
    assert (actions(0.2)[:, :6] != actions(0.0)[:, :6]).any(axis=1).all()
    np.testing.assert_array_equal(actions(0.2)[:, 6], actions(0.0)[:, 6])
    np.testing.assert_array_equal(actions(0.2, scale_range=(0.0, 0.0)), actions(0.0))
    with pytest.raises(ConfigError, match="scale_range"):
        actions(0.2, scale_range=(2.0, 1.0))


def test_random_policy_stays_and_repeats(vector: sim.ParallelVectorEnv) -> None:
    policy = sim.RandomPolicy(3)
    observations, _ = vector.reset(seed=SEEDS)
    traces = []
    for _ in range(2):
        policy.reset(np.ones(3, bool), np.array(SEEDS))
        traces.append(np.stack([policy.act(observations) for _ in range(200)]))
    np.testing.assert_array_equal(traces[0], traces[1])
    walk = traces[0][:, :, 4]
    correlation = np.corrcoef(walk[:-1].ravel(), walk[1:].ravel())[0, 1]
    assert 0.6 < correlation < 0.95


@pytest.mark.parametrize("workers", [0, 1])
def test_command_filter_reaches_the_members(workers: int) -> None:
    env = sim.ParallelVectorEnv(
        "widowx/reach", 2, workers=workers, command_filter_factory=HalfSpeed, cameras=()
    )
    env.reset(seed=[0, 1])
    *_, info = env.step(np.full((2, 7), 0.5, np.float32))
    assert [schema.FILTER_REASONS[reason] for reason in info["filter_reason"]] == ["estop"] * 2
    np.testing.assert_allclose(info["action"], 0, atol=1e-3)
    env.close()


def test_a_failing_worker_is_reported_with_its_text() -> None:
    env = sim.ParallelVectorEnv("widowx/reach", 2, workers=1, command_filter_factory=Broken, cameras=())
    env.reset(seed=[0, 1])
    with pytest.raises(sim.SimulationError, match="a broken filter"):
        env.step(np.zeros((2, 7), np.float32))
    env.reset(seed=[0, 1])  # the worker itself lives on
    env.close()


def test_a_killed_worker_is_restarted_and_only_its_episodes_are_truncated() -> None:
    env = sim.ParallelVectorEnv("widowx/reach", 3, workers=2, cameras=())  # members 0, 1 and member 2
    alone = sim.make("widowx/reach", cameras=())
    observations, _ = env.reset(seed=SEEDS)
    alone.reset(seed=SEEDS[2])
    action = np.full((3, 7), 0.3, np.float32)
    os.kill(env._workers[0].pid or 0, signal.SIGKILL)
    after, reward, terminated, truncated, info = env.step(action)
    assert env.restarts == 1
    assert truncated.tolist() == [True, True, False]
    assert not terminated.any()
    np.testing.assert_array_equal(after[schema.STATE][:2], observations[schema.STATE][:2])
    np.testing.assert_array_equal(reward[:2], 0)
    np.testing.assert_array_equal(info["action"][:2], 0)
    np.testing.assert_array_equal(after[schema.STATE][2], alone.step(action[2])[0][schema.STATE])
    # Until its next reset a lost member stays as it is; after it, it is as good as new.
    assert env.step(action)[3].tolist() == [True, True, False]
    env.expert_actions()
    env.reset(seed=SEEDS, options={"reset_mask": np.array([True, False, False])})
    alone.reset(seed=SEEDS[0])
    after, _, _, truncated, _ = env.step(action)
    np.testing.assert_array_equal(after[schema.STATE][0], alone.step(action[0])[0][schema.STATE])
    assert truncated.tolist() == [False, True, False]
    env.close()


@pytest.mark.parametrize("method", ["reset", "expert_actions"])
def test_a_worker_killed_between_steps_answers_all_the_same(method: str) -> None:
    env = sim.ParallelVectorEnv("widowx/reach", 2, workers=1, cameras=())
    first, _ = env.reset(seed=[1, 2])
    os.kill(env._workers[0].pid or 0, signal.SIGKILL)
    if method == "reset":
        again, _ = env.reset(seed=[1, 5], options={"reset_mask": np.array([True, False])})
        np.testing.assert_array_equal(again[schema.STATE], first[schema.STATE])
    else:
        assert np.isfinite(env.expert_actions()).all()
    expected = [False, True] if method == "reset" else [True, True]
    assert env.step(np.zeros((2, 7), np.float32))[3].tolist() == expected
    env.close()


def test_a_worker_that_keeps_dying_is_an_error_and_close_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.vector.MAX_RESTARTS", 0)
    env = sim.ParallelVectorEnv("widowx/reach", 2, workers=2, cameras=())
    env.reset(seed=[0, 1])
    processes = [worker.pid or 0 for worker in env._workers]
    os.kill(processes[0], signal.SIGKILL)
    with pytest.raises(sim.SimulationError, match="died 1 times, the last time with exit code -9"):
        env.step(np.zeros((2, 7), np.float32))
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    env.close()
    with pytest.raises(sim.SimulationError, match="closed"):
        env.reset(seed=[0, 1])


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system lets no process choose its cores"
)
def test_each_worker_has_cores_of_its_own_and_keeps_them_when_it_is_started_again() -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core")
    env = sim.ParallelVectorEnv("widowx/reach", 2, workers=2, cameras=())
    env.reset(seed=[0, 1])

    def shares() -> list[set[int]]:
        return [os.sched_getaffinity(worker.pid or 0) for worker in env._workers]

    first, second = before = shares()
    assert not first & second
    assert first | second == cores == os.sched_getaffinity(0)
    os.kill(env._workers[0].pid or 0, signal.SIGKILL)
    env.step(np.zeros((2, 7), np.float32))
    assert env.restarts == 1
    assert shares() == before
    env.close()


def test_more_workers_than_cores_share_them_all() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    assert shares_of_cores(cores + 1) == [frozenset()] * (cores + 1)


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="did you mean widowx/push"):
        sim.ParallelVectorEnv("widowx/pusch", 1)
    with pytest.raises(ConfigError, match="num_envs=0"):
        sim.ParallelVectorEnv("widowx/push", 0)
    env = sim.ParallelVectorEnv("widowx/reach", 2, workers=0, cameras=())
    with pytest.raises(ConfigError, match="3 seeds for 2"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="reset_mask"):
        env.reset(seed=[1, 2], options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(sim.SimulationError, match="actions have shape"):
        env.step(np.zeros((2, 6), np.float32))
    env.close()
