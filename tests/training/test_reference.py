"""The loss of one batch of a real UNet against the arithmetic of diffusers' own training scripts.

What train_text_to_image_lora(.py, _sdxl.py) and train_dreambooth_lora do with latents, noise and timesteps:
`DDPMScheduler.add_noise`, `get_velocity`, `compute_snr`, and for SDXL the two encoders' last hidden states but one
with the pooled text and the six numbers of sizes. Written out here with their own calls.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from src.data.encode import EncodedDataset
from src.data.order import Draw
from src.diffusion.noise import addressed_noise
from src.models.load import load_model
from src.training.objective import Objective
from tests.training.tiny import make_images

SEED = 4


@pytest.fixture(scope="module")
def model(pocket):
    return load_model(str(pocket))


@pytest.fixture(scope="module")
def batch(model, tmp_path_factory):
    records = make_images(tmp_path_factory.mktemp("reference"), 3)
    dataset = EncodedDataset(
        records,
        hashes={record.id: record.id for record in records},
        sizes={record.id: (72, 56) for record in records},
        crop="random",
        seed=0,
        encode_images=model.encode_images,
        encode_text=model.encode_prompts,
    )
    return dataset.batch([Draw(id=record.id, pass_number=2) for record in records], [1.0] * 3)


def _text(model, captions: list[str]) -> tuple[Tensor, Tensor | None]:
    hidden, pooled = [], None
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders.values(), strict=True):
        ids = tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        if model.architecture == "sd15":
            return encoder(ids)[0], None
        output = encoder(ids, output_hidden_states=True)
        pooled = output[0]
        hidden.append(output.hidden_states[-2])
    return torch.cat(hidden, dim=-1), pooled


def _unet(model, noisy: Tensor, timesteps: Tensor, batch) -> Tensor:
    hidden, pooled = _text(model, batch.captions)
    if pooled is None:
        return model.unet(noisy, timesteps, hidden).sample
    time_ids = torch.stack(
        [
            torch.cat([batch.original_sizes[i], batch.crop_top_lefts[i], batch.target_sizes[i]])
            for i in range(len(noisy))
        ]
    )
    added = {"text_embeds": pooled, "time_ids": time_ids}
    return model.unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize(
    ("kind", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
@torch.no_grad()
def test_the_loss_is_that_of_diffusers_scripts(model, batch, kind, zero_snr, gamma, offset) -> None:
    scheduler = DDPMScheduler.from_config(
        model.scheduler_config, prediction_type=kind, rescale_betas_zero_snr=zero_snr
    )
    model.schedule.use(prediction_type=kind, zero_terminal_snr=zero_snr)
    objective = Objective(
        prediction_type=model.prediction_type,
        alphas_cumprod=model.alphas_cumprod,
        min_snr_gamma=gamma,
        noise_offset=offset,
        seed=SEED,
        tokenize=model.tokenize,
    )
    loss = objective(model.denoiser, batch, device=torch.device("cpu"))
    timesteps = loss.timesteps

    address = (batch.ids, batch.pass_numbers, batch.draws)
    shape = batch.mean.shape[1:]
    latents = batch.mean + batch.std * addressed_noise(*address, seed=SEED, shape=shape, purpose="posterior")
    noise = addressed_noise(*address, seed=SEED, shape=shape, purpose="noise")
    if offset:
        noise += offset * addressed_noise(*address, seed=SEED, shape=(4, 1, 1), purpose="noise_offset")
    prediction = _unet(model, scheduler.add_noise(latents, noise, timesteps), timesteps, batch)
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    if gamma is None:
        expected = F.mse_loss(prediction.float(), target.float(), reduction="mean")
    else:
        snr = compute_snr(scheduler, timesteps)
        weights = torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
        weights = weights / (snr if kind == "epsilon" else snr + 1)
        error = F.mse_loss(prediction.float(), target.float(), reduction="none")
        expected = (error.mean(dim=list(range(1, len(error.shape)))) * weights).mean()
    torch.testing.assert_close(loss.total / 3, expected, rtol=1e-5, atol=0)


@torch.no_grad()
def test_prior_preservation_is_that_of_diffusers_script(model, batch) -> None:
    """train_dreambooth_lora: the mean over the instances + weight * the mean over the class images."""
    model.schedule.use(prediction_type="auto", zero_terminal_snr=False)
    objective = Objective(
        prediction_type="epsilon",
        alphas_cumprod=model.alphas_cumprod,
        min_snr_gamma=None,
        seed=SEED,
        tokenize=model.tokenize,
    )
    seen, expected = [], []
    for part in (batch, replace(batch, pass_numbers=[9] * 3)):
        loss = objective(model.denoiser, part, device=torch.device("cpu"))
        address, shape = (part.ids, part.pass_numbers, part.draws), part.mean.shape[1:]
        posterior = addressed_noise(*address, seed=SEED, shape=shape, purpose="posterior")
        noise = addressed_noise(*address, seed=SEED, shape=shape, purpose="noise")
        noisy = model.noise_scheduler.add_noise(part.mean + part.std * posterior, noise, loss.timesteps)
        expected.append(F.mse_loss(_unet(model, noisy, loss.timesteps, part), noise, reduction="mean"))
        seen.append(loss.total / 3)
    assert seen[0] != pytest.approx(seen[1].item(), rel=1e-3)
    torch.testing.assert_close(seen[0] + 0.8 * seen[1], expected[0] + 0.8 * expected[1], rtol=1e-5, atol=0)
