"""Rows of a Hugging Face dataset to files: images as they are stored, captions in `metadata.jsonl`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.data.fetch_http import FetchError
from src.data.images import read_header
from src.data.readers.captions import caption_fault, shown
from src.data.readers.common import is_text, text_of
from src.data.readers.metadata import choose_column
from src.data.records import Problem, few
from src.errors import UserError
from src.files import fsync_folder

# What is unusable is left out and named; above this share something else is wrong.
MAX_UNUSABLE = 0.05
CAPTION_COLUMN = "text"
_KEY = "dataset.source"
_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "HEIF": ".heic",
    "AVIF": ".avif",
    "GIF": ".gif",
    "BMP": ".bmp",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of images and captions.

    Attributes:
        image: Its name; None for the only one there is.
        caption: Its name; None for the only one with a usual name, or where an image is all that a row has.
    """

    image: str | None
    caption: str | None


def choose_columns(features: Mapping[str, Any], wanted: Columns, datasets: Any) -> Columns:
    """The columns to read of those that a dataset has.

    Raises:
        UserError: they are not there, or it cannot be told which they are.
    """
    listed = ", ".join(features)
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = wanted.image
    if image is not None and image not in features:
        raise UserError(f"{_KEY}.image_column={image} is no column. The columns: {listed}.")
    if image is None and len(images) != 1:
        found = f"{len(images)} columns of images" if images else "no column of images"
        raise UserError(f"The dataset has {found}. Set {_KEY}.image_column to one of: {listed}.")
    image = image or images[0]
    others = [name for name in features if name not in {image, *images}]
    if wanted.caption is None and not others:
        return Columns(image=image, caption=None)
    remedy = f"Set {_KEY}.caption_column."
    caption = choose_column(others, wanted.caption, where="The dataset", remedy=remedy)
    if isinstance(caption, Problem):
        raise UserError(f"{caption.file} {caption.message}")
    return Columns(image=image, caption=caption)


def write_image_folder(
    loaded: Any, folder: Path, *, columns: Columns, roots: Sequence[Path], datasets: Any, progress: bool
) -> None:
    """Writes each row's image as it is stored, and the captions.

    Args:
        loaded: The dataset.
        folder: Where to; it must not be there.
        columns: Of images and captions. Without the latter there is no metadata file.
        roots: Where files may lie that rows name instead of holding them.
        datasets: The package.
        progress: Show a progress bar when on a terminal.

    Raises:
        FetchError: no row is usable, or too many are not.
        UserError: the column holds no images.
    """
    assert columns.image is not None
    images = folder / "images"
    images.mkdir(parents=True)
    rows = _undecoded(loaded, columns.image, datasets)
    feature = loaded.features[columns.caption] if columns.caption is not None else None
    names = getattr(feature, "names", None)  # of classes, where a caption is a number
    unusable: list[str] = []
    num_written = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for index, row in enumerate(_with_progress(rows, progress=progress)):
            caption = "" if columns.caption is None else _caption(row[columns.caption], names)
            fault = caption_fault(caption) if columns.caption is not None else None
            if fault is not None:
                unusable.append(f"row {index}: the caption {fault.rstrip('.')}")
                continue
            try:
                file = _write_image(row[columns.image], images / f"{index:08d}", roots)
            except UserError as error:
                unusable.append(f"row {index}: {str(error).rstrip('.')}")
                continue
            entry = {"file_name": f"images/{file.name}", CAPTION_COLUMN: text_of(caption)}
            metadata.write(json.dumps(entry, ensure_ascii=False) + "\n")
            num_written += 1
    if columns.caption is None:
        (folder / "metadata.jsonl").unlink()
    fsync_folder(images)
    if not num_written or len(unusable) > MAX_UNUSABLE * len(loaded):
        raise FetchError(
            f"{len(unusable)} of {len(loaded)} rows are unusable, so nothing is taken. {few(unusable)}."
        )
    if unusable:
        _log.warning("%d rows are unusable and were left out. %s.", len(unusable), few(unusable))


def _undecoded(loaded: Any, column: str, datasets: Any) -> Any:
    """The dataset with its images as bytes or paths; still memory-mapped."""
    try:
        return loaded.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # Arrow's errors of types have several families.
        raise UserError(f"The column {column} holds no images. Check {_KEY}.image_column.") from error


def _with_progress(rows: Iterable[Any], *, progress: bool) -> Iterable[Any]:
    return tqdm(rows, desc="Writing images", unit="image", disable=None if progress else True, leave=False)


def _caption(value: Any, names: Sequence[str] | None) -> str:
    """A cell as text: a class by its name, of several captions the first, what is no text as none."""
    if isinstance(value, list):
        value = value[0] if value else None
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value].replace("_", " ")
    return value if isinstance(value, str) else ""


def _write_image(cell: Any, target: Path, roots: Sequence[Path]) -> Path:
    """Writes one image and gives it the suffix of its content.

    Raises:
        UserError: the row has none, it is no image, or it is a file outside of `roots`.
    """
    if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
        raise UserError("has no image.")
    if isinstance(cell.get("bytes"), bytes) and cell["bytes"]:
        target.write_bytes(cell["bytes"])
    else:
        shutil.copyfile(_named_file(cell.get("path"), roots), target)
    try:
        header = read_header(target)
    except UserError:
        target.unlink()
        raise
    return target.rename(target.with_suffix(_SUFFIXES.get(header.format, ".png")))


def _named_file(name: Any, roots: Sequence[Path]) -> Path:
    """The file that a row names, if it is one of the dataset's.

    Raises:
        UserError: it is not.
    """
    if not isinstance(name, str) or not is_text(name):
        raise UserError("names no file.")
    source = Path(name).resolve()
    if not any(source.is_relative_to(root) for root in roots):
        raise UserError(f"names the file {shown(name)}, which is no part of the dataset.")
    if not source.is_file():
        raise UserError(f"names the file {shown(name)}, which does not exist.")
    return source
