"""The diffusion policy: it clones, keeps two ways apart, repeats itself, and comes back from a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.agents.bc import BCConfig
from robot_rl.agents.diffusion_policy import (
    DiffusionBCLearner,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    DiffusionRunner,
    chunks,
)
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.data import Episode, schema
from robot_rl.errors import ConfigError, DataError
from tests.agents.toys import metadata

CONFIG = DiffusionPolicyConfig(
    PolicyConfig(2, 1, None), chunk=3, execute=2, hidden=(64, 64), levels=20, steps=5
)
BC = BCConfig(updates=300, batch=64, lr=3e-3, ema=0.98, warmup=10)


def _two_ways(count: int = 20) -> list[Episode]:
    """Every state is left to the left (-.8) or to the right (.8), and the episode stays with it."""
    rng = np.random.default_rng(0)
    return [
        Episode.from_steps(
            {schema.STATE: rng.normal(size=(9, 2)).astype(np.float32)},
            np.full((8, 1), 0.8 if number % 2 else -0.8, np.float32),
            metadata(number),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def learned() -> DiffusionPolicy:
    learner = DiffusionBCLearner(DiffusionPolicy(CONFIG), _two_ways(), BC)
    for _ in range(learner.total_updates):
        learner.update()
    return learner.policy


def _act(policy: DiffusionPolicy, steps: int = 2, members: int = 40) -> np.ndarray:
    runner = DiffusionRunner(policy)
    runner.reset(np.ones(members, bool), np.arange(members))
    state = {schema.STATE: np.zeros((members, 2), np.float32)}
    return np.stack([runner.act(state)[:, 0] for _ in range(steps)])


def test_two_ways_stay_two_where_a_gaussian_would_go_between(learned: DiffusionPolicy) -> None:
    actions = _act(learned)
    assert (np.abs(np.abs(actions) - 0.8) < 0.25).mean() > 0.9
    assert 0.1 < (actions[0] > 0).mean() < 0.9
    assert (np.sign(actions[0]) == np.sign(actions[1])).mean() > 0.9  # of one chunk


def test_same_seeds_give_the_same_actions_whoever_shares_the_batch(learned: DiffusionPolicy) -> None:
    np.testing.assert_array_equal(_act(learned), _act(learned))
    np.testing.assert_allclose(_act(learned, members=3), _act(learned)[:, :3], atol=1e-5)


def test_saved_and_loaded_it_acts_alike_and_is_not_taken_for_another(
    learned: DiffusionPolicy, tmp_path: Path
) -> None:
    learned.save(tmp_path / "policy", {"task": "toy"})
    np.testing.assert_array_equal(_act(DiffusionPolicy.load(tmp_path / "policy")), _act(learned))
    with pytest.raises(DataError, match="diffusion_policy"):
        ActorPolicy.load(tmp_path / "policy")
    with pytest.raises(DataError, match="task"):
        DiffusionPolicy.load(tmp_path / "policy", {"task": "other"})


def test_a_resumed_run_equals_an_uninterrupted_one() -> None:
    whole, first, second = (DiffusionBCLearner(DiffusionPolicy(CONFIG), _two_ways(4), BC) for _ in range(3))
    expected = [whole.update() for _ in range(4)]
    for _ in range(2):
        first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second.update() for _ in range(2)] == expected[2:]


def test_chunks_repeat_the_last_action_past_the_end() -> None:
    episode = _two_ways(1)[0]
    episode.action[:, 0] = np.linspace(0, 0.7, 8)
    found = chunks(episode, 3)[..., 0]
    assert found[0].tolist() == pytest.approx([0, 0.1, 0.2])
    assert found[-1].tolist() == pytest.approx([0.7] * 3)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="execute=5 of chunk=4"):
        DiffusionPolicyConfig(execute=5)
    with pytest.raises(ConfigError, match=r"bc.policy 'difusion'.*diffusion"):
        BCConfig(policy="difusion")
    with pytest.raises(DataError, match="no episodes"):
        DiffusionBCLearner(DiffusionPolicy(CONFIG), [], BC)
