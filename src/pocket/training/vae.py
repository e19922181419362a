"""Trains the pocket's VAE: pictures of 64 x 64 to latents of 8 x 16 x 16 and back.

L1 and the L1 of image gradients instead of a perceptual loss, which would need a trained network of its own,
and a KL term so weak that it hardly costs sharpness (Rombach et al. 2022, arXiv 2112.10752, appendix G, weigh
it no more).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from src.pocket.training.batches import to_pixels
from src.pocket.training.stage import Stage, run_stage
from src.pocket.world.world_set import WorldSet
from src.randomness import address_seed, generator

_KL_WEIGHT = 1e-8
_GRADIENT_WEIGHT = 1.0
_INITIAL_LOG_VARIANCE = -6.0
CONFIG: dict[str, Any] = {
    "block_out_channels": (32, 32, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    # Twice as many as Stable Diffusion 1.5: at 64 pixels there is little to leave out.
    "latent_channels": 8,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "force_upcast": False,
}


def train_vae(stage: Stage, world: WorldSet, *, device: torch.device) -> AutoencoderKL:
    """Trains from random weights and returns the averaged VAE with its scaling factor set."""
    torch.manual_seed(address_seed(stage.seed, "vae"))
    vae = AutoencoderKL(sample_size=world.pixels.shape[1], **CONFIG)
    _quieten(vae)
    vae.to(device).train()

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "vae", step)
        picks = torch.randint(len(world), (stage.batch_size,), generator=random)
        images = _recoloured(to_pixels(world, picks), random).to(device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random).to(device)
        parts = _differences(vae.decode(posterior.mean + posterior.std * noise).sample.float(), images)
        kl = posterior.kl().mean()
        return {**parts, "loss": parts["loss"] + _KL_WEIGHT * kl, "kl": kl}

    trained = run_stage(stage, vae, losses).eval()
    assert isinstance(trained, AutoencoderKL)
    trained.register_to_config(scaling_factor=float(f"{1 / latent_spread(trained, world, device):.4g}"))
    return trained


def train_decoder(
    stage: Stage, vae: AutoencoderKL, world: WorldSet, also: WorldSet, *, device: torch.device
) -> AutoencoderKL:
    """Trains the decoder on, in place, and returns the averaged VAE. Its latents stay what they were, so that
    what was trained on them still fits.

    Args:
        stage: how.
        vae: as `train_vae` left it.
        world: pictures.
        also: what half of the pictures are taken from instead.
        device: to train on.
    """
    vae.to(device).train().requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    half = stage.batch_size // 2

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "decoder", step)
        counts = ((world, stage.batch_size - half), (also, half))
        pixels = [to_pixels(each, torch.randint(len(each), (num,), generator=random)) for each, num in counts]
        images = torch.cat([_recoloured(part, random) for part in pixels]).to(device)
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random).to(device)
        return _differences(vae.decode(posterior.mean + posterior.std * noise).sample.float(), images)

    trained = run_stage(stage, vae, losses).eval().requires_grad_(True)
    assert isinstance(trained, AutoencoderKL)
    return trained


def _differences(decoded: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
    l1, gradient = (decoded - images).abs().mean(), _gradient_loss(decoded, images)
    return {"loss": l1 + _GRADIENT_WEIGHT * gradient, "l1": l1, "gradient": gradient}


def _recoloured(images: Float[Tensor, "b 3 s s"], random: torch.Generator) -> Float[Tensor, "b 3 s s"]:
    """A quarter of the images with red, green and blue exchanged: to carry colours that the world lacks."""
    orders = torch.arange(3).repeat(len(images), 1)
    count = len(images) // 4
    orders[:count] = torch.rand(count, 3, generator=random).argsort(dim=1)
    return images.gather(1, orders[:, :, None, None].expand_as(images))


def _gradient_loss(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """The mean absolute difference of differences between neighbouring pixels: sharp edges stay sharp."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


@torch.no_grad()
def _quieten(vae: AutoencoderKL) -> None:
    """Starts with nearly no noise in the latents. With the default, as much as there is signal, some channels
    are given up in the first minutes and never used again."""
    convolution, channels = vae.quant_conv, vae.config.latent_channels
    assert convolution is not None
    assert convolution.bias is not None
    convolution.weight[channels:] *= 0.0
    convolution.bias[channels:] = _INITIAL_LOG_VARIANCE


@torch.no_grad()
def latent_spread(vae: AutoencoderKL, world: WorldSet, device: torch.device) -> float:
    """The latents' standard deviation over a thousand pictures."""
    picks = torch.randperm(len(world), generator=generator(0, "spread"))[:1000]
    latents = [
        vae.encode(to_pixels(world, part).to(device)).latent_dist.mean.cpu() for part in picks.split(100)
    ]
    return torch.cat(latents).std().item()
