"""Class images for prior preservation, drawn by the base model once and kept."""

import errno
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from src.errors import UserError
from src.files import one_at_a_time, require_free_space, sha256_file, write_bytes_atomic, write_json_atomic
from src.inference.generate import GeneratedImage, generate_planned, plan_images
from src.inference.grids import png_bytes
from src.models.base import DiffusionModel

_NAME = re.compile(r"(\d{6})_([0-9a-f]{16})\.png")
RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImageRecipe:
    """All that a class image depends on, beside its number.

    Attributes:
        base_hash: of the base model.
        precision: of its UNet and text encoders.
        prompt: the same for all.
        num_steps: denoising steps.
        guidance_scale: of classifier-free guidance.
        scheduler: short name, see `src.models.schedulers`.
        seed: of the noise.
        width: in pixels.
        height: in pixels.
        batch_size: images at a time. They are always drawn in the same groups of so many, so that an image
            does not depend on how many were asked for, not even in rounding.
        num_chunks: of the prompt, if it is encoded in several.
    """

    base_hash: str
    precision: str
    prompt: str
    num_steps: int
    guidance_scale: float
    scheduler: str
    seed: int
    width: int
    height: int
    batch_size: int
    num_chunks: int = 1

    def folder(self, cache_dir: Path) -> Path:
        """Where its images are kept."""
        parts = asdict(self)
        if self.num_chunks == 1:
            # As before there were long prompts, so that what was drawn then is found.
            del parts["num_chunks"]
        text = json.dumps(parts, sort_keys=True)
        return cache_dir / "class_images" / hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """A file, and the hash of its content."""

    path: Path
    sha256: str


class ClassImageStore:
    """A folder of numbered images. Each one's name holds its hash, so that damage is seen on reading.

    Processes may use it at once: each group is drawn under a lock, by the one that comes first.

    Args:
        recipe: of the images.
        cache_dir: shared by runs and jobs.
    """

    def __init__(self, recipe: ClassImageRecipe, cache_dir: Path) -> None:
        self.folder = recipe.folder(cache_dir)
        self._recipe = recipe

    def find(self, num_images: int) -> dict[int, FoundImage]:
        """The first images by number, without those that are absent or damaged."""
        return self._sound(range(num_images))

    def missing_groups(self, num_images: int) -> list[int]:
        """Groups that lack one of the first images."""
        found = self.find(num_images)
        size = self._recipe.batch_size
        return sorted({number // size for number in range(num_images) if number not in found})

    def draw(self, model: DiffusionModel, group: int) -> None:
        """Draws the images of a group, and keeps those that are not there.

        Args:
            model: the base model, nothing attached.
            group: its number.

        Raises:
            UserError: see `generate_planned`; or the folder cannot be written.
        """
        size = self._recipe.batch_size
        numbers = range(group * size, (group + 1) * size)
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self.folder / f".group{group}.lock"):
                # Another process may have drawn them while this one waited.
                missing = set(numbers) - self._sound(numbers).keys()
                if missing:
                    self._keep(self._generate(model, numbers), missing)

    def _generate(self, model: DiffusionModel, numbers: range) -> list[GeneratedImage]:
        recipe = self._recipe
        planned = plan_images(
            prompts=[recipe.prompt],
            negative_prompt="",
            num_images=numbers.stop,
            num_steps=recipe.num_steps,
            guidance_scale=recipe.guidance_scale,
            seed=recipe.seed,
            width=recipe.width,
            height=recipe.height,
            scheduler=recipe.scheduler,
        )
        return generate_planned(model, planned[numbers.start :], batch_size=len(numbers))

    def _keep(self, images: list[GeneratedImage], missing: set[int]) -> None:
        num_bytes = len(missing) * 3 * self._recipe.width * self._recipe.height
        require_free_space(self.folder, num_bytes, "class images")
        write_json_atomic(self.folder / RECIPE_FILE, asdict(self._recipe))
        for image in images:
            number = image.params["index"]
            if number not in missing:
                continue
            for damaged in self.folder.glob(f"{number:06d}_*.png"):
                damaged.unlink()
            content = png_bytes(image.image, {**image.params, "model_hash": self._recipe.base_hash[:16]})
            digest = hashlib.sha256(content).hexdigest()
            write_bytes_atomic(self.folder / f"{number:06d}_{digest[:16]}.png", content)

    def _sound(self, numbers: range) -> dict[int, FoundImage]:
        found = {}
        for path in sorted(self.folder.glob("*.png")):
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) in numbers:
                try:
                    sha256 = sha256_file(path)
                except FileNotFoundError:  # damaged, and just now removed by the job that mends it
                    continue
                if sha256.startswith(match[2]):
                    found[int(match[1])] = FoundImage(path=path, sha256=sha256)
        return found


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Says what to do when the folder cannot be written."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the disk" if is_full else error.strerror
        raise UserError(
            f"Cannot keep class images in {folder} ({reason}). What is there stays usable. Free some space "
            "or set paths.cache_dir to another disk."
        ) from error
