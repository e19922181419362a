"""Masks: what of an image is to be learned. Their files, what is wrong with them, and their pixels.

White is learned, black is not, grey in part. A mask is the alpha channel of its image, or a file of its own:
`masks/a.png` or `a-masklabel.png` for `a.jpg` in the same folder.
"""

import functools
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from src.data.images import IMAGE_SUFFIXES, load_alpha, load_image, may_turn_late, read_header
from src.data.memo import look_at, read_memo, stamped, write_memo
from src.errors import UserError
from src.files import sha256_file

MASK_FOLDER = "masks"
MASK_ENDING = "-masklabel"

Box = tuple[int, int, int, int]

_MEMO_VERSION = 3
_NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSource:
    """Where an image's mask is.

    Attributes:
        path: The mask's own file, or that of the image whose alpha channel it is.
        is_alpha: Whether it is an alpha channel.
        content: What tells it from another mask of the same image: part of the keys of cached latents.
        box: (left, top, right, bottom) around all of it that is not black, in upright pixels, if known.
    """

    path: Path
    is_alpha: bool
    content: str
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSeen:
    """What is known of one mask.

    Attributes:
        sha256: Hash of the file that it is in.
        width: Upright width in pixels, 0 if there is none.
        height: Upright height.
        peak: Its brightest value, 0 to 255.
        box: (left, top, right, bottom) around all that is not black.
        problem: What is wrong with it by itself, if something is.
    """

    sha256: str
    width: int = 0
    height: int = 0
    peak: int = 0
    box: Box | None = None
    problem: str | None = None


def masks_among(names: Iterable[str]) -> set[str]:
    """Which image files of a folder are masks of others and no images to train on.

    Only those that some image stands beside: a folder that happens to be called masks is one like others.

    Args:
        names: Paths relative to the folder, with slashes.
    """
    stems = {_key(name.rpartition(".")[0]) for name in names}
    return {name for name in names if (image := _image_of(name)) is not None and image in stems}


def looks_like_mask(name: str) -> bool:
    """Whether a file would be a mask if there were an image of its name."""
    return _image_of(name) is not None


def _image_of(name: str) -> str | None:
    """The image that a file of this name would be a mask of, without its suffix."""
    path = PurePosixPath(name)
    if path.parent.name == MASK_FOLDER:
        return _key(str(path.parent.parent / path.stem))
    if path.stem.endswith(MASK_ENDING):
        return _key(str(path.parent / path.stem.removesuffix(MASK_ENDING)))
    return None


def _key(stem: str) -> str:
    # macOS writes names in another Unicode form.
    return unicodedata.normalize("NFC", stem).casefold()


def find_mask_files(images: Sequence[Path]) -> dict[Path, list[Path]]:
    """The mask files of images: one each if all is well. Each folder is listed once."""
    found: dict[Path, list[Path]] = {}
    listings: dict[Path, dict[str, list[Path]]] = {}
    for image in images:
        folder = image.parent
        if folder not in listings:
            listings[folder] = _masks_of_folder(folder)
        found[image] = listings[folder].get(_key(image.stem), [])
    return found


def _masks_of_folder(folder: Path) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = {}
    for place, ending in ((folder / MASK_FOLDER, ""), (folder, MASK_ENDING)):
        # As text: the folder itself may be COCO's.
        names = [entry.name for entry in os.scandir(place)] if place.is_dir() else []
        for name in sorted(name for name in names if f"{ending}." in name and not name.startswith(".")):
            stem, _, suffix = name.rpartition(".")
            if f".{suffix}".casefold() in IMAGE_SUFFIXES and stem.endswith(ending):
                masks.setdefault(_key(stem.removesuffix(ending)), []).append(place / name)
    return masks


def load_mask(source: MaskSource, *, size: tuple[int, int]) -> Image.Image:
    """A mask as upright 8-bit grey.

    Args:
        source: Where it is.
        size: (width, height) of its image.

    Raises:
        UserError: it is missing, damaged or of another size: it was changed since it was looked at.
    """
    mask = _load(source.path, is_alpha=source.is_alpha)
    if mask is None or mask.size != size:
        own = "has no alpha channel" if mask is None else f"has {mask.width}x{mask.height} pixels"
        raise UserError(
            f"The mask {source.path} {own}, its image {size[0]}x{size[1]}: one of them was changed since "
            "both were looked at. Start again."
        )
    return mask


def _load(path: Path, *, is_alpha: bool) -> Image.Image | None:
    return load_alpha(path) if is_alpha else load_image(path, background=(0, 0, 0)).convert("L")


def look_at_masks(paths: Iterable[Path], *, is_alpha: bool, memo_file: Path | None) -> dict[Path, MaskSeen]:
    """Decodes masks to see whether they are whole and hold anything. Remembered between runs.

    Args:
        paths: Their files, or those of images with alpha channels.
        is_alpha: Whether they are alpha channels.
        memo_file: Where sound ones are remembered (`memo.py`).
    """
    unique = list(dict.fromkeys(paths))
    memo = read_memo(memo_file, version=_MEMO_VERSION, build=_remembered)
    keys = {path: f"{stamped(path)}|{is_alpha}" for path in unique}
    found = {path: memo[key] for path, key in keys.items() if key in memo}
    missing = [path for path in unique if path not in found]
    look = functools.partial(_look, is_alpha=is_alpha)
    found |= look_at(missing, look, num_threads=_NUM_THREADS, title="Looking at masks", unit="mask")
    if memo_file is not None and missing:
        sound = {keys[path]: asdict(seen) for path, seen in found.items() if seen.problem is None}
        write_memo(memo_file, version=_MEMO_VERSION, files=sound)
    return found


def _look(path: Path, *, is_alpha: bool) -> MaskSeen:
    try:
        mask = _load(path, is_alpha=is_alpha)
        sha256 = sha256_file(path)
    except (UserError, OSError) as error:
        return MaskSeen(sha256="", problem=str(error))
    if mask is None:
        return MaskSeen(sha256=sha256, problem="has no alpha channel")
    peak = mask.getextrema()[1]
    assert isinstance(peak, int)
    return MaskSeen(sha256=sha256, width=mask.width, height=mask.height, peak=peak, box=mask.getbbox())


def _remembered(fields: Mapping[str, Any]) -> MaskSeen:
    return MaskSeen(**{**fields, "box": fields["box"] and tuple(fields["box"])})


def upright_size(path: Path, *, expected: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image; decoded only where its header is not enough, or says something else.

    Raises:
        UserError: the image cannot be read.
    """
    header = read_header(path)
    if (header.width, header.height) == expected and not may_turn_late(path, header.format):
        return expected
    return load_image(path).size
