"""Text in pictures: lines that fit, in a font that has the letters."""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

from PIL import ImageFont

_FONTS_OF_MANY_SCRIPTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
# Pillow's own font has the letters of ASCII, typographic quotes and the ellipsis; not even an accent.
_OWN_SIGNS = frozenset("\u2018\u2019\u201c\u201d\u2026")


def font_for(text: str, size: int) -> Any:
    """A font of a size in pixels that has the letters of a text, if there is one."""
    return _font(size, is_own=all(letter.isascii() or letter in _OWN_SIGNS for letter in text))


def wrap(text: str, font: Any, width: int, *, max_lines: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, between words where that is possible.

    What does not fit into `max_lines` is cut and ends in an ellipsis.
    """
    # One more tells whether all fit; a prompt of 10,000 characters is not broken to its end.
    lines = list(islice(_lines(text, font, width), max_lines + 1))
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], last + "…"]


def _lines(text: str, font: Any, width: int) -> Iterator[str]:
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            rest = word
            while rest:
                joined = f"{line} {rest}" if line else rest
                if font.getlength(joined) <= width:
                    line, rest = joined, ""
                elif line:
                    yield line
                    line = ""
                else:
                    head = max(1, _num_fitting(rest, font, width))
                    yield rest[:head]
                    rest = rest[head:]
        yield line


def _num_fitting(text: str, font: Any, width: int) -> int:
    """How many of a text's first letters fit, by bisection. None is narrower than a pixel."""
    return (
        bisect_right(
            range(min(len(text), width) + 1), width, key=lambda number: font.getlength(text[:number])
        )
        - 1
    )


@cache
def _font(size: int, *, is_own: bool) -> Any:
    """Pillow's own font, or for other letters one of the system's; without any, boxes stand for them."""
    for name in () if is_own else _FONTS_OF_MANY_SCRIPTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
