"""What can be configured of a dataset; see `schema.py`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from src.checks import require_choice, require_web_address
from src.config.checks import (
    expand_home,
    parse_size,
    require_apart,
    require_at_least,
    require_between,
    require_colour,
)
from src.config.choices import CACHE_PRECISIONS, MASKS, SAMPLERS
from src.errors import UserError
from src.words import article, has_word


@dataclass(slots=True, kw_only=True)
class ClassImagesConfig:
    """Images of the class for prior preservation: a folder, or how the base model draws them."""

    path: str | None = None
    prompt: str = "a photo of ${article:${dataset.class_word}} ${dataset.class_word}"
    num: int = 100
    num_steps: int = 25
    guidance_scale: float = 5.0
    seed: int = 0
    scheduler: str = "dpmpp_2m"
    batch_size: int = 4

    def __post_init__(self) -> None:
        self.path = self.path and expand_home(self.path)
        if not self.prompt.strip():
            raise UserError("dataset.class_images.prompt is empty. Write one such as 'a photo of a dog'.")
        for name in ("num", "num_steps", "batch_size"):
            require_at_least(f"dataset.class_images.{name}", getattr(self, name), 1)
        for name in ("guidance_scale", "seed"):
            require_at_least(f"dataset.class_images.{name}", getattr(self, name), 0)
        require_choice("dataset.class_images.scheduler", self.scheduler, SAMPLERS)


@dataclass(slots=True, kw_only=True)
class BucketsConfig:
    """Sizes near the shape of each image instead of one for all."""

    enabled: bool = False
    step: int | None = None
    min_side: int | None = None
    max_upscale: float = 1.0
    max_crop: float = 0.1

    def __post_init__(self) -> None:
        if self.step is not None:
            parse_size("dataset.buckets.step", self.step)
        require_at_least("dataset.buckets.min_side", self.min_side, 8)
        require_between("dataset.buckets.max_upscale", self.max_upscale, 0.1, 100.0)
        require_between("dataset.buckets.max_crop", self.max_crop, 0.0, 0.9)


@dataclass(slots=True, kw_only=True)
class DatasetConfig:
    """The images and captions."""

    name: str = MISSING
    path: str = MISSING
    url: str | None = None
    sha256: str | None = None
    yandex_api: str = "https://cloud-api.yandex.net/v1/disk"
    dvc: str | None = None
    source: Any = None
    placeholder: str | None = None
    class_word: str = "object"
    reader: Any = None
    resolution: Any = None
    buckets: BucketsConfig = field(default_factory=BucketsConfig)
    split_seed: int = 0
    validation_fraction: float = 0.2
    near_duplicates: str = "auto"
    on_problem: str = "refuse"
    crop: str = "center"
    flip: bool = False
    num_variants: int = 1
    background: str = "white"
    masks: str = "none"
    cache: bool = True
    cache_precision: str = "fp32"
    class_images: ClassImagesConfig = field(default_factory=ClassImagesConfig)
    prompts: list[str] = field(default_factory=list)
    negative_prompt: str = ""
    export: str | None = None
    push_to_hub: str | None = None

    def __post_init__(self) -> None:
        self.path = expand_home(self.path)
        self.export = self.export and expand_home(self.export)
        if self.export is not None:
            # The next start would read the export as a part of the dataset.
            require_apart("dataset.export", self.export, "dataset.path", self.path)
        # Without a scheme it is the path of an archive, as file:// is.
        if self.url is not None and "://" in self.url and not self.url.startswith("file:"):
            require_web_address("dataset.url", self.url)
        require_web_address("dataset.yandex_api", self.yandex_api)
        if self.resolution is not None:
            parse_size("dataset.resolution", self.resolution)
        require_between("dataset.validation_fraction", self.validation_fraction, 0.01, 0.9)
        require_colour("dataset.background", self.background)
        require_choice("dataset.masks", self.masks, MASKS)
        require_choice("dataset.near_duplicates", self.near_duplicates, ("auto", "always", "never"))
        require_choice("dataset.on_problem", self.on_problem, ("refuse", "skip"))
        require_choice("dataset.crop", self.crop, ("center", "random"))
        require_choice("dataset.cache_precision", self.cache_precision, CACHE_PRECISIONS)
        require_at_least("dataset.num_variants", self.num_variants, 1)
        if self.num_variants > 1 and self.crop == "center" and not self.flip:
            raise UserError(
                f"dataset.num_variants={self.num_variants} changes nothing with dataset.crop=center and "
                "dataset.flip=false. Set dataset.crop=random or dataset.flip=true."
            )
        if self.placeholder is not None and (
            not self.placeholder or any(c.isspace() for c in self.placeholder)
        ):
            raise UserError(
                f"dataset.placeholder={self.placeholder!r} must be one word without spaces, such as sksToy."
            )
        is_named = self.placeholder is not None and has_word(self.class_images.prompt, self.placeholder)
        if is_named and self.placeholder != self.class_word:
            example = f"a photo of {article(self.class_word)} {self.class_word}"
            raise UserError(
                f"dataset.class_images.prompt={self.class_images.prompt!r} contains the placeholder, which "
                f"is for your own images alone. Write {example!r}, for example."
            )
