"""Small datasets as an inspection finds them."""

from collections.abc import Mapping
from pathlib import Path

from src.data.overview.findings import CaptionTokens, Findings, ImageFinding, count_caption_tokens, gather
from src.data.preflight import survey_dataset
from src.data.readers.subject import read_subject
from src.data.records import Record
from src.data.split import split_records
from tests.data.pictures import noise_image

WHITE = (255, 255, 255)


def count_words(records: list[Record], *, most: int = 75) -> CaptionTokens:
    """As if a word were a token."""
    return count_caption_tokens(
        records,
        count=lambda text: len(text.split()),
        unseen=lambda text: " ".join(text.split()[most:]),
        chunk_size=most,
        max_chunks=1,
    )


def find(
    folder: Path,
    *,
    limit: int = 75,
    near_duplicates: str = "auto",
    with_split: bool = True,
    buckets: Mapping[tuple[int, int], int] | None = None,
) -> Findings:
    """Everything of a folder of photos, with words for tokens."""
    result = read_subject(path=folder, placeholder="sksToy")
    report = survey_dataset(result, resolution=(32, 32), near_duplicates=near_duplicates)
    split = None
    if with_split:
        split = split_records(
            report.records,
            report.hashes,
            split_seed=0,
            validation_fraction=0.2,
            split_file=None,
            group_keys=report.group_keys,
        )
    return gather(
        title="subject",
        folder=folder,
        result=result,
        report=report,
        problems=report.problems,
        warnings=report.warnings,
        split=split,
        has_near=near_duplicates != "never",
        tokens=count_words(result.records, most=limit),
        training_size=(32, 32),
        buckets=buckets or {},
    )


def finding(folder: Path, name: str, **keywords: object) -> ImageFinding:
    """One image, whose file is made if it is not there."""
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_image(len(list(path.parent.iterdir()))).save(path)
    values = {
        "captions": ["a toy"],
        "side": "train",
        "size": (48, 40),
        "num_tokens": None,
        "problems": [],
        "is_cut": False,
    }
    return ImageFinding(path=path, name=name, **{**values, **keywords})


def findings(images: list[ImageFinding], **keywords: object) -> Findings:
    """Of these images, nothing else found."""
    values: dict[str, object] = {
        "title": "mine",
        "folder": Path("/data/mine"),
        "problems": [],
        "warnings": [],
        "duplicates": [],
        "has_near": True,
        "tokens": None,
        "training_size": None,
        "buckets": {},
    }
    return Findings(images=images, **{**values, **keywords})


def tokens(*counts: int, limit: int = 75) -> CaptionTokens:
    return CaptionTokens(chunk_size=limit, max_chunks=1, counts=list(counts), lost=[])
