"""The scores of a set of generated images, each with its scale: floor, ceiling and interval."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from src.metrics.features import ClipExtractor, ImageFeatureExtractor
from src.metrics.scores import (
    bootstrap_interval,
    mean_cosines,
    mean_self_cosine,
    paired_cosine,
    scaled,
)

_PHOTOS_AT_A_TIME = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number and what it is to be compared with.

    Attributes:
        name: "dino" or "clip_t".
        label: of the model that judged.
        value: of the adapted model's images.
        low, high: 95 % bootstrap interval of the value, over prompts and their images.
        floor: the base model's score on the same prompts and seeds; None without base images.
        ceiling: the held-out photos' own score; None where it cannot be had.
        gain: value minus floor.
        gain_low, gain_high: interval of the gain, image against image of the same prompt and seed. The gain
            is real when it does not hold zero.
        gap_closed: gain as a share of the way from floor to ceiling.
        gap_low, gap_high: interval of that share: the gain's, with floor and ceiling as they are.
    """

    name: str
    label: str
    value: float
    low: float | None
    high: float | None
    floor: float | None = None
    ceiling: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    gap_closed: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None

    @property
    def title(self) -> str:
        """The name under which loggers show it, for example `dino[dino_vits16]`."""
        return f"{self.name}[{self.label}]"

    def scalars(self) -> dict[str, float]:
        """Numbers for a logger, by "title/series"."""
        series = {
            "samples": self.value,
            "samples_low": self.low,
            "samples_high": self.high,
            "base": self.floor,
            "held_out": self.ceiling,
            "gap_closed": self.gap_closed,
        }
        return {f"{self.title}/{key}": value for key, value in series.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What judges see in images, one row an image; None where there is no such judge.

    Attributes:
        dino: features of unit length.
        clip: features of unit length.
    """

    dino: Float[Tensor, "n d"] | None = None
    clip: Float[Tensor, "n e"] | None = None


def measure_images(
    images: Sequence[Image.Image], *, dino: ImageFeatureExtractor | None, clip: ClipExtractor | None
) -> Features:
    """Shows images to the judges.

    Args:
        images: RGB, of any size.
        dino: judges subject fidelity, or None.
        clip: judges prompt fidelity, or None.
    """
    if not images:
        return Features()
    return Features(
        dino=None if dino is None else dino.images(images), clip=None if clip is None else clip.images(images)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is kept of the held-out photos: enough to score any number of sample sets against them.

    Attributes:
        dino: their features.
        clip_t: the cosine of each with its caption.
    """

    dino: Float[Tensor, "n d"] | None = None
    clip_t: Float[Tensor, " n"] | None = None


_Tables = TypeVar("_Tables", Features, Reference)


def split_rows(tables: Features | Reference) -> list[dict[str, Tensor]]:
    """Each image by itself, so that images measured in several places can be put together in order."""
    named = {part.name: table for part in fields(tables) if (table := getattr(tables, part.name)) is not None}
    num_images = max((len(table) for table in named.values()), default=0)
    return [{name: table[index] for name, table in named.items()} for index in range(num_images)]


def join_rows(kind: type[_Tables], rows: Sequence[Mapping[str, Tensor]]) -> _Tables:
    """The opposite of `split_rows`."""
    names = rows[0].keys() if rows else ()
    return kind(**{name: torch.stack([row[name] for row in rows]) for name in names})


def measure_photos(
    photos: Iterable[Image.Image],
    *,
    captions: Sequence[str] = (),
    dino: ImageFeatureExtractor | None,
    clip: ClipExtractor | None,
) -> Reference:
    """Looks at held-out photos once. They may come from a generator; a few at a time are in memory.

    Args:
        photos: real photos that training never saw.
        captions: one for each, as CLIP should read it, or none: then there is no ceiling for CLIP-T.
        dino: judges subject fidelity, or None.
        clip: judges prompt fidelity, or None.
    """
    texts = iter(captions)
    features, cosines = [], []
    remaining = iter(photos)
    while chunk := list(islice(remaining, _PHOTOS_AT_A_TIME)):
        if dino is not None:
            features.append(dino.images(chunk))
        if clip is not None and captions:
            cosines.append(paired_cosine(clip.images(chunk), clip.texts(list(islice(texts, len(chunk))))))
    return Reference(
        dino=torch.cat(features) if features else None, clip_t=torch.cat(cosines) if cosines else None
    )


def evaluate_samples(
    *,
    samples: Sequence[Image.Image],
    prompts: Sequence[str],
    base_samples: Sequence[Image.Image] = (),
    held_out: Reference | None = None,
    dino: ImageFeatureExtractor | None = None,
    clip: ClipExtractor | None = None,
    seed: int = 0,
) -> list[Score]:
    """Subject fidelity (DINO) and prompt fidelity (CLIP-T) of generated images.

    Args:
        samples: the adapted model's images.
        prompts: each image's prompt, without words that CLIP cannot know (see `words_for_clip`).
        base_samples: the base model's images of the same prompts and seeds, in the same order, or none.
        held_out: photos that training never saw; without any there is no DINO score.
        dino: judges subject fidelity, or None.
        clip: judges prompt fidelity, or None.
        seed: of the bootstrap.
    """
    assert len(prompts) == len(samples), "one prompt for each image"
    assert len(base_samples) in (0, len(samples)), "base images go with the adapted ones, or there are none"
    # Without photos nobody asks what DINO sees.
    used = dino if held_out is not None and held_out.dino is not None else None
    return score_features(
        samples=measure_images(samples, dino=used, clip=clip),
        prompts=prompts,
        texts=None if clip is None else clip.texts(prompts),
        base=measure_images(base_samples, dino=used, clip=clip),
        held_out=held_out,
        labels={name: judge.label for name, judge in (("dino", dino), ("clip", clip)) if judge is not None},
        seed=seed,
    )


def score_features(
    *,
    samples: Features,
    prompts: Sequence[str],
    texts: Float[Tensor, "n e"] | None,
    base: Features,
    held_out: Reference | None,
    labels: Mapping[str, str],
    seed: int,
) -> list[Score]:
    """The scores of images that the judges have seen already; see `evaluate_samples`.

    Args:
        samples: of the adapted model's images.
        prompts: each image's prompt.
        texts: CLIP's features of these prompts.
        base: of the base model's images.
        held_out: of the photos.
        labels: of the judges "dino" and "clip".
        seed: of the bootstrap.
    """
    judge = _Judge(prompts=list(prompts), seed=seed)
    reference = held_out or Reference()
    scores = []
    if samples.dino is not None and reference.dino is not None:
        photos = reference.dino
        floor = None if base.dino is None else mean_cosines(base.dino, photos)
        ceiling = mean_self_cosine(photos) if len(photos) > 1 else None
        values = mean_cosines(samples.dino, photos)
        scores.append(judge.score("dino", labels["dino"], values, floor, ceiling))
    if samples.clip is not None and texts is not None:
        floor = None if base.clip is None else paired_cosine(base.clip, texts)
        ceiling = None if reference.clip_t is None else reference.clip_t.mean().item()
        values = paired_cosine(samples.clip, texts)
        scores.append(judge.score("clip_t", labels["clip"], values, floor, ceiling))
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    prompts: list[str]
    seed: int

    def score(
        self,
        name: str,
        label: str,
        values: Float[Tensor, " n"],
        base: Float[Tensor, " n"] | None,
        ceiling: float | None,
    ) -> Score:
        value = values.mean().item()
        low, high = self._interval(values)
        own = Score(name=name, label=label, value=value, low=low, high=high, ceiling=ceiling)
        if base is None:
            return own
        floor = base.mean().item()
        gain_low, gain_high = self._interval(values - base)
        return replace(
            own,
            floor=floor,
            gain=value - floor,
            gain_low=gain_low,
            gain_high=gain_high,
            gap_closed=scaled(floor, value, ceiling),
            gap_low=None if gain_low is None else scaled(floor, floor + gain_low, ceiling),
            gap_high=None if gain_high is None else scaled(floor, floor + gain_high, ceiling),
        )

    def _interval(self, values: Float[Tensor, " n"]) -> tuple[float | None, float | None]:
        low, high = bootstrap_interval(values, self.seed, groups=self.prompts)
        return (None, None) if math.isnan(low) else (low, high)


def table_rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Rows for a logger's table: rounded, intervals as text, "-" for what could not be had."""
    return [
        {
            "score": score.title,
            "adapted": _text(score.value),
            "95 % interval": _interval_text(score.low, score.high),
            "base (floor)": _text(score.floor),
            "held-out photos (ceiling)": _text(score.ceiling),
            "gain": _text(score.gain),
            "95 % interval of the gain": _interval_text(score.gain_low, score.gain_high),
            "gap closed": "-" if score.gap_closed is None else _gap_text(score),
        }
        for score in scores
    ]


def score_lines(scores: Sequence[Score]) -> list[str]:
    """One line for each score, for the console."""
    lines = []
    for score in scores:
        parts = [f"{score.title}: {score.value:.3f}"]
        if score.low is not None:
            parts.append(f"95 % interval {_interval_text(score.low, score.high)}")
        if score.floor is not None:
            parts.append(f"base {score.floor:.3f}")
        if score.ceiling is not None:
            parts.append(f"held-out photos {score.ceiling:.3f}")
        if score.gap_closed is not None:
            parts.append(f"{_gap_text(score)} of the gap closed")
        lines.append(", ".join(parts))
    return lines


def words_for_clip(text: str, *, placeholder: str | None, class_word: str) -> str:
    """The prompt as CLIP should read it: it cannot know the placeholder, so the class word stands for it.

    It is not said twice where it follows the placeholder. DreamBench scores prompts in the same way: "a
    backpack on the beach", without the rare token.

    >>> words_for_clip("a photo of sksToy, sksToys", placeholder="sksToy", class_word="toy")
    'a photo of toy, sksToys'
    >>> words_for_clip("a photo of sksToy toy", placeholder="sksToy", class_word="toy")
    'a photo of toy'
    """
    if not placeholder:
        return text
    name = rf"(?<!\w){re.escape(placeholder)}(?: {re.escape(class_word)})?(?!\w)"
    return re.sub(name, lambda _: class_word, text)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _gap_text(score: Score) -> str:
    value, low, high = score.gap_closed, score.gap_low, score.gap_high
    assert value is not None
    # Of the few prompts of most runs the share alone says little.
    interval = "" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    return f"{100 * value:.0f} %{interval}"


def _interval_text(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
