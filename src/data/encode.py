"""Images and captions through the frozen encoders, once: the encoded dataset behind the training loop."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from src.data.batches import Batch, Sample, assemble, pin
from src.data.images import Colour, Variant
from src.data.latent_cache import LatentCache, LatentEntry
from src.data.masks import MaskSource
from src.data.order import Draw
from src.data.records import Record
from src.data.samples import Decoded, SampleReader
from src.data.tensor_store import DTYPES
from src.data.text_cache import TextCache, TextEntry
from src.errors import UserError

EncodeImages = Callable[[Float[Tensor, "b 3 h w"]], tuple[Float[Tensor, "b c i j"], Float[Tensor, "b c i j"]]]
EncodeText = Callable[[list[str]], tuple[Float[Tensor, "b t d"], Float[Tensor, "b p"] | None]]
Progress = Callable[[int, int], None]

# Decoding runs ahead of the VAE by as many images; at 12 megapixels each holds 36 MB.
_READ_AHEAD = 4
_READ_AHEAD_THREADS = 2


class EncodedDataset:
    """A dataset as posteriors and text embeddings.

    Images and prompts are encoded one at a time, with and without a cache: so an entry does not depend on
    what else was in the batch, and on the CPU cached and fresh batches are equal bit for bit.

    Args:
        records: The dataset, or one side of its split.
        hashes: SHA-256 of each record's file, by record id.
        sizes: (width, height) that each image is trained at, by record id.
        crop: "center" or "random".
        flip: Whether half of the variants are mirrored.
        num_variants: Prepared variants of each image (see `num_effective_variants`).
        seed: The training seed: which variant a draw picks, and caption dropout.
        crop_seed: The dataset's seed (`dataset.split_seed`): where random crops lie.
        encode_images: Pixels in [-1, 1] to mean and standard deviation of the scaled posterior.
        latent_cache: Where posteriors are kept, or None to encode them each time.
        encode_text: Prompts to hidden states and pooled embedding, or None if the loop does it.
        text_cache: Where embeddings are kept, or None to encode them each time.
        caption_dropout: Share of draws whose caption is replaced by the empty one.
        background: What shows through transparent pixels.
        masks: What of each image is to be learned, by record id; of all records or none.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        hashes: Mapping[str, str],
        sizes: Mapping[str, tuple[int, int]],
        seed: int,
        encode_images: EncodeImages,
        crop: str = "center",
        flip: bool = False,
        num_variants: int = 1,
        crop_seed: int = 0,
        latent_cache: LatentCache | None = None,
        encode_text: EncodeText | None = None,
        text_cache: TextCache | None = None,
        caption_dropout: float = 0.0,
        background: Colour = (255, 255, 255),
        masks: Mapping[str, MaskSource] | None = None,
    ) -> None:
        assert text_cache is None or encode_text is not None, "a text cache needs an encoder"
        self.records = list(records)
        self.reader = SampleReader(
            records,
            hashes=hashes,
            sizes=sizes,
            crop=crop,
            flip=flip,
            num_variants=num_variants,
            seed=seed,
            crop_seed=crop_seed,
            background=background,
            caption_dropout=caption_dropout,
            latent_cache=latent_cache,
            text_cache=text_cache,
            masks=masks,
        )
        self._encode_images = encode_images
        self._encode_text = encode_text

    @property
    def ids(self) -> list[str]:
        """The ids of the records."""
        return [record.id for record in self.records]

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(width, height) that each image is trained at, by record id. A batch holds images of one size."""
        return self.reader.sizes

    def batch(self, draws: Sequence[Draw], weights: Sequence[float]) -> Batch:
        """The batch of some draws, read and encoded here and now."""
        return self.finish(self.reader.read(draws, weights))

    def finish(self, samples: Sequence[Sample]) -> Batch:
        """Encodes what was not cached, keeps it, and stacks the samples."""
        latents: dict[str, LatentEntry] = {}
        texts: dict[str, TextEntry] = {}
        finished = []
        for sample in samples:
            latent, text = sample.latent, sample.text
            if isinstance(latent, Variant):
                if sample.latent_key not in latents:
                    latents[sample.latent_key] = self._encode_latent(
                        sample.latent_key, latent, sample.draw.id
                    )
                latent = latents[sample.latent_key]
            if text is None and self._encode_text is not None:
                if sample.caption not in texts:
                    texts[sample.caption] = self._encode_caption(sample.caption)
                text = texts[sample.caption]
            finished.append(replace(sample, latent=latent, text=text))
        batch = assemble(finished)
        return pin(batch) if torch.cuda.is_available() else batch

    def num_missing(self) -> tuple[Counter[tuple[int, int]], int]:
        """How many variants of each size and how many prompts the caches lack; the others are claimed."""
        sizes = Counter[tuple[int, int]]()
        for record, numbers in self._missing_images(self.records):
            sizes[self.sizes[record.id]] += len(numbers)
        return sizes, len(self._missing_texts(self.records))

    def fill(self, progress: Progress | None = None, *, rank: int = 0, world_size: int = 1) -> int:
        """Encodes what the caches lack, so that training does not wait for it. The caller sees to the space.

        Args:
            progress: Called with (done, total) after each image or prompt.
            rank: Encodes only every `world_size`-th record, from this one on. The caller lets the
                ranks wait for each other.
            world_size: Number of processes that share the work.

        Returns:
            How many entries were missing here.

        Raises:
            UserError: an image cannot be decoded, or the disk is full.
        """
        images = self._missing_images(self.records[rank::world_size])
        texts = self._missing_texts(self.records[rank::world_size])
        total = sum(len(numbers) for _, numbers in images) + len(texts)
        for done, _ in enumerate(self._fill_all(images, texts), start=1):
            if progress is not None:
                progress(done, total)
        return total

    def _fill_all(self, images: list[tuple[Record, list[int]]], texts: list[str]) -> Iterator[None]:
        """Encodes and keeps entry after entry."""
        for (record, numbers), decoded in self._decoded(images):
            for number in numbers:
                key = self.reader.latent_key(record.id, number)
                self._encode_latent(key, self.reader.prepare(record.id, number, decoded), record.id)
                yield
        for text in texts:
            self._encode_caption(text)
            yield

    def _missing_images(self, records: Sequence[Record]) -> list[tuple[Record, list[int]]]:
        """Records with the variants that the cache lacks; copies of an image are listed once."""
        cache = self.reader.latent_cache
        if cache is None:
            return []
        seen: set[str] = set()
        missing = []
        for record in records:
            numbers = []
            for number in range(self.reader.num_variants):
                key = self.reader.latent_key(record.id, number)
                if key not in seen and not cache.claim(key):
                    numbers.append(number)
                seen.add(key)
            if numbers:
                missing.append((record, numbers))
        return missing

    def _missing_texts(self, records: Sequence[Record]) -> list[str]:
        """Captions that the cache lacks; the empty one is always wanted, for caption dropout and guidance."""
        cache = self.reader.text_cache
        if cache is None:
            return []
        return [text for text in dict.fromkeys(["", *(r.caption for r in records)]) if not cache.claim(text)]

    def _decoded(
        self, images: list[tuple[Record, list[int]]]
    ) -> Iterator[tuple[tuple[Record, list[int]], Decoded]]:
        """Each item with its image, decoded ahead in threads (decoders release the interpreter's lock)."""
        with ThreadPoolExecutor(_READ_AHEAD_THREADS) as pool:
            waiting: deque[Future[Decoded]] = deque()
            for index, item in enumerate(images):
                for record, _ in images[index + len(waiting) : index + _READ_AHEAD]:
                    waiting.append(pool.submit(self.reader.decode, record.id))
                yield item, waiting.popleft().result()

    def _encode_latent(self, key: str, variant: Variant, id: str) -> LatentEntry:
        """The posterior of one variant, kept if there is a cache, and rounded as the cache returns it."""
        mean, std = self._encode_images(to_pixels(variant.pixels))
        moments = torch.cat([mean, std]).detach().float().cpu()
        if not moments.isfinite().all():
            raise UserError(
                f"The VAE gives NaN or infinity for {id}. It does not bear this precision: set "
                "trainer.mixed_precision=no, or for SDXL model.vae_path=madebyollin/sdxl-vae-fp16-fix."
            )
        entry = LatentEntry(
            moments=moments,
            original_size=variant.original_size,
            crop_top_left=variant.crop_top_left,
            mask=None if variant.mask is None else to_cells(variant.mask, moments.shape[-2:]),
        )
        cache = self.reader.latent_cache
        if cache is None:
            return entry
        cache.put(key, entry)
        return cache.rounded(entry)

    def _encode_caption(self, caption: str) -> TextEntry:
        """The embedding of one prompt, kept if there is a cache, and rounded as the cache returns it."""
        assert self._encode_text is not None
        with torch.no_grad():
            hidden, pooled = self._encode_text([caption])
        entry = TextEntry(
            hidden=hidden[0].float().cpu(), pooled=None if pooled is None else pooled[0].float().cpu()
        )
        cache = self.reader.text_cache
        if cache is None:
            return entry
        cache.put(caption, entry)
        return cache.rounded(entry)


def rounded_text(encode_text: EncodeText, precision: str) -> EncodeText:
    """An encoder whose embeddings are what a text cache of this precision would return."""

    def encode(prompts: list[str]) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b p"] | None]:
        hidden, pooled = encode_text(prompts)
        dtype = DTYPES[precision]
        return hidden.to(dtype).float(), None if pooled is None else pooled.to(dtype).float()

    return encode


def to_pixels(image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    """8-bit pixels to what the VAE takes: float32 in [-1, 1], one image."""
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1.0


def to_cells(mask: UInt8[np.ndarray, "height width"], size: torch.Size) -> Float[Tensor, "h w"]:
    """The mean of an 8-bit mask over the pixels of each latent cell, 0 to 1.

    Args:
        mask: Of the crop.
        size: (height, width) of the latent.
    """
    values = torch.from_numpy(mask)[None].float() / 255
    return torch.nn.functional.adaptive_avg_pool2d(values, (size[0], size[1]))[0]
