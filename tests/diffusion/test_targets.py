"""The forward process and its targets against diffusers' own arithmetic."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from src.diffusion.loss import per_sample_loss
from src.diffusion.targets import add_noise, sample_posterior, training_target
from src.diffusion.weights import debiased_weights, min_snr_weights, snr

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


def test_debiased_weights_are_those_of_the_paper():
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ratio = compute_snr(scheduler, TIMESTEPS)
    expected = 1 / torch.minimum(ratio, torch.tensor(1000.0)).sqrt()
    torch.testing.assert_close(debiased_weights(ratio, "epsilon"), expected, rtol=1e-6, atol=0)
    assert ratio[0] > 1000, "the cap is tried as well"
    assert debiased_weights(torch.zeros(1), "v_prediction").item() == 0


@pytest.mark.parametrize(
    "weights",
    [lambda ratio, kind: min_snr_weights(ratio, 5.0, kind), debiased_weights],
    ids=["min_snr", "debiased"],
)
def test_the_weights_of_epsilon_and_v_are_the_same_weights_of_x_0(weights, latents_and_noise):
    """A denoiser that errs by the same in x_0 is told the same, whatever it predicts."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    timesteps = torch.tensor([100, 250, 400, 600, 800, 999])
    latents, noise = latents_and_noise
    alphas_cumprod = scheduler.alphas_cumprod.double()
    alpha = alphas_cumprod[timesteps][:, None, None, None] ** 0.5
    sigma = (1 - alpha**2) ** 0.5
    noisy = add_noise(latents.double(), noise.double(), timesteps, alphas_cumprod)
    wrong_latents = latents + 0.3
    wrong_noise = (noisy - alpha * wrong_latents) / sigma
    ratio = snr(alphas_cumprod, timesteps)
    losses = []
    for kind in ("epsilon", "v_prediction"):
        true = training_target(kind, latents.double(), noise.double(), timesteps, alphas_cumprod)
        guess = training_target(kind, wrong_latents.double(), wrong_noise, timesteps, alphas_cumprod)
        losses.append(weights(ratio, kind) * (guess - true).pow(2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)


def test_a_mask_of_ones_changes_no_bit(latents_and_noise):
    latents, noise = latents_and_noise
    plain = per_sample_loss(latents, noise)
    for weight in (0.0, 0.1, 0.7):
        assert torch.equal(
            per_sample_loss(latents, noise, torch.ones(6, 8, 8), unmasked_weight=weight), plain
        )


def test_a_masked_loss_is_the_weighted_mean_over_cells(latents_and_noise):
    latents, noise = latents_and_noise
    masks = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = per_sample_loss(latents, noise, masks, unmasked_weight=0.2)
    weights = 0.2 + 0.8 * masks
    for sample in range(6):
        error = (latents[sample] - noise[sample]).pow(2).mean(dim=0)
        expected = (weights[sample] * error).sum() / weights[sample].sum()
        torch.testing.assert_close(seen[sample], expected, rtol=1e-5, atol=0)


def test_a_mask_alone_hides_the_rest_and_an_empty_one_all(latents_and_noise):
    latents, noise = latents_and_noise
    masks = torch.zeros(6, 8, 8)
    masks[:5, 2:4, 3:6] = 1
    prediction = latents.clone().requires_grad_(True)
    loss = per_sample_loss(prediction, noise, masks)
    expected = (latents - noise)[:, :, 2:4, 3:6].pow(2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss[:5], expected[:5], rtol=1e-5, atol=0)
    assert loss[5] == 0
    loss.sum().backward()
    is_moved = prediction.grad.abs().sum(dim=1) > 0
    assert torch.equal(is_moved, masks > 0)


def test_a_crop_beside_the_object_is_not_learned_as_background(latents_and_noise):
    latents, noise = latents_and_noise
    masks = torch.zeros(6, 8, 8)
    masks[:5, 2:4, 3:6] = 1
    prediction = latents.clone().requires_grad_(True)
    loss = per_sample_loss(prediction, noise, masks, unmasked_weight=0.2)
    assert (loss > 0).tolist() == [True] * 5 + [False]
    loss.sum().backward()
    assert (prediction.grad[:5] != 0).all()
    assert not prediction.grad[5].any()
