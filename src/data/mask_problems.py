"""The masks of a dataset, and everything that is wrong with them, listed at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.buckets import Size
from src.data.images import center_crop_box
from src.data.masks import (
    MASK_ENDING,
    MASK_FOLDER,
    MaskSeen,
    MaskSource,
    find_mask_files,
    look_at_masks,
    looks_like_mask,
    upright_size,
)
from src.data.readers.common import outside_problem
from src.data.records import Problem, Record, few
from src.errors import UserError

_ALPHA = "alpha"
# What is darker everywhere holds labels, or colours of labels, and no grey from black to white.
_MIN_PEAK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """What was found.

    Attributes:
        sources: The mask of each record that has a sound one, by record id.
        problems: What is wrong with the others.
    """

    sources: dict[str, MaskSource]
    problems: list[Problem]


def find_masks(records: Sequence[Record], *, kind: str, folder: Path, memo_file: Path | None) -> Masks:
    """Looks at the mask of every record.

    Args:
        records: The dataset.
        kind: "files" or "alpha".
        folder: Of the dataset; a link that leads out of it is not followed.
        memo_file: See `look_at_masks`.
    """
    return _alpha_masks(records, memo_file) if kind == _ALPHA else _mask_files(records, folder, memo_file)


def num_unused(records: Sequence[Record]) -> int:
    """How many records have a mask file."""
    return sum(bool(files) for files in find_mask_files([record.path for record in records]).values())


def hidden_mask_warnings(
    masks: Mapping[str, MaskSource], sizes: Mapping[str, Size], training_sizes: Mapping[str, Size]
) -> list[str]:
    """A line on images whose centre crop shows nothing of the mask: nothing is learned from them.

    Args:
        masks: By record id.
        sizes: (width, height) of the upright images that are trained on, by record id.
        training_sizes: What each is cropped to; empty if that is not known.
    """
    hidden = []
    for id, target in training_sizes.items():
        box = masks[id].box if id in masks else None
        if box is None:
            continue
        left, top, right, bottom = center_crop_box(sizes[id], target)
        if box[2] <= left or box[0] >= right or box[3] <= top or box[1] >= bottom:
            hidden.append(id)
    if not hidden:
        return []
    show = "image shows nothing of its mask" if len(hidden) == 1 else "images show nothing of their masks"
    teach = "teaches" if len(hidden) == 1 else "teach"
    return [
        f"{len(hidden)} {show} once cropped to the centre, and {teach} nothing: "
        f"{few(hidden)}. Crop them yourself, or set dataset.buckets.enabled=true or dataset.crop=random."
    ]


def _alpha_masks(records: Sequence[Record], memo_file: Path | None) -> Masks:
    seen = look_at_masks((record.path for record in records), is_alpha=True, memo_file=memo_file)
    found = Masks(sources={}, problems=[])
    for record in records:
        mask = seen[record.path]
        if not mask.sha256:
            continue  # The image itself cannot be read, which is said elsewhere.
        if mask.problem is not None:
            found.problems.append(
                _problem(record, f"{mask.problem}. Add one, or train without dataset.masks=alpha.")
            )
        elif mask.peak == 0:
            found.problems.append(
                _problem(record, "is transparent everywhere. Remove it, or mend its alpha.")
            )
        else:
            found.sources[record.id] = MaskSource(
                path=record.path, is_alpha=True, content=_ALPHA, box=mask.box
            )
    return found


def _mask_files(records: Sequence[Record], folder: Path, memo_file: Path | None) -> Masks:
    candidates = find_mask_files([record.path for record in records])
    files = [files[0] for files in candidates.values() if len(files) == 1]
    root = folder.resolve()
    outside = {
        file: problem for file in files if (problem := outside_problem(file, name=str(file), inside=[root]))
    }
    seen = look_at_masks((file for file in files if file not in outside), is_alpha=False, memo_file=memo_file)
    found = Masks(sources={}, problems=[])
    for record in records:
        message = _what_is_wrong(record, candidates[record.path], outside, seen, root=folder)
        if message is not None:
            found.problems.append(_problem(record, message))
            continue
        file = candidates[record.path][0]
        mask = seen[file]
        found.sources[record.id] = MaskSource(path=file, is_alpha=False, content=mask.sha256, box=mask.box)
    return found


def _what_is_wrong(
    record: Record,
    files: list[Path],
    outside: dict[Path, Problem],
    seen: dict[Path, MaskSeen],
    *,
    root: Path,
) -> str | None:
    name = record.path.relative_to(root).as_posix() if record.path.is_relative_to(root) else record.id
    stem = record.path.stem
    if looks_like_mask(name):
        return "is named like a mask, but there is no image of that name. Add the image or remove the mask."
    if not files:
        return (
            f"has no mask: neither {MASK_FOLDER}/{stem}.png nor {stem}{MASK_ENDING}.png is beside it. Add "
            "one; white everywhere learns all of the image."
        )
    if len(files) > 1:
        return f"has several masks: {', '.join(file.name for file in files)}. Leave one."
    if files[0] in outside:
        return f"its mask {outside[files[0]].message}"
    return _what_is_wrong_inside(record, files[0], seen[files[0]])


def _what_is_wrong_inside(record: Record, file: Path, mask: MaskSeen) -> str | None:
    if mask.problem is not None:
        return f"its mask cannot be used: {mask.problem}"
    try:
        width, height = upright_size(record.path, expected=(mask.width, mask.height))
    except UserError:
        return None  # It is said elsewhere that the image itself cannot be read.
    if (width, height) != (mask.width, mask.height):
        return (
            f"is {width}x{height} pixels upright, its mask {file.name} {mask.width}x{mask.height}. Save the "
            "mask at the size of its image."
        )
    if mask.peak == 0:
        return f"its mask {file.name} is black everywhere: nothing would be learned. Mend it."
    if mask.peak < _MIN_PEAK:
        return (
            f"its mask {file.name} is dark, its brightest value is {mask.peak} of 255: next to nothing would "
            "be learned. Save it with white for the object; labels of 0 and 1 become 0 and 255."
        )
    return None


def _problem(record: Record, message: str) -> Problem:
    return Problem(file=record.id, message=message, is_skippable=True, images=(record.path,))
