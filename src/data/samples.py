"""Draws to samples, from the caches or the image files. No encoders here: worker processes run it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from src.data.batches import Sample
from src.data.images import Colour, Variant, load_in_own_colours, prepare_variant
from src.data.latent_cache import LatentCache, LatentEntry, VariantKey
from src.data.masks import MaskSource, load_mask
from src.data.order import Draw
from src.data.records import Record
from src.data.text_cache import TextCache
from src.randomness import address_seed

_SEED_RANGE = 2**63


def num_effective_variants(*, crop: str, flip: bool, num_variants: int) -> int:
    """How many different variants an image has: a centre crop has one place, and flipping needs two."""
    at_least = 2 if flip else 1
    return max(num_variants, at_least) if crop == "random" else at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image as all its variants start from it, with its mask if it has one."""

    image: Image.Image
    mask: Image.Image | None


class SampleReader:
    """Chooses each draw's variant and caption by address, and reads what is cached.

    Args:
        records: The dataset, or one side of its split.
        hashes: SHA-256 of each record's file, by record id.
        sizes: (width, height) that each image is trained at, by record id.
        crop: "center" or "random".
        flip: Whether half of the variants are mirrored.
        num_variants: Prepared variants of each image; a draw picks one.
        seed: The training seed: which variant a draw picks, and caption dropout.
        crop_seed: The dataset's seed: where random crops lie. Apart from `seed`, so that a sweep over
            training seeds shares the cache.
        background: What shows through transparent pixels.
        caption_dropout: Share of draws whose caption is replaced by the empty one.
        latent_cache: Where posteriors are, if they are kept.
        text_cache: Where embeddings are, if they are kept.
        masks: Where the masks are, by record id, of all records or none.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        hashes: Mapping[str, str],
        sizes: Mapping[str, tuple[int, int]],
        crop: str,
        flip: bool,
        num_variants: int,
        seed: int,
        crop_seed: int,
        background: Colour,
        caption_dropout: float,
        latent_cache: LatentCache | None,
        text_cache: TextCache | None,
        masks: Mapping[str, MaskSource] | None = None,
    ) -> None:
        self.records = {record.id: record for record in records}
        self.sizes = {record.id: sizes[record.id] for record in records}
        self.num_variants = num_effective_variants(crop=crop, flip=flip, num_variants=num_variants)
        self.latent_cache = latent_cache
        self.text_cache = text_cache
        self.caption_dropout = caption_dropout
        self._hashes = {record.id: hashes[record.id] for record in records}
        self._masks = {id: mask for id, mask in (masks or {}).items() if id in self.records}
        self._crop = crop
        self._flip = flip
        self._seed = seed
        self._crop_seed = crop_seed
        self._background = background
        # The images of a size share theirs.
        self._variant_keys: dict[tuple[tuple[int, int], int], VariantKey] = {}

    def variant_key(self, id: str, number: int) -> VariantKey:
        """What the pixels of a record's variant depend on."""
        size = self.sizes[id]
        key = self._variant_keys.get((size, number))
        if key is None:
            key = self._variant_keys[size, number] = VariantKey(
                size=size,
                crop=self._crop,
                flip=self._flip and number % 2 == 1,
                background=self._background,
                crop_seed=self._crop_seed,
                crop_number=number,
            )
        return key

    def latent_key(self, id: str, number: int) -> str:
        """The key of a record's variant in the latent cache."""
        mask = self._masks.get(id)
        return self.variant_key(id, number).hash(self._hashes[id], None if mask is None else mask.content)

    @property
    def has_masks(self) -> bool:
        """Whether entries of the latent cache hold masks."""
        return bool(self._masks)

    def decode(self, id: str) -> Decoded:
        """A record's image and mask, of which all variants are made."""
        image = load_in_own_colours(self.records[id].path, background=self._background)
        mask = self._masks.get(id)
        return Decoded(image=image, mask=None if mask is None else load_mask(mask, size=image.size))

    def prepare(self, id: str, number: int, decoded: Decoded) -> Variant:
        """The pixels of a variant. The address holds the content and not the name: copies share entries."""
        key = self.variant_key(id, number)
        seed_parts = (self._crop_seed, "crop", self._hashes[id], number)
        return prepare_variant(
            decoded.image,
            size=key.size,
            crop=key.crop,
            flip=key.flip,
            seed_parts=seed_parts,
            mask=decoded.mask,
        )

    def read(self, draws: Sequence[Draw], weights: Sequence[float]) -> list[Sample]:
        """The samples of some draws: what is cached as it is, the others as pixels to encode.

        Raises:
            UserError: an image that is not cached cannot be decoded.
        """
        return [self._read_one(draw, weight) for draw, weight in zip(draws, weights, strict=True)]

    def _read_one(self, draw: Draw, weight: float) -> Sample:
        record = self.records[draw.id]
        address = (draw.pass_number, draw.id, draw.draw)
        number = address_seed(self._seed, "variant", *address) % self.num_variants
        is_dropped = (
            address_seed(self._seed, "caption_dropout", *address) < self.caption_dropout * _SEED_RANGE
        )
        caption = "" if is_dropped else record.caption
        key = self.latent_key(draw.id, number)
        latent: LatentEntry | Variant | None = (
            None if self.latent_cache is None else self.latent_cache.get(key)
        )
        return Sample(
            draw=draw,
            weight=weight,
            caption=caption,
            latent_key=key,
            size=self.sizes[draw.id],
            latent=latent if latent is not None else self.prepare(draw.id, number, self.decode(draw.id)),
            text=None if self.text_cache is None else self.text_cache.get(caption),
        )
