from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl import torchvision_compat  # noqa: F401
from robot_rl.errors import ConfigError
from world_model.denoiser import (
    FrameDenoiser,
    WorldModelConfig,
    euler_sample,
    precondition,
    sigma_schedule,
    to_bytes,
    to_pixels,
)

from diffusers import EDMEulerScheduler  # isort: skip

SMALL = WorldModelConfig(history=2, channels=(16, 32), spatial_channels=4, precision="float32")


@settings(deadline=None)
@given(st.floats(0.002, 80), st.floats(0.05, 2))
def test_preconditioning_keeps_unit_variance(sigma: float, sigma_data: float) -> None:
    """Input and training target of F have variance 1 at every noise level (Karras et al., appendix B.6)."""
    c_skip, c_out, c_in, c_noise = precondition(torch.tensor(sigma, dtype=torch.float64), sigma_data)
    assert c_in**2 * (sigma_data**2 + sigma**2) == pytest.approx(1)
    # F* = (y - c_skip (y + sigma n)) / c_out
    assert ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2 == pytest.approx(1)
    assert c_noise == pytest.approx(torch.tensor(sigma, dtype=torch.float64).log() / 4)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0, 60.0])
def test_preconditioning_is_that_of_diffusers(sigma: float) -> None:
    scheduler = EDMEulerScheduler(sigma_data=0.5)
    level, x, output = torch.tensor(sigma), torch.randn(2, 3), torch.randn(2, 3)
    c_skip, c_out, c_in, c_noise = precondition(level, 0.5)
    torch.testing.assert_close(c_in * x, scheduler.precondition_inputs(x, level))
    torch.testing.assert_close(c_noise, scheduler.precondition_noise(level))
    torch.testing.assert_close(c_skip * x + c_out * output, scheduler.precondition_outputs(x, output, level))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_schedule_and_euler_step_are_those_of_diffusers(steps: int) -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=5.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(steps)
    sigmas = sigma_schedule(steps, 0.002, 5.0, 7.0)
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=1e-4, atol=1e-6)

    def network(scaled: torch.Tensor) -> torch.Tensor:
        return torch.tanh(3 * scaled) - 0.2

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        c_skip, c_out, c_in, _ = precondition(sigma[:, None], 0.5)
        return c_skip * x + c_out * network(c_in * x)

    noise = torch.randn(4, 6)
    theirs = noise * scheduler.sigmas[0]
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(theirs, timestep)
        theirs = scheduler.step(network(scaled), timestep, theirs).prev_sample
    torch.testing.assert_close(euler_sample(denoise, noise, sigmas), theirs, rtol=1e-3, atol=1e-3)


def test_sampler_recovers_a_gaussian() -> None:
    """With the ideal denoiser of N(mean, deviation^2) the samples have that mean and deviation."""
    mean, deviation = 0.3, 0.5

    def ideal(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        total = deviation**2 + sigma[:, None] ** 2
        return (deviation**2 * x + sigma[:, None] ** 2 * mean) / total

    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    samples = euler_sample(ideal, noise, sigma_schedule(300, 0.002, 80.0, 7.0))
    assert float(samples.mean()) == pytest.approx(mean, abs=0.02)
    assert float(samples.std()) == pytest.approx(deviation, abs=0.02)


def _awake(config: WorldModelConfig) -> FrameDenoiser:
    """A denoiser whose output is not the zero it starts with."""
    torch.manual_seed(0)
    denoiser = FrameDenoiser(config, (3, 32, 32), 7)
    torch.nn.init.normal_(denoiser.unet.conv_out.weight, std=0.1)
    return denoiser


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 20.0])
def test_output_is_finite_and_depends_on_noise_level_and_condition(sigma: float) -> None:
    denoiser = _awake(SMALL)
    history, x, condition = torch.rand(2, 2, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(2, 7)
    level = torch.full((2,), sigma)
    output = denoiser(x, level, history, condition)
    assert output.shape == x.shape
    assert torch.isfinite(output).all()
    assert not torch.allclose(output, denoiser(x, 1.5 * level, history, condition), atol=1e-4)
    assert not torch.allclose(output, denoiser(x, level, history, condition + 1), atol=1e-4)
    assert not torch.allclose(output, denoiser(x, level, history.flip(1), condition), atol=1e-4)


@pytest.mark.parametrize("target", ["absolute", "residual"])
def test_encode_and_decode_are_inverse(target: str) -> None:
    denoiser = FrameDenoiser(dataclasses.replace(SMALL, target=target), (3, 32, 32), 7)
    frame, last = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(denoiser.decode(denoiser.encode(frame, last), last), frame)


def test_only_initial_noise_makes_imagination_random() -> None:
    history, condition = torch.rand(2, 2, 3, 32, 32), torch.randn(2, 7)
    one, two = torch.randn(2, 2, 3, 32, 32)
    mean = _awake(SMALL)
    assert torch.equal(mean.sample(history, condition, one), mean.sample(history, condition, two))
    noisy = _awake(dataclasses.replace(SMALL, initial_noise=1.0))
    assert not torch.equal(noisy.sample(history, condition, one), noisy.sample(history, condition, two))


def test_loss_vanishes_for_the_true_network_output() -> None:
    """lambda c_out^2 = 1: an F that answers F* has loss 0 and its denoised frame is the true one."""
    denoiser = FrameDenoiser(dataclasses.replace(SMALL, mean_share=0.0), (3, 32, 32), 7)
    frame, history = torch.rand(3, 3, 32, 32), torch.rand(3, 2, 3, 32, 32)
    clean = denoiser.encode(frame, history[:, -1])

    def ideal(scaled: torch.Tensor, sigma: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        c_skip, c_out, c_in, _ = precondition(sigma[:, None, None, None], 0.5)
        return (clean - c_skip * scaled / c_in) / c_out

    denoiser.forward = ideal  # type: ignore[method-assign,assignment]
    weight, generator = torch.ones(3, 1, 32, 32), torch.Generator().manual_seed(0)
    loss, denoised = denoiser.loss(history, torch.zeros(3, 7), frame, weight, generator)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(denoised, frame, rtol=0, atol=1e-3)


def test_bytes_survive_the_way_to_pixels_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    torch.testing.assert_close(to_bytes(to_pixels(frames)), frames)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"action_encoding": "twohot"}, "did you mean two_hot"),
        ({"target": "delta"}, "absolute, residual"),
        ({"steps": 0}, "at least 1"),
        ({"channels": (30,)}, "multiples of 8"),
        ({"sigma_max": 0.001}, "sigma_min < sigma_max"),
    ],
)
def test_bad_configuration_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


def test_picture_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        SMALL.check_image(36, 32)
