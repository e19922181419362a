"""The forward process and its targets against diffusers' own arithmetic."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from src.diffusion.loss import per_sample_loss
from src.diffusion.targets import add_noise, sample_posterior, training_target
from src.diffusion.weights import min_snr_weights, snr

TIMESTEPS = torch.tensor([0, 1, 250, 500, 998, 999])


@pytest.fixture(params=["scaled_linear", "zero_snr"])
def scheduler(request: pytest.FixtureRequest) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=request.param == "zero_snr",
    )


@pytest.fixture
def latents_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, 8, 8, generator=generator), torch.randn(6, 4, 8, 8, generator=generator)


def test_add_noise_equals_diffusers(scheduler, latents_and_noise) -> None:
    latents, noise = latents_and_noise
    ours = add_noise(latents, noise, TIMESTEPS, scheduler.alphas_cumprod)
    assert torch.equal(ours, scheduler.add_noise(latents, noise, TIMESTEPS))


def test_v_target_equals_diffusers(scheduler, latents_and_noise) -> None:
    latents, noise = latents_and_noise
    ours = training_target("v_prediction", latents, noise, TIMESTEPS, scheduler.alphas_cumprod)
    assert torch.equal(ours, scheduler.get_velocity(latents, noise, TIMESTEPS))


def test_epsilon_target_is_the_noise(scheduler, latents_and_noise) -> None:
    latents, noise = latents_and_noise
    assert torch.equal(training_target("epsilon", latents, noise, TIMESTEPS, scheduler.alphas_cumprod), noise)


def test_snr_equals_diffusers(scheduler) -> None:
    torch.testing.assert_close(
        snr(scheduler.alphas_cumprod, TIMESTEPS), compute_snr(scheduler, TIMESTEPS), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_equals_the_formula_of_the_diffusers_scripts(prediction_type) -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ratio = compute_snr(scheduler, TIMESTEPS)
    divisor = ratio if prediction_type == "epsilon" else ratio + 1
    expected = torch.stack([ratio, 5.0 * torch.ones_like(ratio)], dim=1).min(dim=1)[0] / divisor
    torch.testing.assert_close(min_snr_weights(ratio, 5.0, prediction_type), expected, rtol=1e-5, atol=0)


def test_min_snr_is_finite_where_the_signal_is_gone() -> None:
    weights = [min_snr_weights(torch.zeros(1), 5.0, kind).item() for kind in ("epsilon", "v_prediction")]
    assert weights == [1.0, 0.0]


def test_posterior_sample() -> None:
    mean, std, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1)
    assert sample_posterior(mean, std, noise).item() == 2.5


def test_loss_is_one_number_a_sample_in_fp32(latents_and_noise) -> None:
    latents, noise = latents_and_noise
    loss = per_sample_loss(latents.half(), noise.half())
    expected = torch.nn.functional.mse_loss(latents, noise, reduction="none").mean(dim=(1, 2, 3))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
