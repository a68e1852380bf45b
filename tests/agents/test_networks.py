"""The networks' shapes, and that the fast ways equal the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robot_rl.agents.networks import MLP, CriticEnsemble, EncoderConfig, PixelEncoder, seeded
from robot_rl.errors import ConfigError


def critics(layer_norm: bool = True, bf16: bool = False) -> CriticEnsemble:
    with seeded(0):
        return CriticEnsemble(5, 2, members=4, hidden=(16, 12), layer_norm=layer_norm, bf16=bf16)


def inputs(batch: int = 6, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 5, generator=g), torch.rand(batch, count, 2, generator=g) * 2 - 1


@pytest.mark.parametrize("layer_norm", [True, False])
def test_ensemble_equals_its_members_one_by_one(layer_norm: bool) -> None:
    ensemble = critics(layer_norm)
    features, actions = inputs()
    together = ensemble(features, actions[:, 0])
    assert together.shape == (4, 6)
    for e in range(4):
        x = torch.cat([features, actions[:, 0]], -1)
        weights = [torch.cat([ensemble.of_features[e], ensemble.of_action[e]]), ensemble.weights[0][e]]
        for weight, bias in zip(weights, ensemble.biases, strict=True):
            x = x @ weight
            x = F.relu((F.layer_norm(x, x.shape[-1:]) if layer_norm else x) + bias[e])
        expected = x @ ensemble.last_weight[e, 0] + ensemble.last_bias[e]
        torch.testing.assert_close(together[e], expected)
        torch.testing.assert_close(ensemble(features, actions[:, 0], torch.tensor([e]))[0], together[e])


def test_several_actions_equal_one_after_the_other() -> None:
    ensemble = critics()
    features, actions = inputs()
    several = ensemble(features, actions, torch.tensor([2, 0]))
    assert several.shape == (2, 6, 3)
    for n in range(3):
        one = ensemble(features, actions[:, n], torch.tensor([2, 0]))
        torch.testing.assert_close(several[..., n], one)


def test_members_start_differently_and_only_chosen_ones_get_gradients() -> None:
    ensemble = critics()
    features, actions = inputs()
    q = ensemble(features, actions[:, 0])
    assert (q.std(0) > 0).all()
    ensemble(features, actions[:, 0], torch.tensor([1])).sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad is not None
        touched = parameter.grad.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [False, True, False, False]


def test_bfloat16_is_near_and_its_gradients_are_float32() -> None:
    features, actions = inputs()
    exact, rough = critics()(features, actions), critics(bf16=True)
    torch.testing.assert_close(rough(features, actions), exact, atol=0.03, rtol=0)
    rough(features, actions).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in rough.parameters())


def test_keypoints_follow_what_the_filters_see() -> None:
    """A white square moves by half the picture, and so does every keypoint that looks at it."""
    with seeded(0):
        encoder = PixelEncoder(EncoderConfig(), (64, 64))
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    images[0, 10:20, 10:20], images[1, 10:20, 42:52] = 255, 255
    with torch.no_grad():
        encoder.readout.log_temperature.fill_(-6.0)
        first, second = encoder(images)
    assert first.shape == (128,)
    columns, rows = second[:64] - first[:64], second[64:] - first[64:]
    follows = (columns - 1).abs() < 0.1
    assert follows.sum() > 10
    assert rows[follows].abs().median() < 0.02


@pytest.mark.parametrize("readout", ["keypoints", "flatten"])
@pytest.mark.parametrize("shape", [(64, 64), (37, 50)])
def test_encoder_takes_any_size(readout: str, shape: tuple[int, int]) -> None:
    encoder = PixelEncoder(EncoderConfig(readout=readout), shape)
    assert encoder(torch.zeros(2, *shape, 3, dtype=torch.uint8)).shape == (2, encoder.features)


def test_default_encoder_costs_less_than_five_million_multiplications() -> None:
    config, size, inputs_, cost = EncoderConfig(), 64, 3, 0
    for channels, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
        size //= stride
        cost += size**2 * channels * inputs_ * kernel**2
        inputs_ = channels
    assert cost < 5e6


def test_seeded_repeats_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    assert torch.equal(critics().of_action, critics().of_action)
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_name_the_choices() -> None:
    with pytest.raises(ConfigError, match="did you mean relu"):
        MLP(1, (2,), 1, activation="rel")
    with pytest.raises(ConfigError, match="keypoints"):
        EncoderConfig(readout="keypoint")
    with pytest.raises(ConfigError, match="odd"):
        EncoderConfig(kernels=(4, 3, 3, 1))
