"""The form of a question and of its answer: images by number, captions by number, nothing else."""

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from src.captioning.base import Subject
from src.data.readers.captions import caption_fault
from src.words import has_word

_JPEG_QUALITY = 90
# About what Anthropic's pages say of images and of English text.
_PIXELS_PER_TOKEN = 750
_CHARACTERS_PER_TOKEN = 4
_FORM = (
    "Each image comes after its number. Answer with one JSON object that has one caption for each number, "
    "and nothing else. A caption speaks of its own image only."
)


class WrongAnswerError(Exception):
    """No caption of an answer can be trusted; the message says why."""


def encode_image(image: Image.Image, *, max_side: int) -> str:
    """A JPEG in base64, without metadata, scaled down so that no side is longer than `max_side` pixels."""
    small = image.copy()
    small.info.clear()  # Pillow would pass a comment on
    small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def system_text(instruction: str, subject: Subject | None) -> str:
    """What holds for all questions: the user's words, what the set teaches, and the form."""
    about = ""
    if subject is not None:
        about = (
            f'All images show one particular {subject.class_word}. Each caption calls it "{subject.name}", '
            "with exactly these letters, and does not say what it looks like: say where it is, in which "
            "view, light and pose, and what else there is. "
        )
    return f"{instruction.strip()}\n\n{about}{_FORM}"


def question(images: Sequence[str]) -> dict[str, Any]:
    """A message with images, which are numbered from 1."""
    content: list[dict[str, Any]] = []
    for number, data in enumerate(images, start=1):
        content.append({"type": "text", "text": f"Image {number}:"})
        source = {"type": "base64", "media_type": "image/jpeg", "data": data}
        content.append({"type": "image", "source": source})
    return {"role": "user", "content": content}


def expected_tokens(messages: Sequence[dict[str, Any]], *, system: str) -> int:
    """About how many tokens a question has, by the size of its images and texts."""
    blocks = [message["content"] for message in messages]
    parts = [part for block in blocks for part in (block if isinstance(block, list) else [{"text": block}])]
    num_characters = len(system) + sum(len(part.get("text", "")) for part in parts)
    num_pixels = 0
    for part in parts:
        if part.get("type") == "image":
            width, height = Image.open(BytesIO(base64.b64decode(part["source"]["data"]))).size
            num_pixels += width * height
    return num_characters // _CHARACTERS_PER_TOKEN + num_pixels // _PIXELS_PER_TOKEN


def example_turns(examples: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Images and captions as a question and the answer that was right."""
    if not examples:
        return []
    captions = {str(number): caption for number, (_, caption) in enumerate(examples, start=1)}
    answer = {"role": "assistant", "content": json.dumps(captions, ensure_ascii=False)}
    return [question([image for image, _ in examples]), answer]


def answer_schema(num_images: int) -> dict[str, Any]:
    """One text for each number, all of them, and nothing else."""
    numbers = [str(number) for number in range(1, num_images + 1)]
    return {
        "type": "object",
        "properties": {number: {"type": "string"} for number in numbers},
        "required": numbers,
        "additionalProperties": False,
    }


def read_answer(text: str, *, num_images: int, subject: Subject | None) -> list[str | None]:
    """The caption of each image, None where there is none to be used.

    A schema binds the models that know it. What others answer is checked here: a caption that is missing,
    empty or without the subject's placeholder is asked for again. A number that nobody gave, or one given
    twice, puts every other one in doubt.

    Raises:
        WrongAnswerError: the whole answer cannot be used.
    """
    try:
        found = json.loads(text, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise WrongAnswerError("the answer was no JSON") from error
    if not isinstance(found, dict):
        raise WrongAnswerError("the answer was no JSON object")
    numbers = [str(number) for number in range(1, num_images + 1)]
    if unknown := [name for name in found if name not in numbers]:
        raise WrongAnswerError(f"the answer had a caption for {unknown[0][:40]!r}, which is no image")
    return [_caption(found.get(number), subject) for number in numbers]


def _caption(value: Any, subject: Subject | None) -> str | None:
    if not isinstance(value, str) or caption_fault(value) is not None:
        return None
    return None if subject is not None and not has_word(value, subject.placeholder) else value


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise WrongAnswerError("the answer had two captions for one image")
    return dict(pairs)
