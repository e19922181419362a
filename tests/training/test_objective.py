"""The loss of one batch against diffusers' own arithmetic with the same latents, noise and timesteps."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from src.data.order import Draw
from src.diffusion.noise import addressed_noise
from src.diffusion.timesteps import TimestepSampling, addressed_timesteps
from src.training.objective import Objective
from tests.training.golden import ZERO_SNR
from tests.training.tiny import ALPHAS_CUMPROD, TinyDenoiser, make_dataset, make_masks, tokenize

CPU = torch.device("cpu")


def _scheduler(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
    )


def _objective(**settings) -> Objective:
    defaults = {
        "prediction_type": "epsilon",
        "alphas_cumprod": ALPHAS_CUMPROD,
        "min_snr_gamma": 5.0,
        "seed": 3,
        "tokenize": tokenize,
    }
    return Objective(**(defaults | settings))


def _batch(records, *, weights=None, text=True, pass_number=1, masks=None):
    draws = [Draw(id=record.id, pass_number=pass_number) for record in records]
    return make_dataset(records, text=text, masks=masks).batch(draws, weights or [1.0] * len(draws))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_equals_the_reference_arithmetic(records, prediction_type, gamma) -> None:
    scheduler, denoiser = _scheduler(prediction_type), TinyDenoiser(dropout=0.0)
    batch = _batch(records)
    objective = _objective(
        prediction_type=prediction_type, alphas_cumprod=scheduler.alphas_cumprod, min_snr_gamma=gamma
    )
    loss = objective(denoiser, batch, device=CPU)

    address = (batch.ids, batch.pass_numbers, batch.draws)
    posterior = addressed_noise(*address, seed=3, shape=(4, 8, 8), purpose="posterior")
    noise = addressed_noise(*address, seed=3, shape=(4, 8, 8), purpose="noise")
    timesteps = addressed_timesteps(*address, seed=3, num_train_timesteps=1000)
    latents = batch.mean + batch.std * posterior
    prediction = denoiser(
        scheduler.add_noise(latents, noise, timesteps),
        timesteps,
        hidden=batch.embeddings.hidden,
        original_sizes=batch.original_sizes,
        crop_top_lefts=batch.crop_top_lefts,
        target_sizes=batch.target_sizes,
    )
    is_epsilon = prediction_type == "epsilon"
    target = noise if is_epsilon else scheduler.get_velocity(latents, noise, timesteps)
    expected = torch.nn.functional.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3))
    if gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        divisor = snr if is_epsilon else snr + 1
        expected = expected * torch.minimum(snr, torch.full_like(snr, gamma)) / divisor
    torch.testing.assert_close(loss.total, expected.sum(), rtol=1e-5, atol=0)
    assert torch.equal(loss.timesteps, timesteps)


@pytest.mark.parametrize(
    ("masked", "settings"),
    [
        (False, {}),
        (True, {"noise_offset": 0.1, "min_snr_gamma": None, "is_debiased": True, "unmasked_weight": 0.1}),
        (False, {"timesteps": TimestepSampling(distribution="logit_normal", first=10, end=90)}),
    ],
)
def test_a_samples_loss_does_not_depend_on_its_batch(records, masked, settings) -> None:
    denoiser, masks = TinyDenoiser(dropout=0.0), make_masks(records) if masked else None
    objective = _objective(**settings)
    together = objective(denoiser, _batch(records, masks=masks), device=CPU).per_sample
    for index, record in enumerate(records):
        alone = objective(denoiser, _batch([record], masks=masks), device=CPU).per_sample
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=0)
    other_pass = objective(denoiser, _batch(records, pass_number=2, masks=masks), device=CPU).per_sample
    assert not torch.allclose(other_pass, together, rtol=1e-2)


@pytest.mark.parametrize("weighting", [{"min_snr_gamma": 5.0}, {"min_snr_gamma": None, "is_debiased": True}])
def test_all_is_finite_where_the_signal_is_gone(records, weighting) -> None:
    denoiser = TinyDenoiser(dropout=0.0)
    last = TimestepSampling(first=99)
    objective = _objective(
        prediction_type="v_prediction", alphas_cumprod=ZERO_SNR, timesteps=last, **weighting
    )
    loss = objective(denoiser, _batch(records), device=CPU)
    assert set(loss.timesteps.tolist()) == {99}
    assert loss.total.item() == 0, "both weigh the error of x_0, of which nothing can be known"
    assert loss.per_sample.isfinite().all()
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in denoiser.parameters() if p.grad is not None)
    unweighted = _objective(
        prediction_type="v_prediction", alphas_cumprod=ZERO_SNR, timesteps=last, min_snr_gamma=None
    )
    assert unweighted(denoiser, _batch(records), device=CPU).total.item() > 0


def test_padding_counts_nothing(records) -> None:
    denoiser = TinyDenoiser(dropout=0.0)
    padded = _batch([*records[:3], records[0]], weights=[1.0, 1.0, 1.0, 0.0])
    plain = _objective()(denoiser, _batch(records[:3]), device=CPU).total
    torch.testing.assert_close(_objective()(denoiser, padded, device=CPU).total, plain, rtol=1e-5, atol=0)


def test_captions_are_tokenized_where_no_embeddings_are_given(records) -> None:
    denoiser = TinyDenoiser(dropout=0.0)
    loss = _objective()(denoiser, _batch(records, text=False), device=CPU)
    loss.total.backward()
    assert denoiser.table.weight.grad.abs().sum() > 0
