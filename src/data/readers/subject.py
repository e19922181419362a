"""Photos of one object in a folder, with captions beside them or one caption for all."""

from pathlib import Path

from src.data.readers.captions import CaptionTable, shown, stem
from src.data.readers.common import Folder, placeholder_warnings, read_text, require_scan
from src.data.readers.metadata import add_metadata, tables_that_count
from src.data.readers.templates import check_template, fill, require_placeholder
from src.data.records import Problem, ReadResult, Record, few

CAPTIONS_FILE = "captions.txt"
DEFAULT_CAPTION = "a photo of {placeholder}"


def read_subject(
    *, path: Path, placeholder: str | None = None, default_caption: str = DEFAULT_CAPTION
) -> ReadResult:
    """Reads a folder of photos.

    Captions come from the first of these that is there, alone; a warning names the others:

    1. `captions.txt`: `filename|caption`, one a line; blank lines and lines that start with `#` are skipped.
    2. `metadata.jsonl`, 3. `metadata.csv`: `file_name` and a caption column, also in subfolders.
    4. Text files beside the photos (`IMG_1.txt` for `IMG_1.HEIC`).
    5. `default_caption`, for every photo.

    All are UTF-8. A name may differ from the photo's in letter case or extension (`IMG_1.jpg` for
    `IMG_1.HEIC`) while only one photo fits; that is reported. A record's id is the photo's path relative to
    the folder.

    Args:
        path: The folder.
        placeholder: The word that names the object.
        default_caption: The caption where there are none; `{placeholder}` stands for the placeholder.

    Raises:
        UserError: the folder is missing or holds no photos, or the default caption is needed and has other
            fields, or needs a placeholder that is not set.
    """
    found = require_scan(path, "photo")
    captions = CaptionTable(found.images)
    sidecars = find_sidecars(found)
    tables = tables_that_count(found.tables)
    if CAPTIONS_FILE in found.texts:
        add_lines(captions, found.texts[CAPTIONS_FILE])
        remedy = f"Add the line {{name}}|<caption> to {CAPTIONS_FILE}."
    elif tables:
        column_remedy = "Leave one, or use dataset=imagefolder and dataset.reader.caption_column."
        add_metadata(captions, tables, caption_column=None, column_remedy=column_remedy)
        remedy = f"Add a line for it to {next(iter(tables))}."
    elif sidecars:
        add_sidecars(captions, sidecars, found)
        remedy = "Write one into {stem}.txt."
    else:
        return _with_default_caption(path, found, default_caption, placeholder)
    for name in captions.without_line():
        own = remedy.replace("{name}", name).replace("{stem}", name.rpartition(".")[0])
        captions.refuse_without_caption(name, own)
    records = [
        Record(path=photo, caption=captions.captions[name], id=name)
        for name, photo in found.images.items()
        if name in captions.captions
    ]
    return ReadResult(
        records=records,
        problems=[*found.problems, *captions.problems],
        warnings=[
            *_not_read(found, tables=list(tables), sidecars=list(sidecars)),
            *captions.warnings,
            *placeholder_warnings(records, placeholder),
        ],
    )


def _with_default_caption(
    path: Path, found: Folder, default_caption: str, placeholder: str | None
) -> ReadResult:
    key = "dataset.reader.default_caption"
    check_template(key, default_caption, required=frozenset(), allowed=frozenset({"placeholder"}))
    word = require_placeholder(key, default_caption, placeholder)
    caption = fill(key, default_caption, {"placeholder": word})
    hint = f" (there is {few(list(found.texts))}; was that meant?)" if found.texts else ""
    return ReadResult(
        records=[Record(path=photo, caption=caption, id=name) for name, photo in found.images.items()],
        problems=found.problems,
        warnings=[f"No {CAPTIONS_FILE} in {path}{hint}: every photo gets the caption {caption!r}."],
    )


def add_lines(captions: CaptionTable, file: Path) -> None:
    """Reads captions.txt."""
    text, problems = read_text(file)
    if text is None:
        captions.skip_file(*problems)
        return
    is_empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        is_empty = False
        where = f"{CAPTIONS_FILE}:{number}"
        name, separator, caption = (part.strip() for part in line.partition("|"))
        if separator and name:
            captions.add(where=where, name=name, caption=caption)
        else:
            captions.refuse(where, f"{shown(line.strip())} is not filename|caption. Put a | between them.")
    if is_empty:
        message = "holds no captions. Write lines of filename|caption or delete it."
        captions.skip_file(Problem(file=CAPTIONS_FILE, message=message))


def find_sidecars(found: Folder) -> dict[str, list[str]]:
    """The photos that each text file stands beside; a photo may be there in two formats."""
    photos: dict[str, list[str]] = {}
    for name in found.images:
        photos.setdefault(stem(name), []).append(name)
    return {
        name: photos[stem(name)] for name in found.texts if name != CAPTIONS_FILE and stem(name) in photos
    }


def add_sidecars(captions: CaptionTable, sidecars: dict[str, list[str]], found: Folder) -> None:
    """Reads the text files that stand beside photos."""
    for name, photos in sidecars.items():
        text, problems = read_text(found.texts[name], name=name)
        if text is None:
            captions.skip_images(name, photos, problems)
            continue
        for photo in photos:
            captions.add(where=name, name=photo, caption=text)
    if others := [name for name in found.texts if name not in sidecars]:
        captions.warn(f"Text files without a photo of their name, not read: {few(others)}.")


def _not_read(found: Folder, *, tables: list[str], sidecars: list[str]) -> list[str]:
    """A line if captions stand in more than one kind of file: the first kind counts."""
    others = [name for name in found.tables if name not in tables]
    if CAPTIONS_FILE in found.texts:
        kinds, others = [CAPTIONS_FILE], [*tables, *others]
    else:
        kinds = [*tables, *sidecars]
    others += sidecars if kinds[0] not in sidecars else []
    return [f"The captions are those of {kinds[0]}; not read: {few(others)}."] if others else []
