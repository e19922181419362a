"""Scores of generated images: pure functions of features of unit length.

Fidelity is measured on held-out photos only: an adapter that copies its training photos must not gain by it.
How close samples come to the training photos is another question, asked by `memorisation`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from src.randomness import generator

NUM_RESAMPLES = 2000
_CONFIDENCE = 0.95


def mean_cosines(features: Float[Tensor, "n d"], references: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """Each image's mean cosine with all references."""
    return (features.double() @ references.double().T).mean(dim=1)


def mean_pairwise_cosine(features: Float[Tensor, "n d"], references: Float[Tensor, "m d"]) -> float:
    """The mean cosine over all pairs: DreamBench's DINO score (Ruiz et al. 2023, arXiv 2208.12242, 4.2).

    Args:
        features: of generated images, unit length.
        references: of real photos, unit length.
    """
    return mean_cosines(features, references).mean().item()


def mean_self_cosines(features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Each image's mean cosine with all others: the diagonal, always one, is left out.

    Raises:
        AssertionError: for fewer than two images there are no others.
    """
    count = len(features)
    assert count >= 2, "likeness among themselves needs two images"
    cosines = features.double() @ features.double().T
    return (cosines.sum(dim=1) - cosines.diagonal()) / (count - 1)


def mean_self_cosine(features: Float[Tensor, "n d"]) -> float:
    """How alike photos of one thing are among themselves: what a perfect generator would reach."""
    return mean_self_cosines(features).mean().item()


def paired_cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The cosine of each row with its partner. For CLIP images and their prompts this is CLIP-T.

    As in DreamBench the plain cosine, between about .2 and .35 for real CLIP models; Hessel et al. 2021
    (arXiv 2104.08718) clamp it at zero and multiply by 2.5, torchmetrics by 100.
    """
    return (a.double() * b.double()).sum(dim=1)


def bootstrap_interval(
    values: Float[Tensor, " n"], seed: int, *, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: one number for each image.
        seed: the resamples are addressed by it: the same values and seed give the same interval.
        groups: each image's prompt. Prompts are resampled first, then the images of each, because images of
            one prompt are more alike than images of different ones. One prompt alone: its images.

    Returns:
        Lower and upper bound; NaN where there is nothing to resample (a single image).
    """
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    names = sorted(set(groups)) if groups is not None else [""]
    members = [
        values[[i for i in range(count) if groups is None or groups[i] == name]].double() for name in names
    ]
    random = generator(seed, "bootstrap", count, len(names))
    sums = torch.zeros(NUM_RESAMPLES, dtype=torch.float64)
    counts = torch.zeros(NUM_RESAMPLES, dtype=torch.float64)
    for _ in names:
        picked = torch.randint(len(names), (NUM_RESAMPLES,), generator=random)
        for index, group in enumerate(members):
            # Drawn for every resample and used by those that picked this prompt.
            draws = torch.randint(len(group), (NUM_RESAMPLES, len(group)), generator=random)
            chosen = picked == index
            sums += torch.where(chosen, group[draws].sum(dim=1), 0.0)
            counts += torch.where(chosen, float(len(group)), 0.0)
    tail = (1 - _CONFIDENCE) / 2
    means = sums / counts
    return means.quantile(tail).item(), means.quantile(1 - tail).item()


def scaled(floor: float, score: float, ceiling: float | None) -> float | None:
    """The share of the way from floor to ceiling: 0 is the base model, 1 is real photos.

    None where there is no way to go: the ceiling is unknown or not above the floor.
    """
    if ceiling is None or not ceiling > floor:
        return None
    return (score - floor) / (ceiling - floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """How close generated images come to single training photos.

    Attributes:
        nearest: each image's cosine with the training photo nearest to it.
        threshold: what only 5 % of the held-out photos exceed: as near as an honest new photo may come.
        share_above: the share of images above the threshold; 0.05 is what new photos have.
    """

    nearest: Float[Tensor, " n"]
    threshold: float
    share_above: float


def memorisation(
    samples: Float[Tensor, "n d"],
    training: Float[Tensor, "m d"],
    held_out: Float[Tensor, "k d"],
) -> Memorisation:
    """Nearest-training similarity of samples, calibrated on held-out photos.

    The only score that looks at training photos. Somepalli et al. 2023 (arXiv 2212.03860) use the same
    similarity; a fixed threshold would mean something else for each model and each subject.
    """
    nearest = (samples.double() @ training.double().T).amax(dim=1)
    honest = (held_out.double() @ training.double().T).amax(dim=1)
    threshold = honest.quantile(_CONFIDENCE).item()
    above = (nearest > threshold).double().mean().item()
    return Memorisation(nearest=nearest, threshold=threshold, share_above=above)
