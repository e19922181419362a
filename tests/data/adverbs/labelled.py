"""The labelled captions, their two halves, and the scores of a way to find adverbs in them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("captions.jsonl")
# Labelled later and never looked at while a rule was written.
FRESH = Path(__file__).with_name("fresh_captions.jsonl")
HALVES = ("development", "held out")

Span = tuple[int, int]
Finder = Callable[[str], Iterable[Span]]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A caption, its adverbs, the traps in it, and what a good editor leaves."""

    caption: str
    adverbs: frozenset[Span]
    traps: tuple[str, ...]
    without: str

    @property
    def half(self) -> str:
        """The rules were written looking at one half only. By a hash, so that nobody chose."""
        return HALVES[hashlib.sha256(self.caption.encode()).digest()[0] % 2]


class Fault(NamedTuple):
    """A word that was taken for an adverb, or one that was missed."""

    kind: str
    word: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counted by span: a span counts as found if both its ends are right."""

    num_found: int
    num_right: int
    num_labelled: int
    faults: tuple[Fault, ...]

    @property
    def precision(self) -> float:
        return self.num_right / max(self.num_found, 1)

    @property
    def recall(self) -> float:
        return self.num_right / max(self.num_labelled, 1)

    @property
    def f1(self) -> float:
        return 2 * self.num_right / max(self.num_found + self.num_labelled, 1)


def load(half: str | None = None, *, file: Path = FILE) -> list[Labelled]:
    items = []
    for line in file.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        items.append(
            Labelled(
                caption=item["caption"],
                adverbs=frozenset((start, end) for start, end in item["adverbs"]),
                traps=tuple(item["traps"]),
                without=item.get("without", ""),
            )
        )
    return [item for item in items if half in (None, item.half)]


def score(items: Iterable[Labelled], find: Finder) -> Score:
    num_found = num_right = num_labelled = 0
    faults: list[Fault] = []
    for item in items:
        found = frozenset(find(item.caption))
        num_found += len(found)
        num_right += len(found & item.adverbs)
        num_labelled += len(item.adverbs)
        for start, end in sorted(found ^ item.adverbs):
            kind = "wrong" if (start, end) in found else "missed"
            faults.append(Fault(kind, item.caption[start:end], item.caption))
    return Score(num_found=num_found, num_right=num_right, num_labelled=num_labelled, faults=tuple(faults))
