"""ARASAAC pictograms: a table, or the items of ARASAAC's own API, beside the images."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.checks import require_whole_number
from src.data.readers.captions import caption_fault, shown
from src.data.readers.common import (
    first_by_hash,
    is_text,
    outside_problem,
    read_text,
    require_scan,
    simplify,
    text_of,
)
from src.data.records import Problem, ReadResult, Record, few
from src.errors import UserError

# What the licence asks for wherever the pictograms, or what was made of them, are shown.
CREDIT = (
    "Author of the pictograms: Sergio Palao. Origin: ARASAAC (https://arasaac.org). Licence: CC BY-NC-SA. "
    "Owner: Government of Aragon (Spain)."
)
METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.json", "pictograms.json")
CAPTION_STYLES = ("simple", "descriptive", "template")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
_ID_COLUMNS = ("_id", "id")
# The API offers each pictogram in these widths; the first that is there is taken.
_WIDTHS = (500, 300, 2500)
_FLAGS = ("violence", "sex")
_MAX_DETAILS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictogram:
    """One item, whatever file it came from. `where` is its place there, for messages."""

    where: str
    id: str
    file_name: str
    title: str
    keywords: list[str]
    categories: list[str]
    is_flagged: bool


def read_arasaac(
    *,
    path: Path,
    placeholder: str | None = None,
    caption_style: str = "simple",
    metadata_file: str | None = None,
    max_samples: int | None = None,
) -> ReadResult:
    """Reads a folder of pictograms with their titles, keywords and categories.

    The table has the columns title, keywords (`a|b|c`) and categories, and may have an id or a file name;
    the JSON is a list of such objects or of ARASAAC's API items (`_id`, `keywords`, `categories`, `tags`).
    An image is found by file name, by id (`2239.png`, `2239_500.png`, `2239/2239_500.png`) or by title.
    Items flagged violence or sex are left out and counted, and images that no item names are warned about.

    Args:
        path: The folder.
        placeholder: A word put before each caption, to bind the style to it.
        caption_style: "simple" (grandfather), "descriptive" (a pictogram of grandfather, elderly family
            member) or "template" (ARASAAC pictogram showing grandfather).
        metadata_file: The table's name; by default the first of `METADATA_FILES` that is there.
        max_samples: Take no more than so many; see `first_by_hash`.

    Raises:
        UserError: the folder, its images or the metadata are missing, or the metadata cannot be parsed.
    """
    if caption_style not in CAPTION_STYLES:
        raise UserError(f"caption_style={caption_style} must be one of {', '.join(CAPTION_STYLES)}.")
    if max_samples is not None:
        require_whole_number("max_samples", max_samples, least=1)
    found = require_scan(path, "pictogram")
    images = found.images
    file = _find_metadata(path, metadata_file)
    text, problems = read_text(file)
    problems = [*found.problems, *problems]
    if text is None:
        return ReadResult(records=[], problems=problems)
    items = _parse(text, file)
    if not items:
        problems.append(Problem(file=file.name, message="lists no pictograms. Export it again."))
    finder = _ImageFinder(images)
    records: list[Record] = []
    named: set[str] = set()
    for item in items:
        candidates = finder.find(item)
        named.update(candidates)
        if item.is_flagged:
            continue
        title = shown(item.title or item.id)
        if not candidates:
            message = f"no image for {title}. Restore it or remove the entry."
            problems.append(Problem(file=item.where, message=message, is_skippable=True))
            continue
        image = candidates[0]
        caption = _caption(item, caption_style)
        if fault := _fault(item, caption):
            problems.append(
                Problem(file=item.where, message=fault, is_skippable=True, images=(images[image],))
            )
            continue
        caption = f"{placeholder} {caption}" if placeholder else caption
        records.append(Record(path=images[image], caption=caption, id=item.id or image))
    num_flagged = sum(item.is_flagged for item in items)
    warnings = (
        [f"{num_flagged} pictograms flagged {' or '.join(_FLAGS)} were left out."] if num_flagged else []
    )
    if items and (unnamed := [name for name in images if name not in named]):
        warnings.append(
            f"{len(unnamed)} images that {file.name} does not name were left out: {few(unnamed)}."
        )
    if max_samples is not None:
        chosen = first_by_hash((record.id for record in records), max_samples)
        records = [record for record in records if record.id in chosen]
    return ReadResult(records=records, problems=problems, warnings=warnings, attribution=CREDIT)


def _fault(item: Pictogram, caption: str) -> str | None:
    """What keeps an item from being trained on, if anything does."""
    if not item.title:
        return "has neither title nor keywords. Add a title."
    if not is_text(item.id):
        return f"the id {shown(item.id)} holds characters that are no text. Write it anew."
    fault = caption_fault(caption)
    return None if fault is None else f"the caption of {shown(item.title)} {fault}"


def _find_metadata(path: Path, metadata_file: str | None) -> Path:
    names = (metadata_file,) if metadata_file is not None else METADATA_FILES
    for name in names:
        file = path / name
        if file.is_file():
            problem = outside_problem(file, name=name, inside=[path.resolve(), file.parent.resolve()])
            if problem is not None:
                raise UserError(str(problem))
            return file
    raise UserError(
        f"No {' or '.join(names)} in {path}. Put the export's table there (columns title, keywords, "
        "categories) or name it with dataset.reader.metadata_file."
    )


def _parse(text: str, file: Path) -> list[Pictogram]:
    if file.suffix.casefold() == ".json":
        return _parse_json(text, file)
    delimiter = "\t" if file.suffix.casefold() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    items = []
    try:
        columns = {text_of(name).casefold() for name in reader.fieldnames or []}
        if not columns & {"title", "keywords"}:
            listed = few([shown(name) for name in sorted(columns)], most=20)
            raise UserError(f"{file} has neither a title nor a keywords column. Its columns: {listed}.")
        for row in reader:
            cells = {text_of(name).casefold(): value for name, value in row.items() if name is not None}
            items.append(to_pictogram(cells, where=f"{file.name}:{reader.line_num}"))
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num} cannot be parsed ({error}). Export it again.") from error
    return items


def _parse_json(text: str, file: Path) -> list[Pictogram]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no valid JSON ({error}). Export it again.") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{file} must be a JSON list of objects, one for each pictogram.")
    return [to_pictogram(item, where=f"{file.name}[{index}]") for index, item in enumerate(items)]


def to_pictogram(item: Mapping[str, Any], *, where: str) -> Pictogram:
    """Reads a row of a table or an item of the API; what it lacks is empty."""
    keywords = words_of(item.get("keywords"))
    return Pictogram(
        where=where,
        id=_first(item, _ID_COLUMNS),
        file_name=_first(item, _FILE_COLUMNS),
        title=_cell(item.get("title")) or (keywords[0] if keywords else ""),
        keywords=keywords,
        categories=words_of(item.get("categories")) or words_of(item.get("tags")),
        is_flagged=any(text_of(item.get(flag)).casefold() in ("true", "1", "yes") for flag in _FLAGS),
    )


def _first(item: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    return next((_cell(item[column]) for column in columns if _cell(item.get(column))), "")


def _cell(value: Any) -> str:
    """A text or a number; what has parts is no word."""
    return text_of(value) if isinstance(value, str | int | float) else ""


def words_of(value: Any) -> list[str]:
    """`a|b|c`, a list of words, or the API's list of objects with a `keyword`."""
    parts = value if isinstance(value, list) else _cell(value).split("|")
    words = (_cell(part.get("keyword") if isinstance(part, dict) else part) for part in parts)
    return [word for word in words if word]


def _caption(item: Pictogram, style: str) -> str:
    if style == "simple":
        return item.title
    if style == "template":
        return f"ARASAAC pictogram showing {item.title}"
    others = [word for word in item.keywords if word.casefold() != item.title.casefold()] or item.categories
    return ", ".join([f"a pictogram of {item.title}", *dict.fromkeys(others[:_MAX_DETAILS])])


class _ImageFinder:
    """Finds the image of an item among the files there are; a name can therefore never leave the folder."""

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._by_name = {simplify(name): name for name in images}
        self._by_base: dict[str, str] = {}
        for name in images:
            base = simplify(name).rpartition("/")[2]
            self._by_base.setdefault(base, name)
            self._by_base.setdefault(_plain(base.rpartition(".")[0]), name)

    def find(self, item: Pictogram) -> list[str]:
        """The images of an item, the one to take first; more if it is there in several widths."""
        if item.file_name:
            name = simplify(item.file_name)
            found = [self._by_name.get(name) or self._by_base.get(name)]
        else:
            stems = [item.id, *(f"{item.id}_{width}" for width in _WIDTHS)] if item.id else []
            found = [self._by_base.get(_plain(stem)) for stem in [*stems, item.title]]
        return [name for name in found if name is not None]


def _plain(stem: str) -> str:
    """A file's stem or a title without case and with one kind of space."""
    return simplify(stem).replace("_", " ").replace("-", " ").strip()
