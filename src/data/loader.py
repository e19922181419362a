"""Micro-batches read ahead by worker processes. Positions say what is read, so workers change nothing."""

import pickle
import signal
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import DataLoader, Dataset

from src.data.batches import Batch, Sample
from src.data.class_order import with_class_images
from src.data.encode import EncodedDataset
from src.data.order import Draw, MicroBatch, Position, micro_batches, rank_share
from src.data.samples import SampleReader
from src.errors import UserError

_PREFETCH = 2


class _RankShare(Dataset[bytes]):
    """Reads this rank's share of a micro-batch: its samples, and the class images that accompany them."""

    def __init__(
        self,
        reader: SampleReader,
        *,
        class_reader: SampleReader | None,
        rank: int,
        world_size: int,
        batch_size: int,
    ) -> None:
        self._reader = reader
        self._class_reader = class_reader
        self._rank = rank
        self._world_size = world_size
        self._batch_size = batch_size

    def read(self, micro_batch: MicroBatch) -> tuple[list[Sample], list[Sample]]:
        samples = self._read(self._reader, micro_batch.draws)
        if self._class_reader is None:
            return samples, []
        return samples, self._read(self._class_reader, micro_batch.class_draws)

    def _read(self, reader: SampleReader, all_draws: Sequence[Draw]) -> list[Sample]:
        draws, weights = rank_share(
            all_draws, rank=self._rank, world_size=self._world_size, batch_size=self._batch_size
        )
        return reader.read(draws, weights)

    def __getitem__(self, micro_batch: MicroBatch) -> bytes:  # type: ignore[override]
        content: tuple[MicroBatch, tuple[list[Sample], list[Sample]] | str]
        try:
            content = (micro_batch, self.read(micro_batch))
        except UserError as error:
            # As a value: an exception from a worker arrives with its whole traceback for a message.
            content = (micro_batch, str(error))
        # As bytes: a tensor on its own would cost a file descriptor and a piece of /dev/shm, which containers
        # are short of.
        return pickle.dumps(content)


def step_batches(
    dataset: EncodedDataset,
    *,
    seed: int,
    batch_size: int,
    start: Position,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    class_images: EncodedDataset | None = None,
) -> Generator[tuple[MicroBatch, Batch], None, None]:
    """The endless sequence of (global micro-batch, this rank's batch) from a position on.

    Workers read caches and decode images ahead; what has to be encoded is encoded here, in the process that
    has the encoders. A micro-batch holds images of one size. Close the iterator to end the workers.

    Args:
        dataset: Encoded records.
        seed: The training seed.
        batch_size: Samples in a micro-batch of one rank.
        start: The first position to give.
        rank: This process.
        world_size: Number of processes.
        num_workers: Processes that read ahead; with 0 everything is read when it is asked for.
        class_images: What accompanies the records as `Batch.class_images`, one for each.

    Raises:
        UserError: an image that is not cached cannot be decoded.
    """
    plan = micro_batches(
        dataset.ids,
        seed=seed,
        global_batch_size=batch_size * world_size,
        start=start,
        bucket_of=dataset.sizes,
    )
    if class_images is not None:
        plan = with_class_images(plan, dataset.ids, class_images.ids, seed=seed)
    share = _RankShare(
        dataset.reader,
        class_reader=None if class_images is None else class_images.reader,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
    )

    def finish(samples: list[Sample], class_samples: list[Sample]) -> Batch:
        batch = dataset.finish(samples)
        return (
            batch if class_images is None else replace(batch, class_images=class_images.finish(class_samples))
        )

    if num_workers == 0:
        for micro_batch in plan:
            yield micro_batch, finish(*share.read(micro_batch))
        return
    loader = DataLoader(
        share,
        sampler=plan,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH,
        worker_init_fn=_leave_signals_to_main,
        # Its own, or it would draw from the global one.
        generator=torch.Generator(),
    )
    for data in loader:
        micro_batch, content = pickle.loads(data)
        if isinstance(content, str):
            raise UserError(content)
        yield micro_batch, finish(*content)


def _leave_signals_to_main(_worker: int) -> None:
    # A scheduler signals all processes of a job. The main one stops at a step boundary and ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
