"""The order of samples: a function of (seed, pass, ids), so that a position is all a resumed run needs."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from src.randomness import address_seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands.

    Attributes:
        pass_number: Passes over the dataset that are complete.
        index: Global micro-batches of the present pass that are done.
    """

    pass_number: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One use of one sample: the address of its noise, timestep, variant and caption dropout.

    Attributes:
        id: The record's id.
        pass_number: The pass it belongs to.
        draw: Counts the uses of the same sample within a pass.
    """

    id: str
    pass_number: int
    draw: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The samples of one micro-batch over all ranks, its position, and the position after it.

    Attributes:
        position: Where it is in the order.
        next_position: The position after it.
        draws: Its samples.
        class_draws: A class image for each of them, where there are class images (see `with_class_images`).
    """

    position: Position
    next_position: Position
    draws: tuple[Draw, ...]
    class_draws: tuple[Draw, ...] = ()


def pass_order(ids: Sequence[str], *, seed: int, pass_number: int) -> list[str]:
    """The order of one pass; it does not depend on the order of `ids`, on batches or on ranks."""
    return [
        id for _, id in sorted(zip(address_seeds(seed, "order", pass_number, each=ids), ids, strict=True))
    ]


def micro_batches(
    ids: Sequence[str],
    *,
    seed: int,
    global_batch_size: int,
    start: Position,
    bucket_of: Mapping[str, Hashable] | None = None,
) -> Iterator[MicroBatch]:
    """The endless sequence of micro-batches from a position on.

    A micro-batch never holds samples of two passes or of two buckets, so the last ones of a pass may be
    smaller.

    Args:
        ids: The records to draw from.
        seed: The training seed.
        global_batch_size: Samples in a micro-batch, all ranks together.
        start: The first position to give.
        bucket_of: The bucket of each id, where images come in several shapes.
    """
    assert ids, "an empty dataset has no order"
    assert global_batch_size >= 1
    position = start
    while True:
        order = pass_order(ids, seed=seed, pass_number=position.pass_number)
        batches = _batches(order, global_batch_size, bucket_of)
        for index in range(position.index, len(batches)):
            is_last = index + 1 == len(batches)
            yield MicroBatch(
                position=Position(pass_number=position.pass_number, index=index),
                next_position=_after(position.pass_number, index, is_last=is_last),
                draws=tuple(Draw(id=id, pass_number=position.pass_number) for id in batches[index]),
            )
        position = Position(pass_number=position.pass_number + 1)


def num_micro_batches(
    ids: Sequence[str], *, global_batch_size: int, bucket_of: Mapping[str, Hashable] | None = None
) -> int:
    """Micro-batches in one pass; the same for every pass."""
    in_bucket = Counter(None if bucket_of is None else bucket_of[id] for id in ids)
    return sum(-(-count // global_batch_size) for count in in_bucket.values())


def _after(pass_number: int, index: int, *, is_last: bool) -> Position:
    return (
        Position(pass_number=pass_number + 1)
        if is_last
        else Position(pass_number=pass_number, index=index + 1)
    )


def _batches(order: Sequence[str], size: int, bucket_of: Mapping[str, Hashable] | None) -> list[list[str]]:
    """Cuts an order into batches of one bucket each; full ones where they fill up, the rest at the end."""
    batches: list[list[str]] = []
    open_batches: dict[Hashable, list[str]] = {}
    for id in order:
        bucket = None if bucket_of is None else bucket_of[id]
        batch = open_batches.setdefault(bucket, [])
        batch.append(id)
        if len(batch) == size:
            batches.append(open_batches.pop(bucket))
    return [*batches, *open_batches.values()]


def rank_share(
    draws: Sequence[Draw], *, rank: int, world_size: int, batch_size: int
) -> tuple[list[Draw], list[float]]:
    """One rank's share of a global micro-batch, with the weight of each sample.

    All ranks get equally many: where the samples do not suffice, a first one is repeated with weight 0, so
    that no rank is empty and none waits for another.
    """
    assert 0 <= rank < world_size
    assert 0 < len(draws) <= batch_size * world_size, "a micro-batch larger than its ranks can take"
    share = list(draws[rank::world_size])
    num_padding = -(-len(draws) // world_size) - len(share)
    return share + [draws[0]] * num_padding, [1.0] * len(share) + [0.0] * num_padding
