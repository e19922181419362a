"""Examples of good captions: a small folder of images and captions in any form that is read elsewhere."""

from pathlib import Path

from PIL import Image

from src.data.images import load_image
from src.data.readers.known import known_captions
from src.errors import UserError

KEY = "captioner.examples"
# Each is sent with every question.
MAX_EXAMPLES = 20


def load_examples(folder: Path) -> list[tuple[Image.Image, str]]:
    """Images with their captions, in the order of their names.

    Raises:
        UserError: the folder is missing or empty, a caption is missing or wrong, an image cannot be read, or
            there are too many.
    """
    if not folder.is_dir():
        raise UserError(f"{KEY}={folder} is no folder. Give one with images and their captions, or null.")
    known = known_captions(folder, photos=True)
    if without := list(known.without):
        raise UserError(
            f"{KEY}={folder}: {without[0]} has no caption. Write one into a .txt file of the same name "
            "or into metadata.jsonl."
        )
    if len(known.images) > MAX_EXAMPLES:
        raise UserError(
            f"{KEY}={folder} holds {len(known.images)} images, and all are sent with each question. Leave "
            f"the best, {MAX_EXAMPLES} at most."
        )
    captions = {**known.elsewhere, **known.listed}
    return [(load_image(path), captions[name]) for name, path in known.images.items()]
