"""Micro-batches in groups of one optimiser step."""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

from src.training.optimizer_step import Share
from src.training.plan import Plan


def step_groups(batches: Iterator[Share], plan: Plan) -> Generator[list[Share], None, None]:
    """The micro-batches of each step: fewer than planned where the run ends with a pass.

    Closing this closes the batches with it, and that ends the loader's worker processes.

    Args:
        batches: the endless micro-batches from where the run is.
        plan: how many make a step, and where the passes end.
    """
    with closing(_closable(batches)) as shares:
        while group := list(_next_group(shares, plan)):
            yield group


def _next_group(shares: Iterator[Share], plan: Plan) -> Iterator[Share]:
    for share in islice(shares, plan.gradient_accumulation_steps):
        yield share
        if plan.ends_before(share[0].next_position):
            return


def _closable(batches: Iterator[Share]) -> Generator[Share, None, None]:
    yield from batches
