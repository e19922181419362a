"""Image folders as Hugging Face writes them: images, and `metadata.jsonl` or `metadata.csv` with captions."""

from pathlib import Path

from src.data.readers.captions import CaptionTable
from src.data.readers.common import METADATA_FILES, placeholder_warnings, require_scan
from src.data.readers.metadata import add_metadata, tables_that_count
from src.data.readers.templates import check_template, fill, require_placeholder
from src.data.records import ReadResult, Record, few
from src.errors import UserError

_PLACEHOLDER = frozenset({"placeholder"})


def read_imagefolder(
    *,
    path: Path,
    placeholder: str | None = None,
    caption_column: str | None = None,
    caption_template: str = "{caption}",
    default_caption: str | None = None,
) -> ReadResult:
    """Reads a folder of images in the image folder convention, with subfolders.

    A metadata file speaks of the images in its folder and below: `file_name` is relative to it. There may be
    one in each subfolder. Where there are `.jsonl` and `.csv` ones, those in JSON count. A record's id is the
    image's path relative to the folder.

    Args:
        path: The folder.
        placeholder: The word for what is learned; a template may use it.
        caption_column: The column of the captions; None takes the only one with a usual name.
        caption_template: What becomes the caption: `{caption}`, and `{placeholder}` if one is set.
        default_caption: The caption of all images if there is no metadata file; may use `{placeholder}`.

    Raises:
        UserError: the folder is missing or holds no images, a template has other fields, or there are neither
            metadata files nor a default caption.
    """
    template_key, default_key = "dataset.reader.caption_template", "dataset.reader.default_caption"
    check_template(template_key, caption_template, required=frozenset({"caption"}), allowed=_PLACEHOLDER)
    word = require_placeholder(template_key, caption_template, placeholder)
    found = require_scan(path, "image")
    tables = tables_that_count(found.tables)
    if not tables:
        if default_caption is None:
            raise UserError(_no_captions(path))
        check_template(default_key, default_caption, required=frozenset(), allowed=_PLACEHOLDER)
        word = require_placeholder(default_key, default_caption, placeholder)
        caption = fill(default_key, default_caption, {"placeholder": word})
        records = [Record(path=image, caption=caption, id=name) for name, image in found.images.items()]
        warning = f"No {' or '.join(METADATA_FILES)} in {path}: every image gets the caption {caption!r}."
        return ReadResult(records=records, problems=found.problems, warnings=[warning])
    captions = CaptionTable(found.images)
    add_metadata(
        captions, tables, caption_column=caption_column, column_remedy="Set dataset.reader.caption_column."
    )
    for name in captions.without_line():
        captions.refuse_without_caption(name, f"Add a line for it to {_nearest(name, list(tables))}.")
    records = [
        Record(
            path=image,
            caption=fill(
                template_key, caption_template, {"caption": captions.captions[name], "placeholder": word}
            ),
            id=name,
        )
        for name, image in found.images.items()
        if name in captions.captions
    ]
    left = [name for name in found.tables if name not in tables]
    warnings = [f"The captions are those of {next(iter(tables))}; not read: {few(left)}."] if left else []
    return ReadResult(
        records=records,
        problems=[*found.problems, *captions.problems],
        warnings=[*warnings, *captions.warnings, *placeholder_warnings(records, placeholder)],
    )


def _no_captions(path: Path) -> str:
    hint = ""
    if (path / "captions.txt").is_file():
        hint = " There is a captions.txt: dataset=subject reads that."
    return (
        f"No {' or '.join(METADATA_FILES)} in {path}.{hint} Write one, a line an image, such as "
        '{"file_name": "a.png", "text": "a red house"}; or set dataset.reader.default_caption.'
    )


def _nearest(image: str, tables: list[str]) -> str:
    """The metadata file that stands closest above an image; any, if none does."""
    above = [name for name in tables if image.startswith(name.removesuffix(name.rpartition("/")[2]))]
    return max(above or tables, key=lambda name: name.count("/"))
