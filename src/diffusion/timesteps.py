"""Which timesteps are trained and which are measured."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from src.randomness import generator


def addressed_timesteps(
    ids: Sequence[str],
    pass_numbers: Sequence[int],
    draws: Sequence[int],
    *,
    seed: int,
    num_train_timesteps: int,
) -> Int[Tensor, " b"]:
    """Uniform timesteps (DDPM, arXiv 2006.11239, algorithm 1), one addressed draw a sample.

    Returns:
        Integers in [0, num_train_timesteps), on the CPU.
    """
    return torch.cat(
        [
            torch.randint(
                num_train_timesteps, (1,), generator=generator(seed, "timestep", pass_number, sample_id, draw)
            )
            for sample_id, pass_number, draw in zip(ids, pass_numbers, draws, strict=True)
        ]
    )


def validation_timesteps(num_timesteps: int, num_train_timesteps: int) -> list[int]:
    """Equally spaced timesteps, in the middle of equal parts of the schedule.

    The mean of a loss over them is the midpoint rule for its mean over all timesteps, which is what training
    with uniform timesteps minimises.

    >>> validation_timesteps(4, 1000)
    [125, 375, 625, 875]
    """
    assert 1 <= num_timesteps <= num_train_timesteps, (num_timesteps, num_train_timesteps)
    return [(2 * i + 1) * num_train_timesteps // (2 * num_timesteps) for i in range(num_timesteps)]
