"""Everything that can be wrong with a dataset, found before any work is done and listed at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.buckets import BucketRules, Size, assign_buckets
from src.data.inspection import Inspection, inspect_files, is_decoded_in_full
from src.data.near_duplicates import group_near_duplicates
from src.data.preflight_warnings import image_warnings, near_duplicate_warnings
from src.data.records import Problem, ReadResult, Record
from src.errors import DatasetProblems


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What was seen of a dataset. All but the problems speaks of the records that nothing is wrong with.

    Attributes:
        problems: What must be mended, or what was left out.
        records: The sound examples.
        num_records: Their number.
        num_images: Different contents among their files.
        hashes: SHA-256 of each record's file, by record id.
        sizes: Upright (width, height) of each record's image, by record id.
        training_sizes: (width, height) that each is brought to, its bucket where there are buckets, by record
            id; empty where the resolution is not known yet.
        group_keys: What must stay on one side of the split has one key: same contents, and near duplicates
            where these were looked for. By record id.
        has_near: Whether near duplicates were looked for.
        warnings: What a user should know and may leave as it is.
    """

    problems: list[Problem]
    records: list[Record]
    num_records: int
    num_images: int
    hashes: dict[str, str]
    sizes: dict[str, Size]
    training_sizes: dict[str, Size]
    group_keys: dict[str, str]
    has_near: bool
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
    on_problem: str = "refuse",
) -> DatasetReport:
    """Looks at every image and caption, and refuses or leaves out what cannot be trained on.

    Args:
        result: What the reader found; its problems are listed with those found here.
        resolution: (width, height) of the training images; None if it is not known yet.
        bucket_rules: Where each image gets the size nearest to its shape instead.
        name: What to call the dataset in messages.
        needs_split: Whether there must be enough images for training and validation.
        memo_file: See `inspect_files`.
        near_duplicates: See `survey_dataset`.
        on_problem: "refuse", or "skip" to leave out the images that problems speak of. Whatever the number of
            images, all are decoded then: damage is found here and not on the way.

    Raises:
        DatasetProblems: with all that must be mended.
    """
    report = survey_dataset(
        result,
        resolution=resolution,
        bucket_rules=bucket_rules,
        memo_file=memo_file,
        near_duplicates=near_duplicates,
        decode_all=on_problem == "skip",
    )
    shortage = too_few(report) if needs_split else none_left(report.problems, report.records)
    refuse(report.problems, name=name, on_problem=on_problem, shortage=shortage)
    return report


def refuse(problems: Sequence[Problem], *, name: str, on_problem: str, shortage: str | None) -> None:
    """Refuses what cannot be trained on.

    Args:
        problems: All that was found.
        name: What they were found in.
        on_problem: See `check_dataset`.
        shortage: What is missing of what is sound, if anything is.

    Raises:
        DatasetProblems: with all that must be mended.
    """
    is_skipping = on_problem == "skip"
    refused = [str(problem) for problem in problems if not (is_skipping and problem.is_skippable)]
    if not refused and shortage is not None:
        refused = [shortage]
    if refused:
        raise DatasetProblems(_heading(problems, refused, name=name, is_skipping=is_skipping), refused)


def survey_dataset(
    result: ReadResult,
    *,
    resolution: Size | None,
    bucket_rules: BucketRules | None = None,
    memo_file: Path | None = None,
    near_duplicates: str = "auto",
    decode_all: bool = False,
) -> DatasetReport:
    """Looks at every image and caption, and refuses nothing.

    Args:
        result: What the reader found; its problems are listed with those found here.
        resolution: (width, height) of the training images; None if it is not known yet.
        bucket_rules: Where each image gets the size nearest to its shape instead.
        memo_file: See `inspect_files`.
        near_duplicates: Whether near duplicates are looked for: "always", "never", or "auto", in sets that
            are decoded in full in any case (see `inspect_files`).
        decode_all: Decode in full also a set that is larger than these.
    """
    named = dict.fromkeys(image for problem in result.problems for image in problem.images)
    paths = list(dict.fromkeys([*(record.path for record in result.records), *named]))
    has_near = near_duplicates == "always" or (near_duplicates == "auto" and is_decoded_in_full(len(paths)))
    inspections = inspect_files(
        paths,
        memo_file=memo_file,
        decode=True if decode_all or near_duplicates == "always" else None,
        with_fingerprints=has_near,
    )
    ids = {record.path: record.id for record in reversed(result.records)}
    names = {path: ids.get(path, str(path)) for path in paths}
    trained_at, without_bucket = _training_sizes(
        inspections, names, resolution=resolution, bucket_rules=bucket_rules
    )
    problems = [
        *result.problems,
        *_image_problems(inspections, names),
        *_record_problems(result.records),
        *without_bucket,
    ]
    left_out = {image for problem in problems for image in problem.images}
    records = [record for record in result.records if record.path not in left_out]
    seen = {record.id: inspections[record.path] for record in records}
    training_sizes = {record.id: trained_at[record.path] for record in records if trained_at}
    hashes = {id: inspection.sha256 for id, inspection in seen.items()}
    # The memo may know fingerprints that nobody asked for now.
    keys = group_near_duplicates({saw.sha256: saw.fingerprint if has_near else "" for saw in seen.values()})
    return DatasetReport(
        problems=problems,
        records=records,
        num_records=len(records),
        num_images=len(set(hashes.values())),
        hashes=hashes,
        sizes={id: (inspection.width, inspection.height) for id, inspection in seen.items()},
        training_sizes=training_sizes,
        group_keys={id: keys[content] for id, content in hashes.items()},
        has_near=has_near,
        warnings=[
            *result.warnings,
            *image_warnings(records, seen, training_sizes),
            *near_duplicate_warnings(hashes, keys),
        ],
    )


def _training_sizes(
    inspections: dict[Path, Inspection],
    names: dict[Path, str],
    *,
    resolution: Size | None,
    bucket_rules: BucketRules | None,
) -> tuple[dict[Path, Size], list[Problem]]:
    """What each sound image is brought to, by path, if that is known; and images that have no bucket."""
    sizes = {path: (saw.width, saw.height) for path, saw in inspections.items() if saw.problem is None}
    if bucket_rules is None:
        return {} if resolution is None else dict.fromkeys(sizes, resolution), []
    buckets, wrong = assign_buckets(sizes, bucket_rules)
    problems = [
        Problem(file=names[path], message=message, is_skippable=True, images=(path,))
        for path, message in wrong.items()
    ]
    return buckets, problems


def too_few(report: DatasetReport) -> str | None:
    """What is missing for two sides of a split, if anything is."""
    num_images, num_groups = report.num_images, len(set(report.group_keys.values()))
    if num_groups >= 2:
        return None
    left = f" {len(report.problems)} problems left out the others." if report.problems else ""
    if num_images > num_groups:
        return (
            f"all {num_images} images are near duplicates of each other; at least 2 different ones are "
            f"needed for training and validation.{left} Add images, or set dataset.near_duplicates=never."
        )
    return (
        f"{num_images} different image{'s' if num_images != 1 else ''}; at least 2 are needed for training "
        f"and validation.{left} Add images."
    )


def none_left(problems: Sequence[Problem], records: Sequence[Record]) -> str | None:
    """That problems leave nothing, if that is so."""
    return None if records else f"{len(problems)} problems leave no image. Mend some, or add others."


def _heading(found: Sequence[Problem], refused: list[str], *, name: str, is_skipping: bool) -> str:
    count = f"{len(refused)} problem{'s' if len(refused) > 1 else ''}"
    remedy = ". Mend them and start again:"
    if is_skipping:
        remedy = f" that dataset.on_problem=skip cannot leave out{remedy}"
    elif found and all(problem.is_skippable for problem in found):
        remedy = ". Mend them, or leave these images out with dataset.on_problem=skip, and start again:"
    return f"{count} in the {name}{remedy}"


def _image_problems(inspections: dict[Path, Inspection], names: dict[Path, str]) -> list[Problem]:
    return [
        Problem(file=names[path], message=inspection.problem, is_skippable=True, images=(path,))
        for path, inspection in inspections.items()
        if inspection.problem is not None
    ]


def _record_problems(records: list[Record]) -> list[Problem]:
    problems = []
    paths: dict[str, Path] = {}
    for record in records:
        if record.id in paths:
            first, images = paths[record.id], (paths[record.id], record.path)
            message = f"the id is used twice, for {first} and {record.path}. Rename one."
            problems.append(Problem(file=record.id, message=message, is_skippable=True, images=images))
        paths[record.id] = record.path
        if not record.caption.strip():
            message = "the caption is empty. Write one."
            problems.append(
                Problem(file=record.id, message=message, is_skippable=True, images=(record.path,))
            )
    return problems
