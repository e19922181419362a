"""Which timesteps are trained and which are measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from src.randomness import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestepSampling:
    """How the timesteps of training are distributed.

    Attributes:
        distribution: "uniform" (DDPM, arXiv 2006.11239, algorithm 1), or "logit_normal" (Esser et al. 2024,
            arXiv 2403.03206, eq. 19): the place in the range is the logistic function of a normal number.
        first: the first timestep of the range.
        end: the timestep after the last one; None for all of the schedule.
        mean: of the normal number. Above 0 leads to more noise, below 0 to less.
        std: of the normal number.
    """

    distribution: str = "uniform"
    first: int = 0
    end: int | None = None
    mean: float = 0.0
    std: float = 1.0


UNIFORM = TimestepSampling()


def addressed_timesteps(
    ids: Sequence[str],
    pass_numbers: Sequence[int],
    draws: Sequence[int],
    *,
    seed: int,
    num_train_timesteps: int,
    sampling: TimestepSampling = UNIFORM,
) -> Int[Tensor, " b"]:
    """One addressed draw of a timestep a sample.

    Returns:
        Integers in [0, num_train_timesteps), or in the range of `sampling`, on the CPU.
    """
    end = num_train_timesteps if sampling.end is None else sampling.end
    assert 0 <= sampling.first < end <= num_train_timesteps, (sampling, num_train_timesteps)
    return sampling.first + torch.cat(
        [
            _place(end - sampling.first, sampling, generator(seed, "timestep", pass_number, sample_id, draw))
            for sample_id, pass_number, draw in zip(ids, pass_numbers, draws, strict=True)
        ]
    )


def _place(length: int, sampling: TimestepSampling, random: torch.Generator) -> Int[Tensor, " 1"]:
    """A place in a range of so many timesteps."""
    if sampling.distribution == "uniform":
        return torch.randint(length, (1,), generator=random)
    assert sampling.distribution == "logit_normal", sampling.distribution
    # In fp64: in fp32 the logistic function is 1 from 17 on. Even so the end itself is none of the range.
    place = torch.sigmoid(sampling.mean + sampling.std * torch.randn(1, generator=random).double())
    return (place * length).long().clamp(max=length - 1)


def validation_timesteps(num_timesteps: int, num_train_timesteps: int) -> list[int]:
    """Equally spaced timesteps, in the middle of equal parts of the schedule.

    The mean of a loss over them is the midpoint rule for its mean over all timesteps, which is what training
    with uniform timesteps minimises.

    >>> validation_timesteps(4, 1000)
    [125, 375, 625, 875]
    """
    assert 1 <= num_timesteps <= num_train_timesteps, (num_timesteps, num_train_timesteps)
    return [(2 * i + 1) * num_train_timesteps // (2 * num_timesteps) for i in range(num_timesteps)]
