"""Distributions against torch's own, against sampling, and against their limits."""

from __future__ import annotations

import math

import pytest
import torch

from robot_rl.agents.distributions import ActionDistribution, Gaussian, TwoHotHistogram, sample
from robot_rl.data.two_hot import TwoHot

A, K = 3, 11


def gaussian(seed: int, rows: int = 5) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    return Gaussian(torch.rand(rows, A, generator=g) - 0.5, torch.randn(rows, A, generator=g) * 0.3 - 1)


def histogram(seed: int, rows: int = 5) -> TwoHotHistogram:
    g = torch.Generator().manual_seed(seed)
    return TwoHotHistogram(torch.randn(rows, A, K, generator=g), TwoHot(K))


def torch_normal(d: Gaussian) -> torch.distributions.Independent:
    return torch.distributions.Independent(torch.distributions.Normal(d.mean, d.log_std.exp()), 1)


def torch_categorical(d: TwoHotHistogram) -> torch.distributions.Independent:
    return torch.distributions.Independent(torch.distributions.Categorical(logits=d.log_p), 1)


def test_gaussian_agrees_with_torch() -> None:
    p, q = gaussian(0), gaussian(1)
    action = torch.randn(5, A, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(p.log_prob(action), torch_normal(p).log_prob(action))
    torch.testing.assert_close(p.entropy(), torch_normal(p).entropy())
    expected = torch.distributions.kl_divergence(torch_normal(p), torch_normal(q))
    torch.testing.assert_close(p.kl(q), expected)


def test_histogram_agrees_with_torch_up_to_the_bin_width() -> None:
    p, q = histogram(0), histogram(1)
    index = torch.randint(K, (5, A), generator=torch.Generator().manual_seed(2))
    log_width = A * math.log(2 / (K - 1))
    expected = torch_categorical(p).log_prob(index) - log_width
    torch.testing.assert_close(p.log_prob(p.centres[index]), expected)
    torch.testing.assert_close(p.entropy(), torch_categorical(p).entropy() + log_width)
    kl = torch.distributions.kl_divergence(torch_categorical(p), torch_categorical(q))
    torch.testing.assert_close(p.kl(q), kl)


def test_histogram_is_a_density_near_the_gaussian_it_imitates() -> None:
    """The two heads' log-probabilities are comparable: importance weights rely on it."""
    normal = Gaussian(torch.zeros(1, 1), torch.full((1, 1), -1.2))
    fine = TwoHot(81)
    centres = fine.centres(torch.zeros(()))
    p = TwoHotHistogram(normal.log_prob(centres[:, None]).view(1, 1, -1), fine)
    at = centres[30:50].view(-1, 1)
    torch.testing.assert_close(p.log_prob(at), normal.log_prob(at), atol=2e-3, rtol=0)
    torch.testing.assert_close(p.entropy(), normal.entropy(), atol=2e-2, rtol=0)


@pytest.mark.parametrize("make", [gaussian, histogram])
def test_samples_have_the_mean_and_the_entropy(make: type) -> None:
    one = make(3, rows=1)
    p: ActionDistribution
    if isinstance(one, Gaussian):
        p = Gaussian(one.mean.expand(40_000, A), one.log_std.expand(40_000, A))
    else:
        p = TwoHotHistogram(one.log_p.expand(40_000, A, K), TwoHot(K))
    drawn = sample(p, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), one.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(-p.log_prob(drawn).mean(), one.entropy()[0], atol=0.03, rtol=0)


@pytest.mark.parametrize("make", [gaussian, histogram])
def test_kl_of_a_distribution_to_itself_is_zero_and_otherwise_positive(make: type) -> None:
    p, q = make(0), make(1)
    torch.testing.assert_close(p.kl(p), torch.zeros(5), atol=1e-5, rtol=0)
    assert (p.kl(q) > 0).all()


def test_quantiles_are_finite_at_the_ends_and_inside_the_bins() -> None:
    for level in (0.0, 1.0):
        levels = torch.full((5, A), level)
        assert gaussian(0).quantile(levels).isfinite().all()
        assert histogram(0).quantile(levels).abs().max() <= 1


@pytest.mark.parametrize("head", ["gaussian", "histogram"])
def test_a_sample_has_a_gradient_and_its_value_is_unchanged_by_it(head: str) -> None:
    levels = torch.rand(5, A, generator=torch.Generator().manual_seed(0))
    raw = torch.randn(5, A, K, generator=torch.Generator().manual_seed(1), requires_grad=True)
    p = TwoHotHistogram(raw, TwoHot(K)) if head == "histogram" else Gaussian(raw[..., 0], raw[..., 1])
    drawn = p.quantile(levels)
    with torch.no_grad():
        torch.testing.assert_close(drawn, p.quantile(levels), rtol=0, atol=0)
    drawn.sum().backward()
    assert raw.grad is not None
    assert raw.grad.abs().sum() > 0


def test_kl_between_two_kinds_is_refused() -> None:
    with pytest.raises(TypeError, match="TwoHotHistogram"):
        gaussian(0).kl(histogram(0))
