"""Photos of one object in a folder, with `captions.txt` beside them or one caption for all."""

from collections.abc import Callable, Iterable
from pathlib import Path

from src.data.readers.common import read_text, require_images, simplify
from src.data.records import Problem, ReadResult, Record
from src.errors import UserError

CAPTIONS_FILE = "captions.txt"
DEFAULT_CAPTION = "a photo of {placeholder}"


def read_subject(
    *, path: Path, placeholder: str | None = None, default_caption: str = DEFAULT_CAPTION
) -> ReadResult:
    """Reads a folder of photos.

    `captions.txt` holds `filename|caption`, one a line, in UTF-8; blank lines and lines that start with `#`
    are skipped. A name may differ from the photo's in letter case or extension (`IMG_1.jpg` for
    `IMG_1.HEIC`) while only one photo fits; that is reported. Without the file every photo gets
    `default_caption`. A record's id is the photo's path relative to the folder.

    Args:
        path: The folder.
        placeholder: The word that names the object.
        default_caption: The caption without `captions.txt`; `{placeholder}` stands for the placeholder.

    Raises:
        UserError: the folder is missing or holds no photos, or the default caption needs a placeholder.
    """
    photos = require_images(path, "photo")
    captions_file = path / CAPTIONS_FILE
    if not captions_file.is_file():
        caption = _default_caption(default_caption, placeholder)
        records = [Record(path=photo, caption=caption, id=name) for name, photo in photos.items()]
        return ReadResult(records=records, problems=[], warnings=[_no_captions_warning(path, caption)])
    text, problems = read_text(captions_file)
    if text is None:
        return ReadResult(records=[], problems=problems)
    captions, problems, warnings = _match_captions(text.split("\n"), photos)
    if not captions and not problems:
        message = "holds no captions. Write lines of filename|caption or delete it."
        problems.append(Problem(file=CAPTIONS_FILE, message=message))
    else:
        problems.extend(
            Problem(file=name, message=f"has no caption. Add the line {name}|<caption> to {CAPTIONS_FILE}.")
            for name in photos
            if name not in captions
        )
    records = [
        Record(path=photo, caption=captions[name][1], id=name)
        for name, photo in photos.items()
        if name in captions and captions[name][1]
    ]
    warnings.extend(_placeholder_warnings(records, placeholder))
    return ReadResult(records=records, problems=problems, warnings=warnings)


def _default_caption(default_caption: str, placeholder: str | None) -> str:
    if "{placeholder}" in default_caption and placeholder is None:
        raise UserError(
            f"There is no {CAPTIONS_FILE}, and the default caption {default_caption!r} needs a placeholder. "
            "Set dataset.placeholder to a word such as sksToy, or write captions."
        )
    caption = default_caption.replace("{placeholder}", placeholder or "").strip()
    if not caption:
        raise UserError(f"There is no {CAPTIONS_FILE} and the default caption is empty. Set one of them.")
    return caption


def _no_captions_warning(path: Path, caption: str) -> str:
    others = sorted(file.name for file in path.glob("*.txt"))
    hint = f" (there is {', '.join(others[:3])}; was that meant?)" if others else ""
    return f"No {CAPTIONS_FILE} in {path}{hint}: every photo gets the caption {caption!r}."


def _match_captions(
    lines: Iterable[str], photos: dict[str, Path]
) -> tuple[dict[str, tuple[int, str]], list[Problem], list[str]]:
    """Line number and caption of each photo that has a line, what is wrong, and which names were guessed."""
    captions: dict[str, tuple[int, str]] = {}
    problems: list[Problem] = []
    warnings: list[str] = []
    by_name, by_stem = _unique(photos, simplify), _unique(photos, _without_suffix)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, caption = (part.strip() for part in line.partition("|"))
        photo = name if name in photos else by_name.get(simplify(name)) or by_stem.get(_without_suffix(name))
        fault = None
        if not separator or not name:
            fault = f"{line.strip()[:60]!r} is not filename|caption. Put a | between them."
        elif photo is None:
            fault = f"the photo {name!r} does not exist. Restore it or delete the line."
        elif photo in captions:
            fault = f"{name!r} has a caption on line {captions[photo][0]} already. Keep one of them."
        elif not caption:
            fault = f"the caption of {name!r} is empty. Write one."
        if fault is not None:
            problems.append(Problem(file=f"{CAPTIONS_FILE}:{number}", message=fault))
        elif photo != name:
            warnings.append(f"{CAPTIONS_FILE}:{number}: {name!r} was taken for the photo {photo!r}.")
        if photo is not None and separator:
            captions.setdefault(photo, (number, caption))
    return captions, problems, warnings


def _without_suffix(name: str) -> str:
    return simplify(name).rpartition(".")[0] or simplify(name)


def _unique(photos: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Photos by a weaker name, without those that share it."""
    found: dict[str, list[str]] = {}
    for name in photos:
        found.setdefault(key(name), []).append(name)
    return {weak: names[0] for weak, names in found.items() if len(names) == 1}


def _placeholder_warnings(records: list[Record], placeholder: str | None) -> list[str]:
    without = [record.id for record in records if placeholder and placeholder not in record.caption]
    if not without:
        return []
    return [f"{len(without)} captions do not contain the placeholder {placeholder}, first: {without[0]}."]
