"""What all readers share: finding image files, reading text, and saying what is missing."""

import logging
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.data.images import IMAGE_SUFFIXES
from src.data.masks import masks_among
from src.data.records import Problem, Record
from src.errors import UserError
from src.randomness import address_seed
from src.words import has_word

# Of these the first kind that is there counts.
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
# A prompt has 77 tokens; a text beyond this is a file that lost its line breaks.
MAX_CAPTION = 10_000
_MAX_BYTES = 1 << 30
_NO_TEXT = re.compile("[\x00-\x1f\ud800-\udfff]")
# A file of one of these names in a dataset's folder says whom to credit.
ATTRIBUTION_NAMES = ("attribution.txt", "attribution.md", "attribution")
_MAX_ATTRIBUTION = 2000
_MAX_ATTRIBUTION_BYTES = 4 * _MAX_ATTRIBUTION
# Text files that are no captions.
_PAPERS = ("attribution.", "license.", "licence.", "readme.")
_RUBBISH = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

_log = logging.getLogger(__name__)


def require_folder(path: Path, what: str) -> None:
    """Raises a UserError unless `path` is a folder."""
    if not path.exists():
        raise UserError(
            f"The {what} folder {path} does not exist. Set dataset.path to the folder, "
            "or bring the data with: python train.py -cn prepare"
        )
    if not path.is_dir():
        raise UserError(f"dataset.path={path} is a file. Set it to the folder that holds the {what}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of a dataset's folder that count, by their path relative to it, sorted.

    Attributes:
        images: Image files, by their suffix.
        texts: `.txt` files.
        tables: Metadata files of the image folder convention.
        problems: Links that lead outside the folder, and names that no file of captions could hold.
    """

    images: dict[str, Path]
    texts: dict[str, Path]
    tables: dict[str, Path]
    problems: list[Problem]


def scan(folder: Path) -> Folder:
    """One walk through a folder and its subfolders.

    Hidden files, macOS leftovers (`._*`, `__MACOSX`), masks (`masks_among`) and all other kinds of files are
    ignored, and so are links to folders within. What lies outside is never read: a link that leads there is
    a problem.
    """
    root = folder.resolve()
    found = Folder(images={}, texts={}, tables={}, problems=[])

    def refuse(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        message = f"cannot be listed ({error.strerror}). Change its permissions."
        found.problems.append(Problem(file=name, message=message))

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not _is_rubbish(name))
        for name in sorted(files):
            if (group := _group(found, name)) is not None:
                problem = _add(group, Path(place, name), folder=folder, root=root)
                if problem is not None:
                    # Without one image the others are what they are; not so without captions.
                    found.problems.append(replace(problem, is_skippable=group is found.images))
        for name in folders:
            link = Path(place, name)
            if link.is_symlink() and not _is_within(link, root):
                found.problems.append(_outside(link.relative_to(folder).as_posix(), link))
    masks = masks_among(found.images)
    named = ((name, file) for name, file in found.images.items() if name not in masks)
    images = dict(sorted(named, key=lambda item: item[0].split("/")))
    return replace(found, images=images)


def _is_rubbish(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _RUBBISH


def _group(found: Folder, name: str) -> dict[str, Path] | None:
    """Where a file of this name belongs; None if it does not count."""
    suffix = Path(name).suffix.casefold()
    if _is_rubbish(name) or name.casefold().startswith(_PAPERS):
        return None
    if suffix in IMAGE_SUFFIXES:
        return found.images
    if name.casefold() in METADATA_FILES:
        return found.tables
    return found.texts if suffix == ".txt" else None


def _add(group: dict[str, Path], file: Path, *, folder: Path, root: Path) -> Problem | None:
    name = file.relative_to(folder).as_posix()
    if not is_text(name):
        message = "the file's name is not UTF-8 or holds control characters. Rename it."
        return Problem(file=ascii(name), message=message)
    if file.is_symlink() and not _is_within(file, root):
        return _outside(name, file)
    if file.is_file():
        group[name] = file
    return None


def _is_within(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return True


def _outside(name: str, link: Path) -> Problem:
    message = f"is a link that leads outside the folder, to {str(link.readlink())!r}. Copy what it leads to."
    return Problem(file=name, message=message)


def outside_problem(file: Path, *, name: str, inside: Iterable[Path]) -> Problem | None:
    """What is wrong with a file that is a link and leads into none of these folders; None for any other.

    Args:
        file: The file. Links among the folders above it are the user's own and are followed.
        name: What to call it.
        inside: Folders, without links.
    """
    if not file.is_symlink() or any(_is_within(file, root) for root in inside):
        return None
    return _outside(name, file)


def require_scan(folder: Path, what: str) -> Folder:
    """What a folder holds that must exist and hold images.

    Raises:
        UserError: the folder is missing or holds no image.
    """
    require_folder(folder, what)
    found = scan(folder)
    if not found.images:
        links = f" ({found.problems[0]})" if found.problems else ""
        raise UserError(
            f"The {what} folder {folder} holds no images{links}. Put photos into it "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}) or set dataset.path to another folder."
        )
    return found


def read_text(path: Path, *, name: str | None = None) -> tuple[str | None, list[Problem]]:
    """Reads UTF-8 with or without a byte order mark; anything else is a problem that names the line.

    Args:
        path: The file.
        name: What to call it in problems; by default its own name.
    """
    name = name or path.name
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None, [Problem(file=name, message="is larger than 1 GiB, which no file of captions is.")]
        data = path.read_bytes()
    except OSError as error:
        return None, [Problem(file=name, message=f"cannot be read ({error.strerror}). Restore it.")]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, [Problem(file=name, message="is UTF-16. Save it as UTF-8.")]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8 (unknown encoding). Save the file as UTF-8."
        return None, [Problem(file=f"{name}:{line}", message=message)]


def simplify(name: str) -> str:
    """A file name without what differs between systems: Unicode form, letter case, kind of slash."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").casefold().removeprefix("./")


def text_of(value: Any) -> str:
    """A cell of a table or a JSON value as one line of text; nothing becomes the empty string."""
    return "" if value is None else " ".join(str(value).split())


def is_text(value: str) -> bool:
    """Whether a name can be written as UTF-8 and on one line."""
    return _NO_TEXT.search(value) is None


def placeholder_warnings(records: list[Record], placeholder: str | None) -> list[str]:
    """A line if captions lack the word that they should teach."""
    if not placeholder:
        return []
    without = [record.id for record in records if not has_word(record.caption, placeholder)]
    if not without:
        return []
    return [f"{len(without)} captions do not contain the placeholder {placeholder}, first: {without[0]}."]


def first_by_hash(ids: Iterable[str], number: int) -> set[str]:
    """So many of the ids, always the same ones, whatever their order; fewer are a part of more."""
    return set(sorted(ids, key=lambda id: (address_seed("choice", id), id))[:number])


def read_attribution(folder: Path) -> str | None:
    """Whom to credit for a dataset, in one line: its file ATTRIBUTION.txt, .md or without suffix.

    A link that leads outside the folder is not read: what stands there goes into files that others get.
    """
    found = {file.name.casefold(): file for file in sorted(folder.iterdir()) if file.is_file()}
    for name in ATTRIBUTION_NAMES:
        if name in found and (text := _attribution(found[name], root=folder.resolve())):
            return text
    return None


def _attribution(file: Path, *, root: Path) -> str | None:
    problem = outside_problem(file, name=str(file), inside=[root])
    data = b""
    try:
        if problem is None:
            with file.open("rb") as opened:
                data = opened.read(_MAX_ATTRIBUTION_BYTES)
    except OSError as error:
        problem = Problem(file=str(file), message=f"cannot be read ({error.strerror}).")
    if problem is not None:
        _log.warning("%s It is not read: nobody is credited by it.", problem)
    text = text_of(data.decode("utf-8-sig", errors="replace"))
    return _NO_TEXT.sub("", text)[:_MAX_ATTRIBUTION] or None
