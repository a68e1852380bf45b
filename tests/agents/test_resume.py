"""Every learner: stopped, saved, loaded into a fresh one, it goes on bit for bit as if never stopped."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.agents.bc import BCConfig, BCLearner
from robot_rl.agents.calql import CalQLConfig, CalQLLearner
from robot_rl.agents.inverse_dynamics import InverseDynamics, InverseDynamicsConfig, InverseDynamicsLearner
from robot_rl.agents.offline import OfflineLearner, OfflineTraining
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.agents.ppo import PPOConfig
from robot_rl.agents.rlpd import RLPD, RLPDConfig
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data.replay import ReplayBuffer, ReplayConfig
from robot_rl.trainers.imagined import RefineConfig, RefineLearner
from robot_rl.trainers.online import OnlineAgent
from robot_rl.trainers.protocols import Learner, Policy
from tests.agents.test_algorithms import MAKERS
from tests.agents.test_offline_online import lq_buffer, practise
from tests.agents.toys import PointToGoal, seeing_episodes

SAC_CONFIG = SACConfig(critics=3, hidden=(16,), learn_temperature=True, kl_weight=0.1, anchor_half_life=5)


class Practice:
    """An online agent with its own practice, as a learner."""

    total_updates = 6

    def __init__(self, agent: WSRL) -> None:
        self.agent = agent
        self.policy = self.agent.policy
        self.count = 0

    def update(self) -> dict[str, float]:
        practise(self.agent, 4, seed=self.count)
        self.count += 1
        return self.agent.learn(5)

    def state_dict(self) -> dict[str, Any]:
        return {"agent": self.agent.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.count = state["count"]


def bc() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), head="two_hot", hidden=(8,)))
    config = BCConfig(updates=6, batch=8, validate_every=2, warmup=3)
    return BCLearner(policy, seeing_episodes(4), config), policy


def refine() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(8,)))
    config = RefineConfig(
        iterations=6, horizon=10, select_every=2, ppo=PPOConfig(minibatch=16, value_warmup=1)
    )
    return RefineLearner(PointToGoal(8), policy, config), policy


def calql() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, None, head="two_hot", hidden=(8,)))
    config = CalQLConfig(sac=SAC_CONFIG, updates=6, batch=8, critic_only=2, conservative_critics=2)
    return CalQLLearner(policy, lq_buffer(50), config), policy


def wsrl() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, None, hidden=(8,)))
    return Practice(WSRL(policy, WSRLConfig(sac=SAC_CONFIG, batch=8))), policy


def rlpd() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, None, head="tanh_gaussian", hidden=(8,)))
    config = RLPDConfig(sac=SAC_CONFIG, batch=8, critic_steps=2, random_steps=10)
    return Practice(RLPD(policy, config, lq_buffer(50))), policy


def offline(name: str) -> tuple[Learner, ActorPolicy]:
    agent = MAKERS[name](ActorPolicy(PolicyConfig(2, 2, None, head="two_hot", hidden=(8,))))
    training = OfflineTraining(updates=6, batch=8, critic_only=1)
    return OfflineLearner(agent, lq_buffer(50), training), agent.policy


def lagrange() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, None, hidden=(8,)))
    config = CalQLConfig(sac=SAC_CONFIG, updates=6, batch=8, critic_only=2, target_gap=0.8)
    return CalQLLearner(policy, lq_buffer(50), config), policy


def shared_encoder() -> tuple[Learner, ActorPolicy]:
    policy = ActorPolicy(PolicyConfig(2, 2, (16, 16), language_dim=4, hidden=(8,)))
    agent = SAC(policy, dataclasses.replace(SAC_CONFIG, train_encoder=True, shift=1))
    buffer = ReplayBuffer(ReplayConfig(capacity=50))
    for episode in seeing_episodes(4):
        buffer.add_episode(agent.observe(episode), episode.action, episode.reward, episode.terminated)
    return OfflineLearner(agent, buffer, OfflineTraining(updates=6, batch=8)), policy


def inverse_dynamics() -> tuple[Learner, torch.nn.Module]:
    model = InverseDynamics(PolicyConfig(2, 2, (16, 16), hidden=(8,)))
    config = InverseDynamicsConfig(updates=6, batch=8)
    return InverseDynamicsLearner(model, seeing_episodes(4), config), model


ALGORITHMS = [partial(offline, name) for name in MAKERS]
EVERY = [bc, refine, calql, wsrl, rlpd, lagrange, shared_encoder, inverse_dynamics, *ALGORITHMS]


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by its path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}
    return {path: state}


@pytest.mark.parametrize("make", EVERY)
def test_resumed_run_equals_an_uninterrupted_one(make: Callable[[], tuple[Learner, torch.nn.Module]]) -> None:
    through, policy = make()
    expected = [through.update() for _ in range(6)]
    first, _ = make()
    measured = [first.update() for _ in range(3)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second, resumed_policy = make()
    second.load_state_dict(torch.load(file, weights_only=True))
    measured += [second.update() for _ in range(3)]
    assert measured == expected
    for name, value in policy.state_dict().items():
        assert torch.equal(resumed_policy.state_dict()[name], value), name
    ours, theirs = tensors(second.state_dict()), tensors(through.state_dict())
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name


@pytest.mark.parametrize("make", EVERY)
def test_saved_state_does_not_change_with_the_learner(
    make: Callable[[], tuple[Learner, torch.nn.Module]],
) -> None:
    """Two learners of one seed agree, so that nothing unseeded is drawn anywhere."""
    one, two = make()[0], make()[0]
    for _ in range(3):
        assert one.update() == two.update()


def test_protocols_are_met() -> None:
    for make in (bc, refine, calql):
        assert isinstance(make()[0], Learner)
    policy = ActorPolicy(PolicyConfig(2, 2, None))
    runner: Policy = PolicyRunner(policy)
    agent: OnlineAgent = WSRL(policy, WSRLConfig())
    runner.reset(np.ones(1, bool), np.zeros(1, np.int64))
    assert isinstance(agent.behaviour(), Policy)
