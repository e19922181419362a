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
