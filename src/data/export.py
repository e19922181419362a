"""A prepared dataset as an image folder that Hugging Face's `datasets` and other trainers read."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from src.data.images import IMAGE_SUFFIXES, Colour, load_image
from src.data.records import Record
from src.data.split import TRAIN, VALIDATION, Split
from src.data.whole_folders import settle, working_folder
from src.errors import UserError
from src.files import require_writable, write_text_atomic

_NUM_THREADS = min(4, os.cpu_count() or 1)
_PAPERS = re.compile(r"(attribution|licen[cs]e|notice|credits)(\.(txt|md))?", re.IGNORECASE)
_UNSAFE = re.compile(r"[^\w.-]+")


def require_new_folder(folder: Path) -> None:
    """Refuses a folder that cannot be written, or that holds something.

    Raises:
        UserError: with the remedy.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"dataset.export={folder} exists and is left as it is. Name a new folder.")
    require_writable(folder.parent)


def export_image_folder(
    split: Split,
    folder: Path,
    *,
    source: Path,
    name: str,
    background: Colour,
    attribution: str | None,
    progress: bool = True,
) -> int:
    """Writes `train/` and `validation/`, each with images and `metadata.jsonl`; the folder appears whole.

    Images are written as training sees them before it scales: upright, 8-bit sRGB, transparency on the
    background. They are PNG files without metadata: nothing is lost, every program reads them alike, and
    where a photo was taken and with which device is not passed on.

    Args:
        split: The dataset's two sides. What the split left out is not exported.
        folder: Where to; see `require_new_folder`.
        source: The dataset's folder. Its files on licence and credit are copied.
        name: The dataset's name.
        background: What shows through transparent pixels.
        attribution: Whom to credit.
        progress: Show a progress bar when on a terminal.

    Returns:
        How many images were written.

    Raises:
        UserError: the folder is not new, or an image cannot be read any more.
    """
    require_new_folder(folder)
    sides = {TRAIN: split.train, VALIDATION: split.validation}
    num_images = sum(map(len, sides.values()))
    bar = tqdm(
        total=num_images, desc="Exporting", unit="image", disable=None if progress else True, leave=False
    )
    with working_folder(folder) as work, bar:
        whole = work / "whole"
        for side, records in sides.items():
            _write_side(records, whole / side, background=background, bar=bar)
        for paper in sorted(source.iterdir()):
            if _PAPERS.fullmatch(paper.name) and paper.is_file() and not paper.is_symlink():
                shutil.copyfile(paper, whole / paper.name)
        if attribution and not any(_PAPERS.fullmatch(file.name) for file in whole.glob("[Aa]*")):
            write_text_atomic(whole / "ATTRIBUTION.txt", attribution + "\n")
        write_text_atomic(whole / "README.md", _card(split, name=name, attribution=attribution))
        settle(whole, folder)
    return num_images


def _write_side(records: Sequence[Record], folder: Path, *, background: Colour, bar: tqdm) -> None:
    folder.mkdir(parents=True)
    names = file_names([record.id for record in records])

    def write(pair: tuple[Record, str]) -> None:
        record, name = pair
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Anew from its pixels: what else is in the file must not come along.
        image = load_image(record.path, background=background)
        image.info.clear()
        image.save(target, "PNG")
        bar.update()

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for _ in pool.map(write, zip(records, names, strict=True)):
            pass
    lines = [
        json.dumps({"file_name": name, "text": record.caption}, ensure_ascii=False)
        for record, name in zip(records, names, strict=True)
    ]
    write_text_atomic(folder / "metadata.jsonl", "\n".join(lines) + "\n")


def file_names(ids: Sequence[str]) -> list[str]:
    """A relative `.png` name for each record: its id, as far as file systems and web addresses take it.

    >>> file_names(["trip/IMG_1.HEIC", "trip/IMG_1.jpg", "4#0", "../x"])
    ['trip/IMG_1.png', 'trip/IMG_1_2.png', '4_0.png', 'x.png']
    """
    taken: set[str] = set()
    names = []
    for id in ids:
        parts = [_UNSAFE.sub("_", part).strip("._") for part in PurePosixPath(id).parts]
        *folders, last = [part for part in parts if part] or ["image"]
        if PurePosixPath(id).suffix.casefold() in IMAGE_SUFFIXES:
            last = last.rpartition(".")[0] or last
        # Without dots no folder has the name of an image.
        stem, number = "/".join([*(part.replace(".", "_") for part in folders), last]), 1
        name = stem
        # Some file systems do not tell upper from lower case.
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def _card(split: Split, *, name: str, attribution: str | None) -> str:
    """README.md, which the hub shows as the dataset's page."""
    credit = attribution or "No attribution was recorded."
    return (
        f"# {name}\n\n{len(split.train)} images in `train/`, {len(split.validation)} held out in "
        "`validation/`, with captions in `metadata.jsonl` (`file_name`, `text`). Exported by Darkroom: "
        f"upright 8-bit sRGB, PNG.\n\n## Attribution and licence\n\n{credit}\n\nFiles on licence and credit "
        "that came with the data stand beside this one. They hold for what is made of it as well.\n"
    )
