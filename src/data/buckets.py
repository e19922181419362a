"""Aspect-ratio buckets: which size each image is trained at. Pure functions of sizes and settings."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from src.errors import UserError

Size = tuple[int, int]
Key = TypeVar("Key")

_LARGEST_STEP = 64
_SMALLEST_STEP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRules:
    """What a bucket must be like.

    Attributes:
        area: Most pixels of a bucket.
        step: All sides are multiples of it, in pixels.
        min_side: Shortest side that a bucket may have, in pixels.
        max_upscale: No image is enlarged beyond this factor.
        max_crop: At most this share of an image's pixels is cropped.
    """

    area: int
    step: int
    min_side: int
    max_upscale: float
    max_crop: float

    def __str__(self) -> str:
        return (
            f"area {self.area}, step {self.step}, min_side {self.min_side}, "
            f"max_upscale {self.max_upscale:g}, max_crop {self.max_crop:g}"
        )


def bucket_rules(
    resolution: Size,
    *,
    step: int | None = None,
    min_side: int | None = None,
    max_upscale: float = 1.0,
    max_crop: float = 0.1,
) -> BucketRules:
    """The rules for buckets of the area of `resolution`, a (width, height) in pixels.

    Args:
        resolution: Its area is the largest that a bucket may have.
        step: None for a power of two about an eighth of the resolution: 64 from 512 pixels on, 8 for 64.
        min_side: None for half of the resolution. Then the longest side is at most twice the resolution.
        max_upscale: See `BucketRules`.
        max_crop: See `BucketRules`.

    Raises:
        UserError: no size is left.
    """
    area = resolution[0] * resolution[1]
    eighth = max(_SMALLEST_STEP, math.isqrt(area) // 8)
    rules = BucketRules(
        area=area,
        step=step or min(_LARGEST_STEP, 2 ** (eighth.bit_length() - 1)),
        min_side=min_side or math.isqrt(area) // 2,
        max_upscale=max_upscale,
        max_crop=max_crop,
    )
    if not _grid(rules):
        raise UserError(
            f"dataset.buckets.step={rules.step} and dataset.buckets.min_side={rules.min_side} leave no size "
            f"within the {area} pixels of dataset.resolution ({resolution[0]}x{resolution[1]}). Make one of "
            "them smaller."
        )
    return rules


@cache
def bucket_sizes(rules: BucketRules) -> tuple[Size, ...]:
    """The full buckets, (width, height): those of which neither side could be longer within the area."""
    sizes = set(_grid(rules))
    step = rules.step
    return tuple((w, h) for w, h in sizes if (w + step, h) not in sizes and (w, h + step) not in sizes)


def bucket_of(size: Size, rules: BucketRules) -> Size | None:
    """The bucket of an image.

    Of the full buckets that keep the rules it is the one that crops least. Where none does, because the image
    is small or between two shapes, it is the largest smaller size that keeps them.

    Args:
        size: The image's upright (width, height).
        rules: What the bucket must be like.

    Returns:
        (width, height), or None if no size keeps the rules.
    """
    width, height = size
    if height > width:
        turned = bucket_of((height, width), rules)
        return None if turned is None else (turned[1], turned[0])
    full = [bucket for bucket in bucket_sizes(rules) if keeps_rules(size, bucket, rules)]
    if full:
        return min(full, key=lambda bucket: (crop_share(size, bucket), -math.prod(bucket), bucket))
    smaller = [bucket for bucket in _grid(rules) if keeps_rules(size, bucket, rules)]
    return min(
        smaller, key=lambda bucket: (-math.prod(bucket), crop_share(size, bucket), bucket), default=None
    )


def keeps_rules(size: Size, bucket: Size, rules: BucketRules) -> bool:
    """Whether an image can be brought to a bucket within the limits of enlarging and cropping."""
    return upscale(size, bucket) <= rules.max_upscale and crop_share(size, bucket) <= rules.max_crop


def upscale(size: Size, bucket: Size) -> float:
    """The factor by which an image is enlarged to cover a bucket; below 1 it is made smaller."""
    return max(bucket[0] / size[0], bucket[1] / size[1])


def crop_share(size: Size, bucket: Size) -> float:
    """The share of an image's pixels that lies outside a bucket which it covers: 0 where shapes agree."""
    ratios = size[0] * bucket[1], size[1] * bucket[0]
    return (max(ratios) - min(ratios)) / max(ratios)


def assign_buckets(sizes: Mapping[Key, Size], rules: BucketRules) -> tuple[dict[Key, Size], dict[Key, str]]:
    """The bucket of each image, and what is wrong with those that have none.

    Args:
        sizes: Upright (width, height) of each image, by whatever it is known by.
        rules: What a bucket must be like.

    Returns:
        Buckets and problems by the same; each image is in one of the two.
    """
    found = {size: bucket_of(size, rules) for size in set(sizes.values())}
    wrong = {size: _problem(size, rules) for size, bucket in found.items() if bucket is None}
    buckets = {id: bucket for id, size in sizes.items() if (bucket := found[size]) is not None}
    return buckets, {id: wrong[size] for id, size in sizes.items() if size in wrong}


def bucket_counts(buckets: Mapping[str, Size]) -> dict[Size, int]:
    """How many images each bucket has, the fullest first."""
    counts = Counter(buckets.values())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_buckets(buckets: Mapping[str, Size], *, batch_size: int) -> str:
    """One line: the buckets with their numbers of images, and what they make of the batches of a pass."""
    counts = bucket_counts(buckets)
    listed = ", ".join(f"{width}x{height} ({count})" for (width, height), count in counts.items())
    num_partial = sum(count % batch_size > 0 for count in counts.values())
    num_batches = sum(-(-count // batch_size) for count in counts.values())
    return f"Buckets: {listed}; {num_partial} of {num_batches} batches of {batch_size} are not full"


@cache
def _grid(rules: BucketRules) -> tuple[Size, ...]:
    """All sizes of the step within the area, neither side below the shortest."""
    step = rules.step
    first = max(1, -(-rules.min_side // step)) * step
    return tuple(
        (width, height)
        for width in range(first, rules.area // first + 1, step)
        for height in range(first, rules.area // width + 1, step)
    )


def _problem(size: Size, rules: BucketRules) -> str:
    width, height = size
    grid = _grid(rules)
    small_enough = [bucket for bucket in grid if upscale(size, bucket) <= rules.max_upscale]
    if small_enough:
        least = min(crop_share(size, bucket) for bucket in small_enough)
        return (
            f"{width}x{height} would lose {least:.0%} of its pixels in the nearest bucket, and "
            f"dataset.buckets.max_crop={rules.max_crop:g}. Crop or remove it, or allow a larger "
            f"dataset.buckets.max_crop or a smaller dataset.buckets.min_side (now {rules.min_side})."
        )
    least = min(upscale(size, bucket) for bucket in grid)
    return (
        f"{width}x{height} would be enlarged {least:.2f} times for the nearest bucket, and "
        f"dataset.buckets.max_upscale={rules.max_upscale:g}. Replace or remove it, or allow a larger "
        f"dataset.buckets.max_upscale or a smaller dataset.buckets.min_side (now {rules.min_side})."
    )
