"""Gaussian noise that belongs to a sample, not to a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from src.randomness import generator


def addressed_noise(
    ids: Sequence[str],
    pass_numbers: Sequence[int],
    draws: Sequence[int],
    *,
    seed: int,
    shape: Sequence[int],
    purpose: str,
) -> Float[Tensor, "b ..."]:
    """Standard normal noise, one addressed draw a sample: independent of batch, rank and step.

    Args:
        ids: stable names of the samples.
        pass_numbers: the pass over the data in which each is drawn.
        draws: which draw within the pass.
        seed: the run's seed.
        shape: of one sample's noise, without the batch dimension.
        purpose: what the noise is for, so that two uses never share their numbers.

    Returns:
        fp32 noise on the CPU, where the numbers are the same whatever the device.
    """
    return torch.stack(
        [
            torch.randn(tuple(shape), generator=generator(seed, purpose, pass_number, sample_id, draw))
            for sample_id, pass_number, draw in zip(ids, pass_numbers, draws, strict=True)
        ]
    )


def offset_noise(
    noise: Float[Tensor, "b c h w"],
    ids: Sequence[str],
    pass_numbers: Sequence[int],
    draws: Sequence[int],
    *,
    seed: int,
    strength: float,
) -> Float[Tensor, "b c h w"]:
    """Noise that also moves each channel as a whole: epsilon + strength * delta, delta ~ N(0, 1) per channel.

    White noise hardly changes a picture's mean, so that a model learns to keep the brightness it is given,
    and cannot draw very dark or very bright pictures (Guttenberg 2023, "Diffusion with Offset Noise",
    crosslabs.org/blog/diffusion-with-offset-noise). The result takes the place of epsilon everywhere, in the
    target as well.

    Args:
        noise: from `addressed_noise`.
        ids: see `addressed_noise`.
        pass_numbers: see `addressed_noise`.
        draws: see `addressed_noise`.
        seed: the run's seed.
        strength: 0.1 in the source.
    """
    channels = addressed_noise(
        ids, pass_numbers, draws, seed=seed, shape=(noise.shape[1], 1, 1), purpose="noise_offset"
    )
    return noise + strength * channels
