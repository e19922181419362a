"""Trains the pocket's UNet together with its text encoder on latents of the pocket world, in two stages.

epsilon prediction on the noise schedule of Stable Diffusion 1.5, weighted by min-SNR (Hang et al. 2023,
arXiv 2303.09556), captions dropped in a tenth of the cases for classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from src.diffusion.targets import add_noise, sample_posterior
from src.diffusion.weights import min_snr_weights, snr
from src.pocket.make_models import save_text_encoder
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
_ALSO_SHARE = 0.5
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
        self, noisy: Float[Tensor, "b c h w"], timesteps: Int[Tensor, " b"], token_ids: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b c h w"]:
        """Predicts the noise."""
        hidden = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy, timesteps, encoder_hidden_states=hidden).sample

    def save(self, folder: Path) -> None:
        """Writes both parts into folders of their own."""
        self.unet.save_pretrained(folder / "unet")
        save_text_encoder(self.text_encoder, folder / "text_encoder")

    @classmethod
    def load(cls, folder: Path) -> TextToNoise:
        """Reads what `save` has written."""
        return cls(
            UNet2DConditionModel.from_pretrained(folder / "unet"),
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedWorld:
    """A world set as the VAE sees it.

    Attributes:
        means, stds: of all pictures' posteriors, in fp16.
        scale: the VAE's scaling factor, which is yet to be applied.
        captions: as they are.
    """

    means: Float[Tensor, "n c h w"]
    stds: Float[Tensor, "n c h w"]
    scale: float
    captions: list[str]


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


def encoded(
    path: Path, vae: AutoencoderKL, world: WorldSet, *, builds_on: str, device: torch.device
) -> EncodedWorld:
    """The encoded world, kept in a file: a stage that goes on need not encode it again.

    Args:
        path: of the file.
        vae: on the device.
        world: pictures and captions.
        builds_on: a digest of the world and the VAE; what was kept of others is made anew.
        device: for the VAE's work.
    """
    kept: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {"builds_on": None}
    if kept["builds_on"] != builds_on:
        means, stds = encode_world(vae, world, device=device)
        kept = {"builds_on": builds_on, "means": means, "stds": stds}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        torch.save(kept, partial)
        partial.replace(path)
    return EncodedWorld(
        means=kept["means"], stds=kept["stds"], scale=vae.config.scaling_factor, captions=world.captions
    )


def train_denoiser(
    stage: Stage,
    model: TextToNoise,
    world: EncodedWorld,
    *,
    also: EncodedWorld | None = None,
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    device: torch.device,
) -> TextToNoise:
    """Trains in place and returns the averaged pair.

    Args:
        stage: how.
        model: from random weights, or what an earlier stage handed over.
        world: what it is trained on.
        also: what half of the pictures are taken from instead.
        tokenizer: of the captions.
        scheduler: of the noise.
        device: to train on.
    """
    model.to(device)
    means, stds = world.means, world.stds
    captions = [*_empty_captions(stage.seed), *world.captions]
    if also is not None:
        means, stds = torch.cat([means, also.means]), torch.cat([stds, also.stds])
        captions += also.captions
    token_ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    alphas_cumprod = scheduler.alphas_cumprod.to(device)

    def picked(random: torch.Generator, first: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        if also is None:
            return first
        other = len(world.captions) + torch.randint(len(also.captions), first.shape, generator=random)
        return torch.where(torch.rand(first.shape, generator=random) < _ALSO_SHARE, other, first)

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "denoiser", step)
        picks = torch.randint(len(world.captions), (stage.batch_size,), generator=random)
        timesteps = torch.randint(len(alphas_cumprod), (stage.batch_size,), generator=random)
        draws = torch.randn(2, stage.batch_size, *means.shape[1:], generator=random)
        is_dropped = torch.rand(stage.batch_size, generator=random) < _CAPTION_DROPOUT
        empty = torch.randint(_NUM_EMPTY, (stage.batch_size,), generator=random)
        picks = picked(random, picks)
        texts_read = token_ids[torch.where(is_dropped, empty, picks + _NUM_EMPTY)].to(device)
        latents = sample_posterior(means[picks].float(), stds[picks].float(), draws[0])
        latents = (latents * world.scale).to(device)
        noise, timesteps = draws[1].to(device), timesteps.to(device)
        noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
        predicted = model(noisy, timesteps, texts_read).float()
        errors = (predicted - noise).square().mean(dim=(1, 2, 3))
        weights = min_snr_weights(snr(alphas_cumprod, timesteps), _GAMMA, "epsilon")
        return {"loss": (errors * weights).mean(), "mse": errors.mean()}

    trained = run_stage(stage, model, losses).eval()
    assert isinstance(trained, TextToNoise)
    return trained
