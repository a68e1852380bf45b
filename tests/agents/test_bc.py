"""Behaviour cloning learns what only the picture tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robot_rl.agents.bc import BCConfig, BCLearner, baselines, evaluate_mse, predict
from robot_rl.agents.policy import HEADS, ActorPolicy, PolicyConfig
from robot_rl.data import Episode, schema
from robot_rl.data.augmentation import AugmentationConfig
from robot_rl.errors import ConfigError, DataError
from tests.agents.toys import metadata, seeing_episodes


@pytest.mark.parametrize("head", HEADS)
def test_clone_generalises_to_unseen_pictures(head: str) -> None:
    train, test = seeing_episodes(60), seeing_episodes(10, seed=1)
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), head=head, hidden=(64, 64)))
    learner = BCLearner(
        policy, train, BCConfig(updates=250, batch=48, lr=3e-3, augmentation=AugmentationConfig())
    )
    history = [learner.update() for _ in range(learner.total_updates)]
    assert evaluate_mse(policy, test) < 0.2 * min(baselines(train, test).values())
    assert history[-1]["nll"] < history[0]["nll"] - 1


def test_policy_holds_the_average_of_the_weights() -> None:
    def train(ema: float) -> tuple[ActorPolicy, dict[str, torch.Tensor]]:
        policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
        learner = BCLearner(policy, seeing_episodes(4), BCConfig(updates=20, batch=8, ema=ema))
        for _ in range(20):
            learner.update()
        return policy, learner.state_dict()["raw"]

    (averaged, raw), (last, raw_again) = train(0.99), train(0.0)
    assert all(torch.equal(raw[name], raw_again[name]) for name in raw)  # averaging changes no training
    assert all(torch.equal(last.state_dict()[name], raw[name]) for name in raw)
    assert not torch.equal(averaged.trunk[0].weight, raw["trunk.0.weight"])


def test_state_noise_keeps_the_clone_from_reading_the_answer_in_the_state() -> None:
    """The state says which step of which episode it is; with noise only the picture is left to read."""
    train, test = seeing_episodes(4), seeing_episodes(10, seed=1)
    errors = {}
    for noise in (0.0, 2.0):
        for episodes in (train, test):
            for number, episode in enumerate(episodes):
                rows = len(episode.observations[schema.STATE])
                episode.observations[schema.STATE][:] = np.random.default_rng([number, rows]).normal(
                    size=(rows, 2)
                )
        policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(64, 64)))
        config = BCConfig(
            updates=300, batch=24, lr=3e-3, augmentation=AugmentationConfig(), state_noise=noise
        )
        learner = BCLearner(policy, train, config)
        for _ in range(config.updates):
            learner.update()
        errors[noise] = evaluate_mse(policy, test)
    assert errors[2.0] < 0.8 * errors[0.0]


def test_validation_episodes_are_held_out_and_measured() -> None:
    episodes = seeing_episodes(10)
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
    learner = BCLearner(policy, episodes, BCConfig(updates=2, holdout=0.3, validate_every=2))
    assert len(learner.validation) == 3
    assert len(learner.frames) == 7 * 6
    assert "validation_mse" not in learner.update()
    measured = learner.update()["validation_mse"]
    assert measured == pytest.approx(evaluate_mse(policy, learner.validation), rel=1e-4)


def test_baselines_by_hand() -> None:
    def episode(actions: list[float]) -> Episode:
        state = np.zeros((len(actions) + 1, 1), np.float32)
        return Episode.from_steps({schema.STATE: state}, np.array(actions, np.float32)[:, None], metadata())

    result = baselines([episode([0.0, 0.5])], [episode([0.25, 0.75])])
    assert result["mean_action"] == pytest.approx(0.125)  # (0, .5)
    assert result["last_action"] == pytest.approx(0.125)  # (.25 after the mean .25, .75 after .25)
    assert baselines([episode([0.0])], [episode([1.0, 1.0])])["last_action"] == pytest.approx(0.5)


def test_prediction_ignores_the_final_observation() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
    assert predict(policy, seeing_episodes(1)[0]).shape == (6, 2)


def test_wrong_input_is_named() -> None:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16)))
    with pytest.raises(DataError, match="collect"):
        BCLearner(policy, [], BCConfig())
    blind = seeing_episodes(1)[0]
    del blind.observations[schema.IMAGE]
    with pytest.raises(DataError, match="images"):
        BCLearner(policy, [blind], BCConfig())
    with pytest.raises(ConfigError, match="ema=1"):
        BCConfig(ema=1.0)
    with pytest.raises(ConfigError, match="state_noise=-1"):
        BCConfig(state_noise=-1)
