"""Which class image accompanies which training image: a function of (seed, pass, ids), too."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from src.data.order import Draw, MicroBatch, pass_order


def class_draws(
    ids: Sequence[str], class_ids: Sequence[str], *, seed: int, pass_number: int
) -> dict[str, Draw]:
    """The class image that goes with each training image of one pass.

    Class images have passes of their own, as many images long as there are class images, and go on where the
    pass before left them: so all are used equally often, however many there are. A draw's pass number is that
    of the class images, which makes its address unique.

    Args:
        ids: The training images.
        class_ids: The class images.
        seed: The training seed.
        pass_number: Of the training images.

    Returns:
        A draw for each training image, by its id. Batches, buckets and ranks do not matter.
    """
    found = {}
    order: list[str] = []
    before = -1
    first = pass_number * len(ids)
    for number, id in enumerate(pass_order(ids, seed=seed, pass_number=pass_number), start=first):
        class_pass, index = divmod(number, len(class_ids))
        if class_pass != before:
            order, before = pass_order(class_ids, seed=seed, pass_number=class_pass), class_pass
        found[id] = Draw(id=order[index], pass_number=class_pass)
    return found


def with_class_images(
    plan: Iterator[MicroBatch], ids: Sequence[str], class_ids: Sequence[str], *, seed: int
) -> Iterator[MicroBatch]:
    """Micro-batches with a class image for each of their training images.

    Args:
        plan: From `micro_batches` over the same ids and seed.
        ids: The training images.
        class_ids: The class images, at least one.
        seed: The training seed.
    """
    assert class_ids, "no class images to choose from"
    present, drawn = -1, dict[str, Draw]()
    for micro_batch in plan:
        if micro_batch.position.pass_number != present:
            present = micro_batch.position.pass_number
            drawn = class_draws(ids, class_ids, seed=seed, pass_number=present)
        yield replace(micro_batch, class_draws=tuple(drawn[draw.id] for draw in micro_batch.draws))
