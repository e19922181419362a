"""What every captioner is: it makes images small, and describes a batch of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from src.checks import require_whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that a set of photos teaches.

    Attributes:
        placeholder: The word that names it in captions, such as sksToy.
        class_word: What kind of thing it is, such as toy.
    """

    placeholder: str
    class_word: str

    @property
    def name(self) -> str:
        """How captions speak of it."""
        return f"{self.placeholder} {self.class_word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no caption for an image."""

    message: str


class Captioner(ABC):
    """Describes images in words.

    Attributes:
        label: Who wrote a caption, for the file of captions.
        batch_size: How many images it wants at once; so many are lost at most when it is stopped.
        max_images: No more captions than so many in one run; None for all.
    """

    def __init__(self, *, label: str, batch_size: int, max_images: int | None) -> None:
        if max_images is not None:
            require_whole_number("captioner.max_images", max_images, least=1)
        self.label = label
        self.batch_size = batch_size
        self.max_images = max_images

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """What it needs of an image (upright, sRGB), so that no batch of full size is held in memory."""

    @abstractmethod
    def describe(self, prepared: Sequence[Any]) -> list[str | Failure]:
        """A caption for each image of a batch, in order.

        Raises:
            UserError: nothing more can be described; what was written before stays.
        """

    def reason_to_stop(self) -> str | None:
        """Why no other batch should begin; None while it should."""
        return None

    def summary(self) -> str | None:
        """What it used so far, in one line."""
        return None

    def figures(self) -> dict[str, float]:
        """The same in numbers."""
        return {}
