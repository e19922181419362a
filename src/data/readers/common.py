"""What all readers share: finding image files, reading text, and saying what is missing."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.data.images import IMAGE_SUFFIXES
from src.data.records import Problem
from src.errors import UserError
from src.randomness import address_seed

# A file of one of these names in a dataset's folder says whom to credit.
ATTRIBUTION_NAMES = ("attribution.txt", "attribution.md", "attribution")
_MAX_ATTRIBUTION = 2000
_RUBBISH = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


def require_folder(path: Path, what: str) -> None:
    """Raises a UserError unless `path` is a folder."""
    if not path.exists():
        raise UserError(
            f"The {what} folder {path} does not exist. Set dataset.path to the folder, "
            "or bring the data with: python train.py -cn prepare"
        )
    if not path.is_dir():
        raise UserError(f"dataset.path={path} is a file. Set it to the folder that holds the {what}.")


def list_images(folder: Path) -> dict[str, Path]:
    """All image files under a folder by their path relative to it, sorted.

    Hidden files, macOS leftovers (`._*`, `__MACOSX`) and what is no image by its suffix are ignored.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") or part.casefold() in _RUBBISH for part in relative.parts):
            continue
        if path.suffix.casefold() in IMAGE_SUFFIXES and path.is_file():
            found[relative.as_posix()] = path
    return found


def require_images(folder: Path, what: str) -> dict[str, Path]:
    """The images of a folder that must exist and hold some.

    Raises:
        UserError: the folder is missing or holds no image.
    """
    require_folder(folder, what)
    images = list_images(folder)
    if not images:
        raise UserError(
            f"The {what} folder {folder} holds no images. Put photos into it "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}) or set dataset.path to another folder."
        )
    return images


def read_text(path: Path) -> tuple[str | None, list[Problem]]:
    """Reads UTF-8 with or without a byte order mark; anything else is a problem that names the line."""
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, [Problem(file=path.name, message="is UTF-16. Save it as UTF-8.")]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8 (unknown encoding). Save the file as UTF-8."
        return None, [Problem(file=f"{path.name}:{line}", message=message)]


def simplify(name: str) -> str:
    """A file name without what differs between systems: Unicode form, letter case, kind of slash."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").casefold().removeprefix("./")


def text_of(value: Any) -> str:
    """A cell of a table or a JSON value as one line of text; nothing becomes the empty string."""
    return "" if value is None else " ".join(str(value).split())


def first_by_hash(ids: Iterable[str], number: int) -> set[str]:
    """So many of the ids, always the same ones, whatever their order; fewer are a part of more."""
    return set(sorted(ids, key=lambda id: (address_seed("choice", id), id))[:number])


def read_attribution(folder: Path) -> str | None:
    """Whom to credit for a dataset, in one line: its file ATTRIBUTION.txt, .md or without suffix."""
    found = {file.name.casefold(): file for file in sorted(folder.iterdir()) if file.is_file()}
    for name in ATTRIBUTION_NAMES:
        if name in found:
            return text_of(found[name].read_text("utf-8-sig", errors="replace"))[:_MAX_ATTRIBUTION] or None
    return None
