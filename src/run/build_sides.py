"""Both sides of the split, encoded."""

import logging
from dataclasses import dataclass

from accelerate import Accelerator

from src.config.schema import TrainConfig
from src.data.encode import EncodedDataset
from src.data.records import Record
from src.models.base import DiffusionModel
from src.run.build_data import PreparedData
from src.run.build_encoded import encoded_dataset, fill_cache
from src.run.build_model import trains_text
from src.run.room_agreement import Room, agree_on_room, hold_cache_limit
from src.training.accelerator import Agreement

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSides:
    """The dataset as training sees it, and as it is measured: without crops, flips and caption dropout.

    Class images, where there are any, are trained on and not measured.
    """

    train: EncodedDataset
    probe: EncodedDataset
    held_out: EncodedDataset
    class_images: EncodedDataset | None


def encode_sides(
    config: TrainConfig,
    data: PreparedData,
    *,
    model: DiffusionModel,
    accelerator: Accelerator,
    agreement: Agreement,
) -> EncodedSides:
    """Both sides of the split, their caches filled by all processes together."""
    live_text = trains_text(config.adapter)
    if live_text and config.dataset.cache:
        log.info("Texts are encoded at each step and not kept: a text encoder or an embedding is trained")

    def make(*, keep_text: bool) -> EncodedSides:
        def side(records: list[Record], *, train: bool) -> EncodedDataset:
            return encoded_dataset(
                records,
                config=config,
                data=data,
                model=model,
                train=train,
                live_text=live_text,
                keep_text=keep_text,
            )

        drawn = None if data.class_images is None else side(data.class_images.records, train=True)
        return EncodedSides(
            train=side(data.split.train, train=True),
            probe=side(data.split.train, train=False),
            held_out=side(data.split.validation, train=False),
            class_images=drawn,
        )

    sides = make(keep_text=True)
    if config.dataset.cache:
        room = agree_on_room(
            config,
            list(_filled(sides).values()),
            # Its centre crops are among the others, or encoded when they are first measured.
            [sides.probe] if config.dataset.crop == "random" else [],
            model=model,
            is_main=accelerator.is_main_process,
            agreement=agreement,
        )
        if room is Room.NOT_FOR_TEXT:
            sides = make(keep_text=False)
        if room is not Room.NOTHING_TO_DO:
            ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
            for what, dataset in _filled(sides).items():
                fill_cache(dataset, what=what, **ranks)
            agreement.wait()
        if accelerator.is_main_process:
            hold_cache_limit(config)
    return sides


def _filled(sides: EncodedSides) -> dict[str, EncodedDataset]:
    """What is encoded before training, by name."""
    named = {"training images": sides.train, "validation images": sides.held_out}
    return named if sides.class_images is None else {**named, "class images": sides.class_images}
