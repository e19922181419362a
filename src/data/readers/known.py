"""Which images of a folder have a caption already, in whatever form: what a captioner must leave alone."""

from dataclasses import dataclass
from pathlib import Path

from src.data.readers.captions import CaptionTable
from src.data.readers.common import METADATA_FILES, Folder, require_scan
from src.data.readers.metadata import CAPTION_COLUMNS, add_metadata, read_rows
from src.data.readers.subject import CAPTIONS_FILE, add_lines, add_sidecars, find_sidecars
from src.errors import DatasetProblems

# The column that says which captioner wrote a line; a caption written by hand has none.
CAPTIONER_COLUMN = "captioner"
_LINES, _TABLE = METADATA_FILES
_REMEDY = "Leave one, or set dataset.reader.caption_column."


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCaptions:
    """The images of a folder and the captions that they have.

    Attributes:
        images: All images, by their path relative to the folder.
        listed: Captions in `metadata.jsonl` files, by image.
        elsewhere: Captions of other images, in other forms.
        num_by_captioner: How many lines of `listed` a captioner wrote.
        column: The column in which the captions of metadata files stand, or should.
        rival: A file that is read instead of `metadata.jsonl` while it is there; None if there is none.
        warnings: Names that were guessed and files that no image belongs to.
    """

    images: dict[str, Path]
    listed: dict[str, str]
    elsewhere: dict[str, str]
    num_by_captioner: int
    column: str
    rival: str | None
    warnings: list[str]

    @property
    def without(self) -> dict[str, Path]:
        """The images that have no caption anywhere."""
        known = {**self.listed, **self.elsewhere}
        return {name: path for name, path in self.images.items() if name not in known}


def known_captions(path: Path, *, photos: bool, caption_column: str | None = None) -> KnownCaptions:
    """Looks through every form of captions that the folder's reader knows, and not through the first only.

    Args:
        path: The folder.
        photos: Whether captions.txt and text files beside the images count, as for `read_subject`.
        caption_column: The column in metadata files; None takes the only one with a usual name.

    Raises:
        UserError: the folder is missing or holds no images.
        DatasetProblems: captions that are there cannot be read or are wrong.
    """
    found = require_scan(path, "image")
    lines = _read_tables(found, _LINES, caption_column)
    others = [_read_captions_file(found)] if photos else []
    others.append(_read_tables(found, _TABLE, caption_column))
    if photos:
        others.append(_read_sidecars(found))
    problems = [
        *found.problems,
        *lines.problems,
        *(problem for table in others for problem in table.problems),
    ]
    if problems:
        raise DatasetProblems(
            f"Captions in {path} must be mended before more are written (a line that is deleted counts as no "
            "caption):",
            [str(problem) for problem in problems],
        )
    elsewhere: dict[str, str] = {}
    for table in reversed(others):
        elsewhere |= table.captions
    rows = [row for name, file in _tables(found, _LINES).items() for row in read_rows(file, name=name)]
    return KnownCaptions(
        images=found.images,
        listed=lines.captions,
        elsewhere={name: caption for name, caption in elsewhere.items() if name not in lines.captions},
        num_by_captioner=sum(bool(row.get(CAPTIONER_COLUMN)) for row in rows),
        column=caption_column or _column(found),
        rival=CAPTIONS_FILE if photos and CAPTIONS_FILE in found.texts else None,
        warnings=[warning for table in (lines, *others) for warning in table.warnings],
    )


def _tables(found: Folder, kind: str) -> dict[str, Path]:
    return {name: file for name, file in found.tables.items() if file.name.casefold() == kind}


def _read_tables(found: Folder, kind: str, column: str | None) -> CaptionTable:
    captions = CaptionTable(found.images)
    add_metadata(captions, _tables(found, kind), caption_column=column, column_remedy=_REMEDY)
    return captions


def _read_captions_file(found: Folder) -> CaptionTable:
    captions = CaptionTable(found.images)
    if CAPTIONS_FILE in found.texts:
        add_lines(captions, found.texts[CAPTIONS_FILE])
    return captions


def _read_sidecars(found: Folder) -> CaptionTable:
    captions = CaptionTable(found.images)
    add_sidecars(captions, find_sidecars(found), found)
    return captions


def _column(found: Folder) -> str:
    """The caption column of the metadata files that are there, JSON first; "text" if there are none."""
    for kind in METADATA_FILES:
        for name, file in _tables(found, kind).items():
            columns = {str(column) for row in read_rows(file, name=name) for column in row}
            for column in sorted(columns):
                if column.casefold() in CAPTION_COLUMNS:
                    return column
    return CAPTION_COLUMNS[0]
