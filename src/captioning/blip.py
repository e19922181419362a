"""Captions by BLIP, on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from src.captioning.base import Captioner, Failure, Subject
from src.checks import require_whole_number
from src.data.readers.templates import check_template
from src.errors import UserError
from src.words import article

_KEY = "captioner.prefix"
_SUBJECT_PREFIX = "a photo of {subject}"


class BlipCaptioner(Captioner):
    """Describes images with a BLIP model.

    It has never heard of a placeholder. So it goes on from "a photo of a toy", and the caption begins with
    "a photo of sksToy toy".

    Args:
        subject: What the set teaches; None for a set of many motifs.
        model: Hub id or folder.
        batch_size: Images at once.
        max_new_tokens: The most tokens after the prefix.
        prefix: What each caption begins with; `{subject}` in it stands for the subject. None: nothing, or "a
            photo of {subject}" where there is one.
        device: "auto", "cuda", "mps" or "cpu".
        max_images: See `Captioner`.

    Raises:
        UserError: a value out of its range, a prefix without the subject, or a model that cannot be had.
    """

    def __init__(
        self,
        *,
        subject: Subject | None = None,
        model: str = "Salesforce/blip-image-captioning-large",
        batch_size: int = 8,
        max_new_tokens: int = 30,
        prefix: str | None = None,
        device: str = "auto",
        max_images: int | None = None,
    ) -> None:
        require_whole_number("captioner.batch_size", batch_size, least=1)
        require_whole_number("captioner.max_new_tokens", max_new_tokens, least=1)
        if not isinstance(model, str) or not model:
            raise UserError(f"captioner.model={model} must be a hub id or a folder.")
        path = str(Path(model).expanduser())
        super().__init__(label=f"blip:{Path(path).name}", batch_size=batch_size, max_images=max_images)
        self._heard, self._written = _prefixes(prefix, subject)
        from src.models.blip import Blip

        self._blip = Blip(path, device=device, max_new_tokens=max_new_tokens)

    def prepare(self, image: Image.Image) -> Any:
        """See `Captioner.prepare`."""
        return self._blip.pixels(image)

    def describe(self, prepared: Sequence[Any]) -> list[str | Failure]:
        """See `Captioner.describe`."""
        words = self._blip.describe(prepared, prefix=self._heard)
        return [" ".join(part for part in (self._written, text) if part) for text in words]


def _prefixes(prefix: str | None, subject: Subject | None) -> tuple[str | None, str | None]:
    """What the model goes on from, and what the caption begins with."""
    if prefix is None and subject is None:
        return None, None
    fields = frozenset({"subject"} if subject is not None else ())
    text = _SUBJECT_PREFIX if prefix is None else prefix
    check_template(_KEY, text, required=fields, allowed=frozenset())
    if not text.strip():
        raise UserError(f"{_KEY} is empty. Set it to null for none.")
    if subject is None:
        return text, text
    return text.format(subject=f"{article(subject.class_word)} {subject.class_word}"), text.format(
        subject=subject.name
    )
