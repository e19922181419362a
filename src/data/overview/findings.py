"""What is known of a dataset, gathered for the pages that show it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.data.preflight import DatasetReport
from src.data.records import Problem, ReadResult, Record
from src.data.split import Split

Size = tuple[int, int]

TRAIN, HELD_OUT, LEFT_OUT = "train", "held out", "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFinding:
    """One image file.

    Attributes:
        path: The file.
        name: Its path relative to the dataset's folder.
        captions: Of all its records; none if it has no caption that can be used.
        side: TRAIN, HELD_OUT or LEFT_OUT; None if it cannot be trained on as it is.
        size: Upright (width, height) in pixels, if it is sound.
        num_tokens: Of its longest caption, if tokens were counted.
        is_cut: Whether the text encoder does not see the end of one of its captions.
        problems: What is wrong with it.
    """

    path: Path
    name: str
    captions: list[str]
    side: str | None
    size: Size | None
    num_tokens: int | None
    is_cut: bool
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """Images that are the same or nearly so.

    Attributes:
        is_exact: Whether all have the same content.
        images: Them.
    """

    is_exact: bool
    images: list[ImageFinding]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostText:
    """The end of a caption that the text encoder does not see."""

    name: str
    num_tokens: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionTokens:
    """Token counts of all captions, without start and end.

    Attributes:
        chunk_size: How many the text encoder takes at once.
        max_chunks: How often it takes so many of one caption.
        counts: One a caption.
        lost: The captions that do not fit. Chunks end with words, so not all that have fewer tokens do.
    """

    chunk_size: int
    max_chunks: int
    counts: list[int]
    lost: list[LostText]

    @property
    def limit(self) -> int:
        """The most that can be used."""
        return self.chunk_size * self.max_chunks

    @property
    def room(self) -> str:
        """What captions must fit into, in words."""
        size = f"{self.chunk_size} tokens"
        return size if self.max_chunks == 1 else f"{self.max_chunks} chunks of {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that the pages show.

    Attributes:
        title: What to call the dataset.
        folder: Where it is.
        images: All files, in the order of the dataset.
        problems: What must be mended.
        warnings: What a user should know and may leave as it is.
        duplicates: Groups of images, the largest first.
        has_near: Whether near duplicates were looked for.
        tokens: None if there was nothing to count them with.
        training_size: (width, height) of the training images, if it is known.
        buckets: Number of images by the (width, height) that they are trained at, where these differ.
    """

    title: str
    folder: Path
    images: list[ImageFinding]
    problems: list[Problem]
    warnings: list[str]
    duplicates: list[DuplicateGroup]
    has_near: bool
    tokens: CaptionTokens | None
    training_size: Size | None
    buckets: Mapping[Size, int]

    def num_of_side(self, side: str) -> int:
        """Images of one side of the split."""
        return sum(image.side == side for image in self.images)


def gather(
    *,
    title: str,
    folder: Path,
    result: ReadResult,
    report: DatasetReport,
    problems: list[Problem],
    warnings: list[str],
    split: Split | None,
    has_near: bool,
    tokens: CaptionTokens | None,
    training_size: Size | None,
    buckets: Mapping[Size, int],
) -> Findings:
    """Brings records, problems and sides together, a line an image file.

    Args:
        title: What to call the dataset.
        folder: Where it is.
        result: What the reader found.
        report: What the survey saw.
        problems: The report's, and what else keeps from training.
        warnings: The report's, and those of the split.
        split: Of what is sound, if there is enough for one.
        has_near: Whether near duplicates were looked for.
        tokens: See `count_caption_tokens`.
        training_size: (width, height) of the training images, if it is known.
        buckets: See `Findings`.
    """
    records: dict[Path, list[Record]] = defaultdict(list)
    for record in result.records:
        records[record.path].append(record)
    wrong: dict[Path, list[str]] = defaultdict(list)
    for problem in problems:
        for image in problem.images:
            wrong[image].append(problem.message)
    sides = {} if split is None else _sides(split)
    sizes = {record.path: report.sizes[record.id] for record in report.records}
    num_tokens: dict[Path, int] = {}
    if tokens is not None:
        for record, number in zip(result.records, tokens.counts, strict=True):
            num_tokens[record.path] = max(number, num_tokens.get(record.path, 0))
    cut = set() if tokens is None else {lost.name for lost in tokens.lost}
    images = {
        path: ImageFinding(
            path=path,
            name=_relative(path, folder),
            captions=[record.caption for record in records.get(path, [])],
            side=sides.get(path),
            size=sizes.get(path),
            num_tokens=num_tokens.get(path),
            is_cut=any(record.id in cut for record in records.get(path, [])),
            problems=wrong.get(path, []),
        )
        for path in sorted({*records, *wrong}, key=lambda path: path.parts)
    }
    return Findings(
        title=title,
        folder=folder,
        images=list(images.values()),
        problems=problems,
        warnings=warnings,
        duplicates=_duplicates(report, images),
        has_near=has_near,
        tokens=tokens,
        training_size=training_size,
        buckets=buckets,
    )


def count_caption_tokens(
    records: list[Record],
    *,
    count: Callable[[str], int],
    unseen: Callable[[str], str],
    chunk_size: int,
    max_chunks: int,
) -> CaptionTokens:
    """Counts the tokens of all captions, and finds what is not seen of them.

    Args:
        records: All.
        count: Tokens of a text, without start and end.
        unseen: The end of a text that does not fit.
        chunk_size: See `CaptionTokens`.
        max_chunks: See `CaptionTokens`.
    """
    counts = [count(record.caption) for record in records]
    lost = [
        LostText(name=record.id, num_tokens=number, text=text)
        for record, number in zip(records, counts, strict=True)
        if (text := unseen(record.caption))
    ]
    return CaptionTokens(chunk_size=chunk_size, max_chunks=max_chunks, counts=counts, lost=lost)


def size_counts(findings: Findings) -> Counter[Size]:
    """Number of images by upright (width, height)."""
    return Counter(image.size for image in findings.images if image.size is not None)


def _sides(split: Split) -> dict[Path, str]:
    sides = ((TRAIN, split.train), (HELD_OUT, split.validation), (LEFT_OUT, split.left_out))
    return {record.path: side for side, records in sides for record in records}


def _duplicates(report: DatasetReport, images: Mapping[Path, ImageFinding]) -> list[DuplicateGroup]:
    groups: dict[str, dict[Path, str]] = defaultdict(dict)
    for record in report.records:
        groups[report.group_keys[record.id]][record.path] = report.hashes[record.id]
    found = [
        DuplicateGroup(
            is_exact=len(set(contents.values())) == 1, images=[images[path] for path in sorted(contents)]
        )
        for contents in groups.values()
        if len(contents) > 1
    ]
    return sorted(found, key=lambda group: -len(group.images))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
