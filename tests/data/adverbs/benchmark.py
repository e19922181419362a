"""How well and how fast adverbs are found: python -m tests.data.adverbs.benchmark [--write].

Prints precision, recall and F1 by half and by trap, every error that is left, and captions a second with one
and two processes. `--write` puts the tables and 50 captions before and after into docs/adverbs.md.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from src.data.adverbs.finder import find_adverbs
from src.data.adverbs.removal import remove_adverbs, remove_adverbs_from_all
from src.data.adverbs.tagger import Tag, tag_word, tagger_version, tokenize
from tests.data.adverbs.labelled import HALVES, Finder, Labelled, Score, Span, load, score

PAGE = Path(__file__).parents[3] / "docs" / "adverbs.md"
START, END = "<!-- benchmark -->", "<!-- end of benchmark -->"
NUM_SHOWN = 50
_NUM_TIMED = 200_000


def ly_rule(caption: str) -> list[Span]:
    """The bare rule to beat: a word in -ly is an adverb."""
    return [(token.start, token.end) for token in tokenize(caption) if token.text.lower().endswith("ly")]


def tagger_alone(caption: str) -> list[Span]:
    """The tagger's adverbs without any rule."""
    tokens = [token for token in tokenize(caption) if token.text[0].isalnum()]
    return [(token.start, token.end) for token in tokens if tag_word(token.text.lower()) is Tag.ADVERB]


FINDERS: dict[str, Finder] = {"-ly": ly_rule, "TextBlob": tagger_alone, "TextBlob and rules": find_adverbs}


def report() -> str:
    """The part of docs/adverbs.md that is measured, as Markdown."""
    items = load()
    sections = [
        f"Measured with {tagger_version()} on {len(items)} captions.",
        _table(("", "captions", "adverbs", "precision", "recall", "F1"), _by_finder(items)),
        _table(("trap", "captions", "adverbs", "wrong", "missed", "precision", "recall"), _by_trap(items)),
        _faults(score(items, find_adverbs)),
        _table(("before", "after"), _before_and_after(items)),
    ]
    return "\n\n".join(sections)


def _by_finder(items: list[Labelled]) -> Iterator[tuple[str, ...]]:
    for name, find in FINDERS.items():
        for half in (*HALVES, None):
            part = [item for item in items if half in (None, item.half)]
            result = score(part, find)
            label = f"{name}, {half or 'all'}"
            figures = (f"{figure:.3f}" for figure in (result.precision, result.recall, result.f1))
            yield label, str(len(part)), str(result.num_labelled), *figures


def _by_trap(items: list[Labelled]) -> Iterator[tuple[str, ...]]:
    for trap in sorted({trap for item in items for trap in item.traps}):
        part = [item for item in items if trap in item.traps]
        result = score(part, find_adverbs)
        wrong, missed = result.num_found - result.num_right, result.num_labelled - result.num_right
        counts = (len(part), result.num_labelled, wrong, missed)
        yield trap, *map(str, counts), f"{result.precision:.3f}", f"{result.recall:.3f}"


def _faults(result: Score) -> str:
    if not result.faults:
        return "No error is left on these captions."
    lines = [f"- {fault.kind}: *{fault.word}* in: {fault.caption}" for fault in result.faults]
    return "\n".join([f"{len(lines)} errors are left:", "", *lines])


def _before_and_after(items: list[Labelled]) -> list[tuple[str, str]]:
    """Captions that change, evenly from the file."""
    pairs = [(item.caption, remove_adverbs(item.caption)) for item in items]
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    return [changed[number * len(changed) // NUM_SHOWN] for number in range(NUM_SHOWN)]


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(text: str) -> None:
    """Puts the report between the markers of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def captions_per_second(num_processes: int) -> float:
    """With the start of the processes and the loading of the tagger."""
    captions = [item.caption for item in load()]
    captions = (captions * (_NUM_TIMED // len(captions) + 1))[:_NUM_TIMED]
    start = time.perf_counter()
    remove_adverbs_from_all(captions, num_processes=num_processes, progress=True)
    return len(captions) / (time.perf_counter() - start)


def main() -> None:
    """Prints the report and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/adverbs.md")
    arguments = parser.parse_args()
    text = report()
    print(text)
    if arguments.write:
        write_page(text)
    for num_processes in (1, 2):
        print(f"{num_processes} process(es): {captions_per_second(num_processes):,.0f} captions/s")


if __name__ == "__main__":
    main()
