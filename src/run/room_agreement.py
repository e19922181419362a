"""Whether what a run will keep in the caches fits: said before encoding, agreed on by all ranks."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path

from src.config.schema import TrainConfig
from src.data.cache_limit import lease, on_disk
from src.data.cache_room import Projection, gigabytes, hold_limit, make_room
from src.data.encode import EncodedDataset
from src.data.latent_cache import latent_entry_bytes
from src.data.text_cache import text_entry_bytes
from src.errors import UserError
from src.models.base import DiffusionModel
from src.training.accelerator import Agreement

log = logging.getLogger(__name__)


class Room(Enum):
    """What has to be encoded before training, and what of it can be kept."""

    NOTHING_TO_DO = "nothing to do"
    FOR_ALL = "for all"
    NOT_FOR_TEXT = "not for text"


def cache_lease(config: TrainConfig) -> AbstractContextManager[None]:
    """Keeps what this run needs of the caches safe from eviction while it lasts."""
    if not config.dataset.cache:
        return nullcontext()
    return lease(Path(config.paths.cache_dir), is_needed=config.paths.cache_limit_gb is not None)


def agree_on_room(
    config: TrainConfig,
    filled: Sequence[EncodedDataset],
    claimed: Sequence[EncodedDataset],
    *,
    model: DiffusionModel,
    is_main: bool,
    agreement: Agreement,
) -> Room:
    """Claims what is cached already, makes room for the rest, and says how much fits.

    Args:
        config: the run's configuration.
        filled: what will be encoded before training.
        claimed: what is encoded when it is needed; only what is there already is claimed.
        model: its frozen encoders.
        is_main: whether this is the rank that looks and evicts.
        agreement: tells the others what it found.

    Raises:
        UserError: not even the images fit; on all ranks.
    """
    verdict = None
    if is_main:
        try:
            verdict = _make_room(config, filled, claimed, model=model).value
        except UserError as error:
            verdict = str(error)
    verdict = agreement.from_main(verdict)
    assert verdict is not None
    if verdict not in {room.value for room in Room}:
        raise UserError(verdict)
    return Room(verdict)


def hold_cache_limit(config: TrainConfig) -> None:
    """Evicts what is beyond the limit, which was lowered, or that jobs at the same time exceeded."""
    limit_bytes = _limit_bytes(config)
    if limit_bytes is not None:
        hold_limit(Path(config.paths.cache_dir), limit_bytes)


def _make_room(
    config: TrainConfig,
    filled: Sequence[EncodedDataset],
    claimed: Sequence[EncodedDataset],
    *,
    model: DiffusionModel,
) -> Room:
    cache_dir = Path(config.paths.cache_dir)
    missing = [side.num_missing() for side in filled]
    for side in claimed:
        side.num_missing()
    images, num_texts = sum((images for images, _ in missing), Counter()), sum(texts for _, texts in missing)
    num_images = images.total()
    if num_images + num_texts == 0:
        return Room.NOTHING_TO_DO
    precision = config.dataset.cache_precision

    def of_image(size: tuple[int, int]) -> int:
        return on_disk(
            latent_entry_bytes(
                size,
                channels=model.latent_channels,
                factor=model.vae_scale_factor,
                precision=precision,
                has_mask=any(side.reader.has_masks for side in filled),
            )
        )

    wanted = Projection(
        num_images=num_images,
        num_texts=num_texts,
        image_bytes=sum(count * of_image(size) for size, count in images.items()),
        text_bytes=num_texts * on_disk(_text_bytes(model, precision)) if num_texts else 0,
    )
    log.info(
        "Encoding %d images (%s) and %d texts (%s) in %s",
        num_images,
        gigabytes(wanted.image_bytes),
        num_texts,
        gigabytes(wanted.text_bytes),
        cache_dir,
    )
    fits = make_room(wanted, cache_dir=cache_dir, limit_bytes=_limit_bytes(config))
    return Room.FOR_ALL if fits else Room.NOT_FOR_TEXT


def _limit_bytes(config: TrainConfig) -> int | None:
    limit = config.paths.cache_limit_gb
    return None if limit is None else int(limit * 1e9)


def _text_bytes(model: DiffusionModel, precision: str) -> int:
    hidden, pooled = model.encode_prompts([""])
    _, num_tokens, width = hidden.shape
    pooled_width = 0 if pooled is None else pooled.shape[1]
    return text_entry_bytes(num_tokens, width, pooled_width=pooled_width, precision=precision)
