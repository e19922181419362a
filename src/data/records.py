"""The one shape every data source is brought to: an image file, its caption, and a stable name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One training example.

    Attributes:
        path: The image file.
        caption: What the prompt will say; never empty.
        id: A name that is stable and unique within the dataset: noise, order and crops are addressed by it.
    """

    path: Path
    caption: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in the dataset that must be mended before training.

    Attributes:
        file: The file, and the line where there is one ("captions.txt:3").
        message: What is wrong and how to mend it.
        is_skippable: Whether the others can be trained on without what it names. Not if nobody knows what is
            lost: a captions file that cannot be decoded may speak of any image.
        images: The images that it speaks of, which are left out where it is skipped. None, for a line that
            names no image.
    """

    file: str
    message: str
    is_skippable: bool = False
    images: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What a reader found.

    Attributes:
        records: The usable examples.
        problems: All that is wrong; training is refused while there are any.
        warnings: What was guessed or left out, for the log.
        attribution: Whom to credit wherever the data, or what was made of it, is shown; None if nobody.
    """

    records: list[Record]
    problems: list[Problem]
    warnings: list[str] = field(default_factory=list)
    attribution: str | None = None


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
