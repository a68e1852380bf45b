"""The policy: its limits, its artifact, and acting in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.agents.distributions import Gaussian
from robot_rl.agents.policy import HEADS, ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.data import schema
from robot_rl.data.statistics import Statistics
from robot_rl.errors import ConfigError, DataError
from tests.agents.toys import seeing_episodes

EPISODES = seeing_episodes(2)


def make(head: str = "gaussian") -> ActorPolicy:
    config = PolicyConfig(2, 2, (16, 16), head=head, hidden=(16,))
    return ActorPolicy(config, Statistics.from_episodes(EPISODES))


def observations(count: int = 5) -> dict[str, np.ndarray]:
    return {key: value[:count] for key, value in EPISODES[0].observations.items()}


@pytest.mark.parametrize("head", HEADS)
def test_mean_and_spread_stay_within_their_limits(head: str) -> None:
    policy = make(head)
    distribution = policy(torch.randn(50, policy.feature_dim) * 100)
    assert distribution.mean.abs().max() <= 1
    if isinstance(distribution, Gaussian):
        std = distribution.log_std.exp()
        assert std.min() >= 0.01 * (1 - 1e-5)
        assert std.max() <= 1


def test_features_hold_the_normalised_state_and_survive_a_broken_sensor() -> None:
    policy = make()
    state = EPISODES[0].observations[schema.STATE]
    seen = Statistics.from_episodes(EPISODES).features[schema.STATE]
    expected = torch.from_numpy((state - seen.mean) / seen.scale).float()
    torch.testing.assert_close(policy.encode(EPISODES[0])[:, -2:], expected)
    blind = ActorPolicy(PolicyConfig(2, 2, None))
    assert blind.features({schema.STATE: torch.full((1, 2), 1e9)}).max() <= 10


@pytest.mark.parametrize("head", HEADS)
def test_saved_policy_acts_the_same(head: str, tmp_path: Path) -> None:
    policy = make(head)
    policy.save(tmp_path / "policy", {"task": "widowx/push"})
    loaded = ActorPolicy.load(tmp_path / "policy", {"task": "widowx/push", "image_shape": (16, 16)})
    assert loaded.config == policy.config
    assert loaded.statistics is not None
    for name, value in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    acted = [PolicyRunner(each).act(observations()) for each in (policy, loaded)]
    np.testing.assert_array_equal(*acted)


@pytest.mark.parametrize(("key", "value"), [("task", "widowx/reach"), ("state_dim", 7), ("head", "two_hot")])
def test_load_refuses_another_policy_by_name(key: str, value: object, tmp_path: Path) -> None:
    make().save(tmp_path / "policy", {"task": "widowx/push"})
    with pytest.raises(DataError, match=key):
        ActorPolicy.load(tmp_path / "policy", {key: value})


def test_load_refuses_a_changed_byte(tmp_path: Path) -> None:
    make().save(tmp_path / "policy", {})
    file = tmp_path / "policy" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        ActorPolicy.load(tmp_path / "policy")


@pytest.mark.parametrize("head", HEADS)
def test_an_episode_does_not_depend_on_its_batch(head: str) -> None:
    """Member 3 alone, as member 0 of one, draws what it drew among five; and a reset starts anew."""
    seen = observations()
    together = PolicyRunner(make(head), deterministic=False, seed=7)
    together.reset(np.ones(5, bool), np.arange(100, 105))
    first, second = together.act(seen), together.act(seen)
    assert not np.allclose(first, second)
    alone = PolicyRunner(make(head), deterministic=False, seed=7)
    alone.reset(np.ones(1, bool), np.array([103]))
    only = {key: value[3:4] for key, value in seen.items()}
    np.testing.assert_allclose(alone.act(only)[0], first[3], atol=1e-5)
    np.testing.assert_allclose(alone.act(only)[0], second[3], atol=1e-5)
    mask = np.arange(5) == 3
    together.reset(mask, np.full(5, 103))
    again = together.act(seen)
    np.testing.assert_allclose(again[3], first[3], atol=1e-5)
    assert not np.allclose(again[2], first[2])
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigError, match="two_hot"):
        PolicyConfig(2, 2, None, head="twohot")
    with pytest.raises(ConfigError, match="state_dim"):
        ActorPolicy(PolicyConfig(3, 2, None), Statistics.from_episodes(EPISODES))
    blind = seeing_episodes(1)[0]
    del blind.observations[schema.IMAGE]
    with pytest.raises(DataError, match="images"):
        make().encode(blind)
