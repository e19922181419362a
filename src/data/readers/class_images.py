"""A folder of class images: pictures of other things of the subject's kind, for prior preservation."""

from dataclasses import replace
from pathlib import Path

from src.data.readers.subject import read_subject
from src.data.records import ReadResult, Record
from src.errors import UserError
from src.words import has_word

# No path relative to a folder begins like this, so that a class image never shares its noise with a photo.
ID_PREFIX = "class:"


def read_class_images(*, path: Path, prompt: str, placeholder: str | None = None) -> ReadResult:
    """Reads a folder of class images, with captions as `read_subject` finds them, or one prompt for all.

    Args:
        path: The folder.
        prompt: The caption of all images if the folder has no captions.
        placeholder: The subject's word, which must not stand in a caption of these.

    Raises:
        UserError: the folder is missing or holds no images.
    """
    if not path.is_dir():
        raise UserError(
            f"dataset.class_images.path={path} is not a folder. Set it to a folder of images of the class, "
            "or to null to have them drawn by the base model."
        )
    template = prompt.replace("{", "{{").replace("}", "}}")
    found = read_subject(path=path, default_caption=template)
    records = [replace(record, id=class_image_id(record.id)) for record in found.records]
    return replace(
        found,
        records=records,
        problems=[replace(problem, file=class_image_id(problem.file)) for problem in found.problems],
        warnings=[f"Class images: {text}" for text in [*found.warnings, *_named(records, placeholder)]],
    )


def class_image_id(name: str) -> str:
    """The id of a class image of this name."""
    return f"{ID_PREFIX}{name}"


def _named(records: list[Record], placeholder: str | None) -> list[str]:
    wrong = [record.id for record in records if placeholder and has_word(record.caption, placeholder)]
    if not wrong:
        return []
    return [
        f"{len(wrong)} captions contain the placeholder {placeholder}, first: {wrong[0]}. It would "
        "be taught to mean these images, too."
    ]
