from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_rl.data import schema
from robot_rl.data.loader import IS_PAD, LoaderConfig, StepLoader
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from tests.data.make import episode


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    filled = EpisodeStore(tmp_path)
    filled.extend(episode(seed, steps=2 + seed) for seed in range(4))
    return filled


def test_every_step_is_the_episode_s(store: EpisodeStore) -> None:
    names = (schema.STATE, schema.IMAGE, "action", "reward", "terminated", "filter_reason")
    loader = StepLoader(store, LoaderConfig(names, verify=True))
    assert len(loader) == 2 + 3 + 4 + 5
    rows = loader.rows(np.arange(len(loader)))
    episodes = list(store)
    for name in names:
        expected = np.concatenate([e.arrays()[name][: len(e)] for e in episodes])
        assert rows[name].dtype == expected.dtype
        assert np.array_equal(rows[name], expected), name
    order = np.array([13, 0, 5, 5])
    assert np.array_equal(loader.rows(order)["action"], rows["action"][order])


def test_chunks_repeat_the_last_action(store: EpisodeStore) -> None:
    rows = StepLoader(store, LoaderConfig(chunk=3)).rows(np.array([3, 4, 13]))
    actions = store[1].action  # steps 2, 3, 4
    assert np.array_equal(rows["action"][0], actions[[1, 2, 2]])
    assert np.array_equal(rows["action"][1], actions[[2, 2, 2]])
    assert rows[IS_PAD].tolist() == [[False, False, True], [False, True, True], [False, True, True]]
    assert rows[schema.IMAGE].shape == (3, 8, 8, 3)


def test_samples_are_seeded_and_uniform(store: EpisodeStore) -> None:
    loader = StepLoader(store)
    first, second = (loader.sample(64, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    drawn = loader.sample(2800, np.random.default_rng(0))["action"][:, 0]
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(counts) == 14
    assert counts.min() > 120


def test_refusals(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown array 'rewrd'.*reward"):
        StepLoader(store, LoaderConfig(("rewrd",)))
    with pytest.raises(ConfigError, match=r"chunk=0"):
        LoaderConfig(chunk=0)
    with pytest.raises(DataError, match="holds no episodes"):
        StepLoader(EpisodeStore(tmp_path / "empty", create=True))
    file = tmp_path / "episode-000001.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"episode-000001.safetensors is truncated"):
        StepLoader(store)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    StepLoader(store)
    with pytest.raises(DataError, match=r"episode-000001.safetensors has content hash"):
        StepLoader(store, LoaderConfig(verify=True))
