"""One micro-batch of encoded samples, as the training loop gets it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.data.images import Variant
from src.data.latent_cache import LatentEntry
from src.data.order import Draw
from src.data.text_cache import TextEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeddingsTensors:
    """Embeddings of a batch of prompts."""

    hidden: Float[Tensor, "b t d"]
    pooled: Float[Tensor, "b p"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples with their addresses, on the CPU (pinned where there is a CUDA device).

    Attributes:
        ids: Record ids; with `pass_numbers` and `draws` the address of each sample's randomness.
        pass_numbers: Pass of each sample.
        draws: Draw number of each sample.
        mean: Posterior mean, scaled.
        std: Posterior standard deviation, scaled.
        captions: After caption dropout.
        embeddings: Text embeddings, or None where a text encoder or token embedding is trained.
        original_sizes: (height, width) of the upright images before resizing.
        crop_top_lefts: (top, left) of the crops in the resized images.
        target_sizes: (height, width) of the crops.
        weights: 1, or 0 for padding.
        masks: The part of each latent cell that is to be learned, 0 to 1; None without masks.
        class_images: The class images that accompany these samples, for prior preservation.
    """

    ids: list[str]
    pass_numbers: list[int]
    draws: list[int]
    mean: Float[Tensor, "b c h w"]
    std: Float[Tensor, "b c h w"]
    captions: list[str]
    embeddings: TextEmbeddingsTensors | None
    original_sizes: Int[Tensor, "b 2"]
    crop_top_lefts: Int[Tensor, "b 2"]
    target_sizes: Int[Tensor, "b 2"]
    weights: Float[Tensor, " b"]
    masks: Float[Tensor, "b h w"] | None = None
    class_images: "Batch | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample on its way to a batch: read from the caches, or still to be encoded.

    Attributes:
        draw: Its address.
        weight: 1, or 0 for padding.
        caption: After caption dropout.
        latent_key: Key of its variant in the latent cache.
        size: (width, height) of the crop.
        latent: The posterior, or the pixels that the VAE has yet to encode.
        text: The embedding, or None if it has yet to be encoded or is not wanted.
    """

    draw: Draw
    weight: float
    caption: str
    latent_key: str
    size: tuple[int, int]
    latent: LatentEntry | Variant
    text: TextEntry | None


def assemble(samples: Sequence[Sample]) -> Batch:
    """Stacks encoded samples of one size."""
    entries = [sample.latent for sample in samples if isinstance(sample.latent, LatentEntry)]
    assert len(entries) == len(samples), "a sample without a posterior"
    moments = torch.stack([entry.moments for entry in entries], dim=1)
    return Batch(
        ids=[sample.draw.id for sample in samples],
        pass_numbers=[sample.draw.pass_number for sample in samples],
        draws=[sample.draw.draw for sample in samples],
        mean=moments[0],
        std=moments[1],
        captions=[sample.caption for sample in samples],
        embeddings=_stack_text([sample.text for sample in samples if sample.text is not None], len(samples)),
        original_sizes=torch.tensor([entry.original_size[::-1] for entry in entries]),
        crop_top_lefts=torch.tensor([entry.crop_top_left for entry in entries]),
        target_sizes=torch.tensor([sample.size[::-1] for sample in samples]),
        weights=torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        masks=_stack_masks([entry.mask for entry in entries if entry.mask is not None], len(samples)),
    )


def _stack_masks(masks: Sequence[Float[Tensor, "h w"]], num_samples: int) -> Float[Tensor, "b h w"] | None:
    if not masks:
        return None
    assert len(masks) == num_samples, "a sample without a mask"
    return torch.stack(list(masks))


def _stack_text(texts: Sequence[TextEntry], num_samples: int) -> TextEmbeddingsTensors | None:
    if not texts:
        return None
    assert len(texts) == num_samples, "a sample without a text embedding"
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextEmbeddingsTensors(
        hidden=torch.stack([text.hidden for text in texts]), pooled=torch.stack(pooled) if pooled else None
    )


def pin(batch: Batch) -> Batch:
    """The batch in page-locked memory, from where copies to a CUDA device do not wait."""
    embeddings = batch.embeddings
    if embeddings is not None:
        pooled = embeddings.pooled
        embeddings = TextEmbeddingsTensors(
            hidden=embeddings.hidden.pin_memory(), pooled=None if pooled is None else pooled.pin_memory()
        )
    return Batch(
        ids=batch.ids,
        pass_numbers=batch.pass_numbers,
        draws=batch.draws,
        mean=batch.mean.pin_memory(),
        std=batch.std.pin_memory(),
        captions=batch.captions,
        embeddings=embeddings,
        original_sizes=batch.original_sizes.pin_memory(),
        crop_top_lefts=batch.crop_top_lefts.pin_memory(),
        target_sizes=batch.target_sizes.pin_memory(),
        weights=batch.weights.pin_memory(),
        masks=None if batch.masks is None else batch.masks.pin_memory(),
    )
