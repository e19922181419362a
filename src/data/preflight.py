"""Everything that can be wrong with a dataset, found before any work is done and listed at once."""

from dataclasses import dataclass
from pathlib import Path

from src.data.buckets import BucketRules, Size, assign_buckets
from src.data.inspection import Inspection, inspect_files
from src.data.near_duplicates import group_near_duplicates, groups_of
from src.data.records import ReadResult, Record, few
from src.errors import DatasetProblems

# Warnings of one kind that are listed; problems always are, all of them.
_MAX_LISTED = 10
_FORMATS_OF_SUFFIX = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".heic": ("HEIF",),
    ".heif": ("HEIF", "AVIF"),
    ".hif": ("HEIF",),
    ".avif": ("AVIF",),
    ".gif": ("GIF",),
    ".bmp": ("BMP",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What the preflight saw of a sound dataset.

    Attributes:
        num_records: Examples.
        num_images: Different contents among their files.
        hashes: SHA-256 of each record's file, by record id.
        sizes: Upright (width, height) of each record's image, by record id.
        training_sizes: (width, height) that each is brought to, its bucket where there are buckets, by record
            id; empty where the resolution is not known yet.
        group_keys: What must stay on one side of the split has one key: same contents, and near duplicates
            where these were looked for. By record id.
        warnings: What a user should know and may leave as it is.
    """

    num_records: int
    num_images: int
    hashes: dict[str, str]
    sizes: dict[str, Size]
    training_sizes: dict[str, Size]
    group_keys: dict[str, str]
    warnings: list[str]


def check_dataset(
    result: ReadResult,
    *,
    resolution: Size | None,
    bucket_rules: BucketRules | None = None,
    name: str = "dataset",
    needs_split: bool = True,
    memo_file: Path | None = None,
    near_duplicates: str = "auto",
) -> DatasetReport:
    """Inspects every image and caption.

    Args:
        result: What the reader found; its problems are listed with those found here.
        resolution: (width, height) of the training images; None if it is not known yet.
        bucket_rules: Where each image gets the size nearest to its shape instead.
        name: What to call the dataset in messages.
        needs_split: Whether there must be enough images for training and validation.
        memo_file: See `inspect_files`.
        near_duplicates: Whether near duplicates are looked for: "always", "never", or "auto", in sets that
            are decoded in full in any case (see `inspect_files`).

    Raises:
        DatasetProblems: with all that must be mended.
    """
    problems = [str(problem) for problem in result.problems]
    inspections = inspect_files(
        (record.path for record in result.records),
        memo_file=memo_file,
        decode=True if near_duplicates == "always" else None,
        with_fingerprints=near_duplicates != "never",
    )
    seen = {record.id: inspections[record.path] for record in result.records}
    by_path: dict[Path, str] = {}
    for record in result.records:
        by_path.setdefault(record.path, record.id)
    problems += [
        f"{id}: {inspections[path].problem}" for path, id in by_path.items() if inspections[path].problem
    ]
    problems += _record_problems(result.records)
    sizes = {id: (saw.width, saw.height) for id, saw in seen.items() if saw.problem is None}
    training_sizes = {} if resolution is None else dict.fromkeys(sizes, resolution)
    if bucket_rules is not None:
        training_sizes, without_bucket = assign_buckets(sizes, bucket_rules)
        problems += [f"{id}: {problem}" for id, problem in without_bucket.items()]
    hashes = {id: inspection.sha256 for id, inspection in seen.items() if inspection.problem is None}
    keys = group_near_duplicates({seen[id].sha256: seen[id].fingerprint for id in hashes})
    group_keys = {id: keys[content] for id, content in hashes.items()}
    if needs_split and not problems and len(set(group_keys.values())) < 2:
        problems.append(
            _too_few(num_images=len(set(hashes.values())), num_groups=len(set(group_keys.values())))
        )
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DatasetProblems(f"{count} in the {name}. Mend them and start again:", problems)
    warnings = [
        *result.warnings,
        *_image_warnings(result.records, seen, training_sizes),
        *_near_duplicate_warnings(hashes, keys),
    ]
    return DatasetReport(
        num_records=len(result.records),
        num_images=len(set(hashes.values())),
        hashes=hashes,
        sizes=sizes,
        training_sizes=training_sizes,
        group_keys=group_keys,
        warnings=warnings,
    )


def _too_few(*, num_images: int, num_groups: int) -> str:
    if num_images > num_groups:
        return (
            f"all {num_images} images are near duplicates of each other; at least 2 different ones are "
            "needed for training and validation. Add images, or set dataset.near_duplicates=never."
        )
    return (
        f"{num_images} different image{'s' if num_images != 1 else ''}; at least 2 are needed for training "
        "and validation. Add images."
    )


def _near_duplicate_warnings(hashes: dict[str, str], keys: dict[str, str]) -> list[str]:
    """A line that names the groups of near duplicates, each image once."""
    name_of: dict[str, str] = {}
    for id, content in hashes.items():
        name_of.setdefault(content, id)
    groups = groups_of({id: keys[content] for content, id in name_of.items()})
    if not groups:
        return []
    listed = "; ".join(f"({few(group, _MAX_LISTED)})" for group in groups[:_MAX_LISTED])
    more = f" and {len(groups) - _MAX_LISTED} more groups" if len(groups) > _MAX_LISTED else ""
    num_images, num_groups = sum(map(len, groups)), len(groups)
    return [
        f"{num_images} images are near duplicates, in {num_groups} group{'s' if num_groups > 1 else ''} that "
        f"stay on one side of the split: {listed}{more}."
    ]


def _record_problems(records: list[Record]) -> list[str]:
    problems = []
    paths: dict[str, Path] = {}
    for record in records:
        if record.id in paths:
            problems.append(
                f"{record.id}: the id is used twice, for {paths[record.id]} and {record.path}. Rename one."
            )
        paths[record.id] = record.path
        if not record.caption.strip():
            problems.append(f"{record.id}: the caption is empty. Write one.")
    return problems


def _image_warnings(
    records: list[Record], seen: dict[str, Inspection], training_sizes: dict[str, Size]
) -> list[str]:
    different = set(training_sizes.values())
    trained_at = "{}x{}".format(*different.pop()) if len(different) == 1 else "their buckets"
    misnamed, small, contents = [], [], dict[str, str]()
    duplicates = []
    for record in records:
        inspection = seen[record.id]
        if inspection.format not in _FORMATS_OF_SUFFIX.get(
            record.path.suffix.casefold(), (inspection.format,)
        ):
            misnamed.append(f"{record.id} ({inspection.format})")
        width, height = training_sizes.get(record.id, (0, 0))
        if inspection.width < width or inspection.height < height:
            small.append(f"{record.id} ({inspection.width}x{inspection.height})")
        first = contents.setdefault(inspection.sha256, record.id)
        if first != record.id and seen[first] is not inspection:
            duplicates.append(f"{record.id} (same as {first})")
    return [
        *_summary(misnamed, "are of another format than their name says; the content counts"),
        *_summary(small, f"are smaller than {trained_at} and will be enlarged"),
        *_summary(duplicates, "are exact duplicates and stay on one side of the split"),
    ]


def _summary(names: list[str], what: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return [f"{len(names)} images {what}: {', '.join(names[:_MAX_LISTED])}{more}."]
