"""Train and validation, by content and never by luck; adding images moves none of the old."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.records import Record, few
from src.errors import UserError
from src.files import read_json, write_json_atomic
from src.randomness import address_seed

TRAIN, VALIDATION = "train", "validation"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The two sides, each in the order of the dataset.

    Attributes:
        train: Records to train on.
        validation: Records held out.
        left_out: Records whose group joins images of both sides; they may be on neither.
    """

    train: list[Record]
    validation: list[Record]
    left_out: list[Record]


def split_file_path(folder: Path, *, split_seed: int, validation_fraction: float) -> Path:
    """Where a split is kept: another seed or fraction is another file, never a silent reuse."""
    return folder / f"split_seed{split_seed}_validation{validation_fraction:g}.json"


def split_records(
    records: Sequence[Record],
    content_hashes: Mapping[str, str],
    *,
    split_seed: int,
    validation_fraction: float,
    split_file: Path | None,
    group_keys: Mapping[str, str] | None = None,
    keep: bool = True,
) -> Split:
    """Splits records exactly by `validation_fraction`, over groups of images with the same content.

    Groups are ranked by the hash of (split seed, content). Of the groups that the split file does not know,
    as many of the first as are missing go to validation, so the ratio stays exact while images are added. A
    group that alone has more images than should be held out is passed over while there are others: a long
    burst of one motif is no yardstick, and training would lack it.

    Args:
        records: The dataset.
        content_hashes: SHA-256 of each record's file, by record id.
        split_seed: Which images are held out.
        validation_fraction: Share of the groups that is held out; at least one group and all but one.
        split_file: Where the sides are kept by content hash (see `split_file_path`), or None to keep nothing.
            Jobs that write it at once write the same.
        group_keys: Records of one key stay on one side, by record id; by default the content hash. A key must
            hold all records of a content.
        keep: Whether sides that the split file does not know are written to it.

    Raises:
        UserError: fewer than two groups, a split file that is damaged or of another seed or fraction, or one
            that leaves a side empty.
    """
    keys = content_hashes if group_keys is None else group_keys
    groups: dict[str, set[str]] = defaultdict(set)
    for record in records:
        groups[keys[record.id]].add(content_hashes[record.id])
    if len(groups) < 2:
        raise UserError(
            f"The dataset has {len(groups)} different image{'s' if len(groups) != 1 else ''}; at least 2 are "
            "needed for training and validation. Add images to dataset.path."
        )
    known = _read_split(split_file, split_seed=split_seed, validation_fraction=validation_fraction)
    sides = _assign(groups.values(), known, split_seed=split_seed, validation_fraction=validation_fraction)
    if keep and split_file is not None and (known | sides) != known:
        _write_split(
            split_file, known | sides, split_seed=split_seed, validation_fraction=validation_fraction
        )
    split = Split(
        train=[record for record in records if sides.get(content_hashes[record.id]) == TRAIN],
        validation=[record for record in records if sides.get(content_hashes[record.id]) == VALIDATION],
        left_out=[record for record in records if content_hashes[record.id] not in sides],
    )
    if not split.train or not split.validation:
        empty = VALIDATION if split.train else TRAIN
        raise UserError(
            f"By {split_file} no image is left for {empty}: the others were removed from the dataset. "
            "Add images, restore them, or set another dataset.split_seed."
        )
    return split


def split_warnings(split: Split, group_keys: Mapping[str, str]) -> list[str]:
    """What near duplicates mean for a split that was begun before they were there, or were looked for.

    Args:
        split: The two sides.
        group_keys: As they were given to `split_records`.
    """
    warnings = []
    if split.left_out:
        warnings.append(
            f"{len(split.left_out)} images are near duplicates of training and of validation images, and are "
            f"left out: {few([record.id for record in split.left_out])}."
        )
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for side, records in ((TRAIN, split.train), (VALIDATION, split.validation)):
        for record in records:
            sides[group_keys[record.id]].setdefault(side, record.id)
    both = [f"{group[TRAIN]} and {group[VALIDATION]}" for group in sides.values() if len(group) == 2]
    if both:
        warnings.append(
            f"{len(both)} groups of near duplicates stand on both sides of the split, which was made before: "
            f"{few(both)}. Validation looks too good. Another dataset.split_seed splits anew."
        )
    return warnings


def num_validation_groups(num_groups: int, validation_fraction: float) -> int:
    """How many of the groups are held out: the rounded share, at least one and at most all but one."""
    return min(max(math.floor(validation_fraction * num_groups + 0.5), 1), num_groups - 1)


def _assign(
    groups: Collection[set[str]], known: Mapping[str, str], *, split_seed: int, validation_fraction: float
) -> dict[str, str]:
    """The side of every content hash, except of new ones in a group that joins both sides."""
    sides: dict[str, str] = {}
    new: list[set[str]] = []
    num_groups = num_held_out = 0
    for group in groups:
        old_sides = {known[content] for content in group if content in known}
        num_groups += 1
        num_held_out += VALIDATION in old_sides
        if not old_sides:
            new.append(group)
        for content in group:
            if len(old_sides) == 1:
                sides[content] = next(iter(old_sides))
            elif content in known:
                sides[content] = known[content]
    num_images = sum(len(group) for group in groups)
    most = max(1, math.floor(validation_fraction * num_images + 0.5))
    new.sort(key=lambda group: (len(group) > most, address_seed(split_seed, "split", min(group)), min(group)))
    num_new_held_out = max(0, num_validation_groups(num_groups, validation_fraction) - num_held_out)
    for index, group in enumerate(new):
        side = VALIDATION if index < num_new_held_out else TRAIN
        sides.update(dict.fromkeys(group, side))
    return sides


def _read_split(split_file: Path | None, *, split_seed: int, validation_fraction: float) -> dict[str, str]:
    if split_file is None or not split_file.exists():
        return {}
    try:
        content = read_json(split_file)
        settings = (content["version"], content["split_seed"], content["validation_fraction"])
        sides = {
            content_hash: side for side in (TRAIN, VALIDATION) for content_hash in content["images"][side]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The split file {split_file} is damaged. Restore it, or delete it to split anew "
            "(validation losses can then not be compared with those of older runs)."
        ) from error
    if settings != (_VERSION, split_seed, validation_fraction):
        raise UserError(
            f"The split file {split_file} was made with split_seed={settings[1]} and "
            f"validation_fraction={settings[2]}. Use these, or another file."
        )
    return sides


def _write_split(
    split_file: Path, sides: Mapping[str, str], *, split_seed: int, validation_fraction: float
) -> None:
    images = {
        side: sorted(content for content in sides if sides[content] == side) for side in (TRAIN, VALIDATION)
    }
    content = {
        "version": _VERSION,
        "split_seed": split_seed,
        "validation_fraction": validation_fraction,
        "images": images,
    }
    write_json_atomic(split_file, content)
