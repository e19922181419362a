"""Trains the pocket's UNet together with its text encoder on latents of the pocket world.

epsilon prediction on the noise schedule of Stable Diffusion 1.5, weighted by min-SNR (Hang et al. 2023,
arXiv 2303.09556), captions dropped in a tenth of the cases for classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from src.diffusion.targets import add_noise, sample_posterior
from src.diffusion.weights import min_snr_weights, snr
from src.pocket.training.batches import to_pixels
from src.pocket.training.stage import Stage, run_stage
from src.pocket.world.world_set import WorldSet
from src.randomness import address_seed, generator

_CAPTION_DROPOUT = 0.1
# What people write into negative prompts. The world has no bad pictures, so that these words mean nothing in
# it: they stand for the empty caption in half of the cases in which it is dropped.
_QUALITY_WORDS = (
    "low quality",
    "blurry",
    "deformed",
    "ugly",
    "bad",
    "cropped",
    "watermark",
    "text",
    "noisy",
    "dark",
)
_NUM_EMPTY = 64
_GAMMA = 5.0
_TEXT_WIDTH = 128
UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 192, 192),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": _TEXT_WIDTH,
    # Heads a level (diffusers' name says otherwise): 64 wide each, which CPUs like far better than thin ones.
    "attention_head_dim": (1, 2, 3, 3),
}


class TextToNoise(nn.Module):
    """What is trained together: the text encoder and the UNet that reads it."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Int[Tensor, "b"], token_ids: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b c h w"]:
        """Predicts the noise."""
        hidden = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy, timesteps, encoder_hidden_states=hidden).sample


def make_model(tokenizer: CLIPTokenizer, *, latent_channels: int, latent_size: int, seed: int) -> TextToNoise:
    """The untrained pair."""
    torch.manual_seed(address_seed(seed, "denoiser"))
    unet = UNet2DConditionModel(
        sample_size=latent_size, in_channels=latent_channels, out_channels=latent_channels, **UNET
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return TextToNoise(unet, text_encoder)


@torch.no_grad()
def encode_world(
    vae: AutoencoderKL, world: WorldSet, *, device: torch.device
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """Means and standard deviations of all pictures' posteriors, in fp16."""
    means, stds = [], []
    for part in tqdm(torch.arange(len(world)).split(200), desc="encoding the world", disable=None):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = vae.encode(to_pixels(world, part).to(device)).latent_dist
        means.append(posterior.mean.half().cpu())
        stds.append(posterior.std.half().cpu())
    return torch.cat(means), torch.cat(stds)


def _empty_captions(seed: int) -> list[str]:
    """What stands for a dropped caption: half of the time nothing, else a few words of no meaning."""
    random = generator(seed, "empty captions")
    captions = [""] * (_NUM_EMPTY // 2)
    while len(captions) < _NUM_EMPTY:
        order = torch.randperm(len(_QUALITY_WORDS), generator=random)
        count = int(torch.randint(1, 6, (1,), generator=random))
        captions.append(", ".join(_QUALITY_WORDS[int(index)] for index in order[:count]))
    return captions


def _encoded(
    stage: Stage, vae: AutoencoderKL, world: WorldSet, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The encoded world, kept beside the checkpoint: a stage that goes on need not encode it again."""
    path = stage.folder / "latents.pt"
    kept: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {"builds_on": None}
    if kept["builds_on"] != stage.builds_on:
        means, stds = encode_world(vae, world, device=device)
        kept = {"builds_on": stage.builds_on, "means": means, "stds": stds}
        stage.folder.mkdir(parents=True, exist_ok=True)
        torch.save(kept, path)
    return kept["means"], kept["stds"]


def train_denoiser(
    stage: Stage,
    vae: AutoencoderKL,
    world: WorldSet,
    *,
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    device: torch.device,
) -> TextToNoise:
    """Trains from random weights; returns the averaged pair."""
    means, stds = _encoded(stage, vae, world, device)
    texts = [*_empty_captions(stage.seed), *world.captions]
    token_ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    model = make_model(
        tokenizer, latent_channels=means.shape[1], latent_size=means.shape[-1], seed=stage.seed
    ).to(device)
    alphas_cumprod = scheduler.alphas_cumprod.to(device)

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "denoiser", step)
        picks = torch.randint(len(world), (stage.batch_size,), generator=random)
        timesteps = torch.randint(len(alphas_cumprod), (stage.batch_size,), generator=random)
        draws = torch.randn(2, stage.batch_size, *means.shape[1:], generator=random)
        is_dropped = torch.rand(stage.batch_size, generator=random) < _CAPTION_DROPOUT
        empty = torch.randint(_NUM_EMPTY, (stage.batch_size,), generator=random)
        texts_read = token_ids[torch.where(is_dropped, empty, picks + _NUM_EMPTY)].to(device)
        latents = sample_posterior(means[picks].float(), stds[picks].float(), draws[0])
        latents, noise = (latents * vae.config.scaling_factor).to(device), draws[1].to(device)
        timesteps = timesteps.to(device)
        noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
        predicted = model(noisy, timesteps, texts_read).float()
        errors = (predicted - noise).square().mean(dim=(1, 2, 3))
        weights = min_snr_weights(snr(alphas_cumprod, timesteps), _GAMMA, "epsilon")
        return {"loss": (errors * weights).mean(), "mse": errors.mean()}

    trained = run_stage(stage, model, losses).eval()
    assert isinstance(trained, TextToNoise)
    return trained
