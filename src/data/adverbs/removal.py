"""Captions without their adverbs."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from src.data.adverbs.finder import find_adverbs
from src.data.adverbs.repair import delete_spans

# Counted up when the same caption would come out otherwise, so that kept results are made again.
RULES_VERSION = 2
_CHUNK = 5000
# One process does these in the time that others take to start.
_PER_PROCESS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedAdverbs:
    """Captions without adverbs, in order, and what happened to them.

    Attributes:
        captions: one for each that was given.
        num_changed: those that lost at least one adverb.
        num_would_be_empty: those that would have no word left and were kept as they were.
    """

    captions: list[str]
    num_changed: int
    num_would_be_empty: int

    @property
    def num_unchanged(self) -> int:
        """Those without an adverb."""
        return len(self.captions) - self.num_changed - self.num_would_be_empty


def remove_adverbs(caption: str) -> str:
    """Removes the adverbs of a caption and mends spaces, punctuation, capital letter and a/an.

    Removing twice is the same as once. A caption without adverbs is returned as it is, to the letter, and so
    is one that would have no word left.

    Args:
        caption: in English.

    Raises:
        UserError: the tagger is not installed.
    """
    shorter = _without_adverbs(caption)
    return caption if shorter is None else shorter


def remove_adverbs_from_all(
    captions: Sequence[str], *, num_processes: int = 1, progress: bool = False
) -> RemovedAdverbs:
    """Removes the adverbs of many captions, in parallel.

    Args:
        captions: in English.
        num_processes: worker processes at most; with one, or with few captions, none is started.
        progress: show a progress bar when on a terminal.

    Raises:
        UserError: the tagger is not installed.
    """
    chunks = [captions[start : start + _CHUNK] for start in range(0, len(captions), _CHUNK)]
    results: list[str | None] = []
    with tqdm(
        total=len(captions),
        desc="Removing adverbs",
        unit="caption",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for done in _process(chunks, num_processes=min(num_processes, len(captions) // _PER_PROCESS)):
            results.extend(done)
            bar.update(len(done))
    pairs = list(zip(captions, results, strict=True))
    return RemovedAdverbs(
        captions=[before if after is None else after for before, after in pairs],
        num_changed=sum(after is not None and after != before for before, after in pairs),
        num_would_be_empty=results.count(None),
    )


def _without_adverbs(caption: str) -> str | None:
    """The caption without adverbs; None if no word would be left."""
    shorter = caption
    # What is left can read differently, so it is read again; each round makes it shorter.
    while spans := find_adverbs(shorter):
        shorter = delete_spans(shorter, spans)
        if not any(character.isalnum() for character in shorter):
            return None
    return shorter


def _without_adverbs_in(captions: Sequence[str]) -> list[str | None]:
    return [_without_adverbs(caption) for caption in captions]


def _process(chunks: Sequence[Sequence[str]], *, num_processes: int) -> Iterator[list[str | None]]:
    if num_processes <= 1:
        yield from map(_without_adverbs_in, chunks)
        return
    # Forked children would inherit the threads of torch and of loggers.
    pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))
    try:
        with _signals_blocked():
            results = pool.map(_without_adverbs_in, chunks)
        yield from results
    finally:
        # After Ctrl-C the chunks that wait are dropped; those at work take less than a second.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Children that start meanwhile never get the signals: a terminal and a scheduler send them to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
