"""Captions found for the images of a folder, whatever file they come from, and what is wrong with them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from src.data.masks import looks_like_mask
from src.data.readers.common import MAX_CAPTION, is_text, simplify, text_of
from src.data.records import Problem, few

_SHOWN = 100
_MOST_GUESSES = 3


class NameMatcher:
    """Finds images by the names that people and programs write down for them.

    Only what is there is ever found, so no name can lead outside the folder.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._names = set(images)
        self._by_name = _unique(self._names, simplify)
        self._by_stem = _unique(self._names, stem)

    def find(self, name: str) -> str | None:
        """The image of this name, else the only one that differs in letter case, Unicode form, kind of slash
        or extension."""
        if name in self._names:
            return name
        return self._by_name.get(simplify(name)) or self._by_stem.get(stem(name))


class CaptionTable:
    """Collects one caption an image, with problems and warnings that say where each line stands.

    Args:
        images: The images of the dataset, by their path relative to its folder.
    """

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._images = dict(images)
        self._matcher = NameMatcher(self._images)
        self._places: dict[str, str] = {}
        self._has_unread = False
        self.captions: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._guesses: list[tuple[str, str, str]] = []
        self._other_warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """Which names were taken for which photos, of many the first few, and what else `warn` was told."""
        guesses = [
            f"{where}: {shown(name)} was taken for the photo {image!r}."
            for where, name, image in self._guesses
        ]
        if len(guesses) > _MOST_GUESSES:
            pairs = few([f"{shown(name)} ({image})" for _, name, image in self._guesses], _MOST_GUESSES)
            guesses = [
                f"{len(guesses)} names differ from their photos' in letter case or extension: {pairs}."
            ]
        return [*guesses, *self._other_warnings]

    def warn(self, text: str) -> None:
        """Notes what a user should know."""
        self._other_warnings.append(text)

    def without_line(self) -> list[str]:
        """Images that no line names; none as long as some file could not be read, which may name them."""
        return [] if self._has_unread else [image for image in self._images if image not in self._places]

    def refuse_without_caption(self, image: str, remedy: str) -> None:
        """Notes that an image has no caption. A mask without its image looks like one."""
        message = f"has no caption. {remedy}"
        if looks_like_mask(image):
            message = (
                "is named like a mask, but there is no image of that name. Add the image or remove the mask. "
                f"If it is an image to train on, it {message}"
            )
        self.refuse(image, message, image=image)

    def refuse(self, where: str, message: str, *, image: str | None = None) -> None:
        """Notes what must be mended, of an image or of a line that names none."""
        images = () if image is None else (self._images[image],)
        self.problems.append(Problem(file=where, message=message, is_skippable=True, images=images))

    def skip_file(self, *problems: Problem) -> None:
        """Notes why a whole file could not be read."""
        self.problems.extend(replace(problem, is_skippable=False) for problem in problems)
        self._has_unread = True

    def skip_images(self, where: str, images: Sequence[str], problems: Sequence[Problem]) -> None:
        """Notes why a file could not be read that speaks of these images alone."""
        self._places.update(dict.fromkeys(images, where))
        paths = tuple(self._images[image] for image in images)
        self.problems.extend(replace(problem, is_skippable=True, images=paths) for problem in problems)

    def add(self, *, where: str, name: str, caption: str, folder: str = "", fault: str | None = None) -> None:
        """Takes one line.

        Args:
            where: File and line, for messages.
            name: The image, as the line names it.
            caption: Its caption.
            folder: What the name is relative to, itself relative to the dataset's folder.
            fault: What is wrong with the caption, if that is known already.
        """
        image = self._matcher.find(f"{folder}/{name}" if folder else name)
        if image is None and _leads_outside(name):
            self.refuse(where, f"{shown(name)} leads outside the folder. Name a file inside it.")
        elif image is None:
            self.refuse(where, f"the photo {shown(name)} does not exist. Restore it or delete the line.")
        elif image in self._places:
            place = self._places[image]
            message = f"{shown(name)} has a caption in {place} already. Keep one of them."
            self.refuse(where, message, image=image)
        else:
            self._places[image] = where
            fault = fault or caption_fault(caption)
            if fault is not None:
                self.refuse(where, f"the caption of {shown(name)} {fault}", image=image)
                return
            self.captions[image] = text_of(caption)
            if image != (f"{folder}/{name}" if folder else name):
                self._guesses.append((where, name, image))


def caption_fault(caption: str) -> str | None:
    """What keeps a text from being a caption, if anything does."""
    if not caption.strip():
        return "is empty. Write one."
    if len(caption) > MAX_CAPTION:
        return f"has {len(caption)} characters (is a line break missing?). {MAX_CAPTION} are the most."
    if not is_text(text_of(caption)):
        return "holds characters that are no text. Write it anew."
    return None


def shown(text: str) -> str:
    """A text of any length as a message can hold it."""
    return ascii(text[:_SHOWN]) if not is_text(text[:_SHOWN]) else repr(text[:_SHOWN])


def stem(name: str) -> str:
    """A simplified name without its extension."""
    simple = simplify(name)
    return simple.rpartition(".")[0] or simple


def _leads_outside(name: str) -> bool:
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    return bool(windows.drive or windows.root or posix.is_absolute()) or ".." in windows.parts


def _unique(names: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Images by a weaker name, without those that share it."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return {weak: names[0] for weak, names in found.items() if len(names) == 1}
