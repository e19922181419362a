"""Everything that can be wrong with a dataset, found before any work is done and listed at once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.data.inspection import Inspection, inspect_files, is_decoded_in_full
from src.data.near_duplicates import group_near_duplicates
from src.data.preflight_warnings import MAX_LISTED, image_warnings, near_duplicate_warnings
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
        group_keys: What must stay on one side of the split has one key: same contents, and near duplicates
            where these were looked for. By record id.
        warnings: What a user should know and may leave as it is.
    """

    problems: list[Problem]
    records: list[Record]
    num_records: int
    num_images: int
    hashes: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    group_keys: dict[str, str]
    warnings: list[str]


def check_dataset(
    result: ReadResult,
    *,
    resolution: tuple[int, int] | None,
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
        name: What to call the dataset in messages.
        needs_split: Whether there must be enough images for training and validation.
        memo_file: See `inspect_files`.
        near_duplicates: See `survey_dataset`.
        on_problem: "refuse", or "skip" to leave out the images that problems speak of. Whatever the number of
            images, all are decoded then: damage is found here and not on the way.

    Raises:
        DatasetProblems: with all that must be mended.
    """
    is_skipping = on_problem == "skip"
    report = survey_dataset(
        result,
        resolution=resolution,
        memo_file=memo_file,
        near_duplicates=near_duplicates,
        decode_all=is_skipping,
    )
    refused = [problem for problem in report.problems if not (is_skipping and problem.is_skippable)]
    problems = [str(problem) for problem in refused]
    if needs_split and not problems and (shortage := too_few(report)):
        problems = [shortage]
    if problems:
        raise DatasetProblems(
            _heading(report.problems, problems, name=name, is_skipping=is_skipping), problems
        )
    return report


def survey_dataset(
    result: ReadResult,
    *,
    resolution: tuple[int, int] | None,
    memo_file: Path | None = None,
    near_duplicates: str = "auto",
    decode_all: bool = False,
) -> DatasetReport:
    """Looks at every image and caption, and refuses nothing.

    Args:
        result: What the reader found; its problems are listed with those found here.
        resolution: (width, height) of the training images; None if it is not known yet.
        memo_file: See `inspect_files`.
        near_duplicates: Whether near duplicates are looked for: "always", "never", or "auto", in sets that
            are decoded in full in any case (see `inspect_files`).
        decode_all: Decode in full also a set that is larger than these.
    """
    named = dict.fromkeys(image for problem in result.problems for image in problem.images)
    paths = list(dict.fromkeys([*(record.path for record in result.records), *named]))
    inspections = inspect_files(
        paths,
        memo_file=memo_file,
        decode=True if decode_all or near_duplicates == "always" else None,
        with_fingerprints=finds_near_duplicates(near_duplicates, len(paths)),
    )
    name_of = {record.path: record.id for record in reversed(result.records)}
    problems = [
        *result.problems,
        *_image_problems(inspections, {path: name_of.get(path, str(path)) for path in paths}),
        *_record_problems(result.records),
    ]
    left_out = {image for problem in problems for image in problem.images}
    records = [record for record in result.records if record.path not in left_out]
    seen = {record.id: inspections[record.path] for record in records}
    hashes = {id: inspection.sha256 for id, inspection in seen.items()}
    keys = group_near_duplicates({seen[id].sha256: seen[id].fingerprint for id in hashes})
    return DatasetReport(
        problems=problems,
        records=records,
        num_records=len(records),
        num_images=len(set(hashes.values())),
        hashes=hashes,
        sizes={id: (inspection.width, inspection.height) for id, inspection in seen.items()},
        group_keys={id: keys[content] for id, content in hashes.items()},
        warnings=[
            *result.warnings,
            *image_warnings(records, seen, resolution),
            *near_duplicate_warnings(hashes, keys),
        ],
    )


def finds_near_duplicates(near_duplicates: str, num_images: int) -> bool:
    """Whether near duplicates are looked for in a set of this size; see `survey_dataset`."""
    return near_duplicates == "always" or (near_duplicates == "auto" and is_decoded_in_full(num_images))


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


def _heading(found: list[Problem], refused: list[str], *, name: str, is_skipping: bool) -> str:
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


def token_warnings(records: list[Record], count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    """A line for each caption of which the text encoder would not see the end, the first few by name."""
    warnings = []
    for record in records:
        # A token is at least a byte, and two mark start and end: most captions need no counting.
        if len(record.caption.encode()) + 2 <= max_tokens:
            continue
        num_tokens = count_tokens(record.caption)
        if num_tokens > max_tokens:
            lost = lost_text(record.caption, count_tokens, max_tokens)
            warnings.append(
                f"{record.id}: the caption has {num_tokens} tokens, {max_tokens} fit. Not seen: {lost!r}."
            )
    num_more = len(warnings) - MAX_LISTED
    more = [f"{num_more} more captions have over {max_tokens} tokens."] if num_more > 0 else []
    return warnings[:MAX_LISTED] + more


def lost_text(caption: str, count_tokens: Callable[[str], int], max_tokens: int) -> str:
    """The words behind the longest beginning that fits, by bisection."""
    words = caption.split()
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(" ".join(words[:middle])) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[low:])
