"""Posteriors of the VAE on disk: mean and standard deviation of each variant of each image, made once."""

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from src.data.images import PIXELS_VERSION, Colour
from src.data.tensor_store import DTYPES, TensorStore, entry_key


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentEntry:
    """The posterior of one variant, scaled as the UNet expects it, and where its crop came from.

    Attributes:
        moments: Mean and standard deviation, in float32 whatever the precision on disk.
        original_size: (width, height) of the upright image before resizing.
        crop_top_left: (top, left) of the crop in the resized image.
        mask: The part of each cell that is to be learned, in float32 also on disk; None without masks.
    """

    moments: Float[Tensor, "2 c h w"]
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]
    mask: Float[Tensor, "h w"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantKey:
    """What a variant's pixels depend on, beside the image itself.

    Attributes:
        size: (width, height).
        crop: "center" or "random".
        flip: Mirrored left to right.
        background: What shows through transparent pixels.
        crop_seed: Seed of the place of a random crop.
        crop_number: Which of the random crops.
    """

    size: tuple[int, int]
    crop: str
    flip: bool
    background: Colour
    crop_seed: int = 0
    crop_number: int = 0

    def hash(self, sha256: str, mask: str | None = None) -> str:
        """The key of this variant of the image with this content: an `entry_key`.

        Args:
            sha256: Of the image's file.
            mask: What tells its mask from others; None without masks; then the key is what it always was.
        """
        before, after = _around_content(self)
        key = hashlib.sha256(f"{before}{sha256}{after}".encode()).hexdigest()
        return key if mask is None else entry_key("masked", key, mask)


@functools.lru_cache(maxsize=1024)
def _around_content(variant: VariantKey) -> tuple[str, str]:
    """What the images of a set have in common of the text that their keys are hashes of."""
    place = (variant.crop_seed, variant.crop_number) if variant.crop == "random" else ()
    parts = (*variant.size, variant.crop, int(variant.flip), *variant.background, *place)
    before, after = json.dumps((PIXELS_VERSION, "|", *parts)).split("|")
    return before, after


class LatentCache:
    """One entry a variant, under the hash of the VAE and the precision.

    Args:
        folder: Shared by runs, jobs and datasets.
        vae_hash: Hash of the VAE's weights and scaling.
        precision: "fp32", "fp16" or "bf16": what is kept on disk. Half the size costs the last bits.
    """

    def __init__(self, folder: Path, *, vae_hash: str, precision: str = "fp32") -> None:
        self._store = TensorStore(folder / entry_key("vae", vae_hash, precision)[:16])
        self._dtype = DTYPES[precision]

    def path(self, key: str) -> Path:
        """Where the entry of a key is."""
        return self._store.path(key)

    def claim(self, key: str) -> bool:
        """Whether there is an entry, sound or not; see `TensorStore.claim`."""
        return self._store.claim(key)

    def get(self, key: str) -> LatentEntry | None:
        """The entry, or None if it is absent or damaged."""
        stored = self._store.read(key)
        if stored is None:
            return None
        numbers = [int(number) for number in stored.metadata["geometry"].split()]
        return LatentEntry(
            moments=torch.stack([stored.tensors["mean"], stored.tensors["std"]]).float(),
            original_size=(numbers[0], numbers[1]),
            crop_top_left=(numbers[2], numbers[3]),
            mask=stored.tensors.get("mask"),
        )

    def put(self, key: str, entry: LatentEntry) -> int:
        """Keeps an entry and returns its size in bytes."""
        mean, std = entry.moments.to(self._dtype)
        geometry = " ".join(str(number) for number in (*entry.original_size, *entry.crop_top_left))
        masks = {} if entry.mask is None else {"mask": entry.mask}
        return self._store.write(key, {"mean": mean, "std": std, **masks}, {"geometry": geometry})

    def rounded(self, entry: LatentEntry) -> LatentEntry:
        """The entry as it will be read back."""
        return replace(entry, moments=entry.moments.to(self._dtype).float())


def latent_entry_bytes(
    size: tuple[int, int],
    *,
    channels: int = 4,
    factor: int = 8,
    precision: str = "fp32",
    has_mask: bool = False,
) -> int:
    """Projected size of one entry on disk: two tensors, a mask if there is one, and a header."""
    width, height = size
    of_cell = 2 * channels * DTYPES[precision].itemsize + (torch.float32.itemsize if has_mask else 0)
    return of_cell * (width // factor) * (height // factor) + 400
