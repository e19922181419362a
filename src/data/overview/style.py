"""What the pictures of an inspection have in common: colours, and images made small."""

from pathlib import Path

from PIL import Image, ImageDraw

from src.data.images import Colour, load_image
from src.data.overview.findings import HELD_OUT, LEFT_OUT, TRAIN
from src.drawing import font_for, wrap
from src.errors import UserError

PAPER, INK, SOFT, RULE, EMPTY = "#ffffff", "#1c1c1e", "#6b6b70", "#dcdce0", "#f1f1f4"
BAR, BAD = "#5b7aa8", "#c2301c"
# Height of the mark over a picture.
MARK = 7
# Told apart also by those who see no red or green.
SIDE_COLOURS = {TRAIN: "#2f6db3", HELD_OUT: "#e08a00", LEFT_OUT: "#8c8c94"}


def thumbnail(path: Path, box: tuple[int, int], *, background: Colour) -> Image.Image | None:
    """An upright image that fits into (width, height); None if it cannot be decoded.

    A very long one stays at least a pixel wide.
    """
    try:
        image = load_image(path, background=background)
    except UserError:
        return None
    scale = min(box[0] / image.width, box[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def draw_lines(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    at: tuple[int, int],
    width: int,
    size: int,
    colour: str,
    max_lines: int,
) -> int:
    """Writes a text in at most so many lines and returns the upper edge of what comes below.

    Args:
        draw: Where.
        text: It is cut where it does not fit.
        at: (left, top).
        width: Of the lines, in pixels.
        size: Of the letters, in pixels.
        colour: Of the letters.
        max_lines: Further ones are left away, with an ellipsis.
    """
    # Nobody reads more under a small picture, and long words are measured letter by letter.
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:1000])
    font = font_for(shown, size)
    left, top = at
    for line in wrap(shown, font, width, max_lines=max_lines):
        draw.text((left, top), line, fill=colour, font=font)
        top += line_height(size)
    return top


def draw_picture(
    page: Image.Image,
    picture: Image.Image | None,
    *,
    at: tuple[int, int],
    box: tuple[int, int],
    mark: str,
    is_bad: bool = False,
) -> int:
    """Puts a picture under a coloured mark; a cross stands where it cannot be shown.

    Args:
        page: Where.
        picture: Small enough for the box.
        at: (left, top) of the mark.
        box: (width, height) of the field under the mark.
        mark: The mark's colour.
        is_bad: Whether there is a frame around it all.

    Returns:
        The upper edge of what comes below.
    """
    draw = ImageDraw.Draw(page)
    (left, top), (width, height) = at, box
    right, bottom = left + width - 1, top + MARK + height - 1
    draw.rectangle((left, top, right, top + MARK - 1), fill=mark)
    draw.rectangle((left, top + MARK, right, bottom), fill=EMPTY)
    if picture is None:
        draw.line((left, top + MARK, right, bottom), fill=BAD, width=2)
        draw.line((left, bottom, right, top + MARK), fill=BAD, width=2)
    else:
        corner = left + (width - picture.width) // 2, top + MARK + (height - picture.height) // 2
        page.paste(picture, corner)
    if is_bad:
        draw.rectangle((left, top, right, bottom), outline=BAD, width=3)
    return bottom + 1


def shorten(name: str, width: int, size: int) -> str:
    """A path that fits into so many pixels; its end, the file's own name, is kept."""
    font = font_for(name, size)
    if font.getlength(name) <= width:
        return name
    kept = name[-width:]  # no letter is narrower than a pixel
    while kept and font.getlength("…" + kept) > width:
        kept = kept[1:]
    return "…" + kept


def line_height(size: int) -> int:
    """Pixels from line to line."""
    return round(size * 1.3)
