"""The written-out gradient of the ensemble: the plain form's numbers, and the numerical derivative."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from robot_rl.agents import fused
from robot_rl.agents.calql import CalQL, CalQLConfig
from robot_rl.agents.networks import CriticEnsemble, seeded
from tests.agents.test_offline_online import SMALL, make_batch, make_policy

HIDDEN = ((8,), (16, 8), (8, 8, 8))


def pair(
    hidden: tuple[int, ...], layer_norm: bool, bf16: bool = False
) -> tuple[CriticEnsemble, CriticEnsemble]:
    with seeded(0):
        plain = CriticEnsemble(3, 2, 4, hidden, layer_norm, bf16)
    other = copy.deepcopy(plain)
    other.fused = True
    return plain, other


def inputs(actions: int | None, states: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    shape = (states, 2) if actions is None else (states, actions, 2)
    return torch.randn(states, 3, generator=g), torch.randn(shape, generator=g)


@pytest.mark.parametrize("members", [None, torch.tensor([2, 0])])
@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_values_and_gradients_are_the_plain_ones(
    hidden: tuple[int, ...],
    layer_norm: bool,
    count: int | None,
    members: torch.Tensor | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "CHUNK", 7)  # several chunks, the last one shorter
    results = []
    for critic in pair(hidden, layer_norm):
        features, actions = (each.requires_grad_() for each in inputs(count))
        q = critic(features, actions, members)
        weight = torch.linspace(-1, 1, q.numel()).reshape(q.shape)
        (q.square() * weight).sum().backward()
        results.append((q.detach(), features.grad, actions.grad, *(p.grad for p in critic.parameters())))
    for one, two in zip(*results, strict=True):
        assert one is not None
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradient_is_the_numerical_derivative(layer_norm: bool) -> None:
    _, critic = pair((8, 8), layer_norm)
    critic.double()
    critic.dtype = torch.float64
    features, actions = (each.double().requires_grad_() for each in inputs(2, states=3))
    assert torch.autograd.gradcheck(lambda f, a: critic(f, a), (features, actions), atol=1e-5)


def test_bf16_is_the_plain_bf16_to_its_precision() -> None:
    plain, other = pair((16, 16), True, bf16=True)
    features, actions = inputs(3)
    torch.testing.assert_close(other(features, actions), plain(features, actions), rtol=2e-2, atol=2e-2)
    other(features, actions).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in other.parameters())


@pytest.mark.parametrize("use_fused", [True, False])
def test_frozen_critics_pass_the_gradient_and_keep_none(use_fused: bool) -> None:
    critic = pair((8, 8), True)[use_fused]
    features, actions = inputs(None)
    actions.requires_grad_()
    critic(features, actions, frozen=True).sum().backward()
    assert actions.grad is not None
    assert (actions.grad != 0).any()
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert not critic(features, actions.detach(), frozen=True).requires_grad


@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_smallest_critics_gradient_is_that_of_the_minimum(layer_norm: bool) -> None:
    plain, other = pair((8, 8), layer_norm)
    features, actions = (each.requires_grad_() for each in inputs(None, states=40))
    weight = torch.linspace(-1, 1, 40)
    grads = []
    for critic in (plain, other):
        q = critic.smallest(features, actions)
        torch.testing.assert_close(q, plain(features, actions).amin(0))
        grads.append(torch.autograd.grad((q * weight).sum(), (features, actions)))
    torch.testing.assert_close(grads[1], grads[0])
    assert all(parameter.grad is None for parameter in other.parameters())


def test_training_with_it_is_training_without_it() -> None:
    """Fifty updates of Cal-QL stay together to float32 rounding."""
    critics = []
    for use_fused in (False, True):
        sac = dataclasses.replace(SMALL, fused=use_fused, critic_lr=1e-3, actor_lr=1e-3)
        agent = CalQL(make_policy("tanh_gaussian"), CalQLConfig(sac=sac, actions=2))
        for seed in range(50):
            agent.update(make_batch(seed=seed))
        critics.append(agent.critic(*inputs_of(make_batch())))
    torch.testing.assert_close(critics[1], critics[0], rtol=1e-2, atol=1e-2)


def inputs_of(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["features"], batch["action"]
