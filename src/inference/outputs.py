"""Names and files of generated images: stable, readable, unique."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from src.inference.generate import GeneratedImage
from src.inference.grids import read_params, save_png

_SLUG_LENGTH = 48


def prompt_slugs(prompts: Sequence[str]) -> dict[str, str]:
    """A short name for each prompt, fit for files and for a logger's series; no two are the same."""
    slugs: dict[str, str] = {}
    for prompt in prompts:
        if prompt not in slugs:
            slug = re.sub(r"[\W_]+", "_", prompt.lower()).strip("_")[:_SLUG_LENGTH].strip("_") or "empty"
            taken = set(slugs.values())
            number = 2
            unique = slug
            while unique in taken:
                unique = f"{slug}_{number}"
                number += 1
            slugs[prompt] = unique
    return slugs


def image_names(planned: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each image: its prompt's slug, and a number where a prompt has several.

    Args:
        planned: from `plan_images`.
    """
    slugs = prompt_slugs([params["prompt"] for params in planned])
    several = any(params["index"] > 0 for params in planned)
    return [slugs[params["prompt"]] + (f"_{params['index']}" if several else "") for params in planned]


def save_images(
    images: Sequence[GeneratedImage], folder: Path, extra: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Writes each image as a PNG that knows its parameters.

    Args:
        images: of one batch.
        folder: made if need be.
        extra: more parameters, the same for all: model, adapter, scale.

    Returns:
        The files by `image_names`.
    """
    paths: dict[str, Path] = {}
    for name, image in zip(image_names([image.params for image in images]), images, strict=True):
        paths[name] = folder / f"{name}.png"
        save_png(image.image, paths[name], {**image.params, **(extra or {})})
    return paths


def load_images(planned: Sequence[Mapping[str, Any]], folder: Path) -> list[GeneratedImage] | None:
    """Images that `save_images` wrote, None unless all are there and were made just as planned."""
    images = []
    for name, params in zip(image_names(planned), planned, strict=True):
        path = folder / f"{name}.png"
        known = read_params(path) if path.is_file() else None
        if known is None or {key: known.get(key) for key in params} != dict(params):
            return None
        with Image.open(path, formats=["PNG"]) as image:
            images.append(GeneratedImage(image=image.convert("RGB"), params=params))
    return images


def by_prompt(images: Sequence[GeneratedImage], num_images: int) -> list[list[Any]]:
    """The pictures in rows, one for each prompt, as a grid takes them."""
    pictures = [image.image for image in images]
    return [pictures[start : start + num_images] for start in range(0, len(pictures), num_images)]
