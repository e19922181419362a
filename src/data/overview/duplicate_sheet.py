"""Groups of duplicates side by side, for the eye to judge."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image, ImageDraw

from src.data.images import Colour
from src.data.overview.findings import DuplicateGroup, ImageFinding
from src.data.overview.style import (
    EMPTY,
    INK,
    MARK,
    PAPER,
    SIDE_COLOURS,
    SOFT,
    draw_lines,
    draw_picture,
    shorten,
    thumbnail,
)

# Groups and images of a group that are drawn; inspect.json names all.
MAX_GROUPS, MAX_IMAGES = 30, 8
_THUMBNAIL = (160, 128)
_LABEL, _GAP, _MARGIN, _TEXT = 150, 14, 28, 46
_ROW = MARK + _THUMBNAIL[1] + _TEXT + _GAP


def draw_duplicates(groups: Sequence[DuplicateGroup], *, background: Colour) -> Image.Image:
    """A row a group: what it is, and its images with names and marks of their sides.

    Args:
        groups: At least one.
        background: What shows through transparent pixels.
    """
    shown = groups[:MAX_GROUPS]
    num_columns = min(MAX_IMAGES, max(len(group.images) for group in shown))
    width = 2 * _MARGIN + _LABEL + num_columns * (_THUMBNAIL[0] + _GAP)
    sheet = Image.new("RGB", (width, 2 * _MARGIN + len(shown) * _ROW), PAPER)
    draw = ImageDraw.Draw(sheet)
    load = partial(thumbnail, box=_THUMBNAIL, background=background)
    with ThreadPoolExecutor(4) as pool:
        for row, group in enumerate(shown):
            top = _MARGIN + row * _ROW
            images = group.images[:MAX_IMAGES]
            pictures = list(pool.map(load, [image.path for image in images]))
            _draw_label(draw, group, top=top)
            for column, (image, picture) in enumerate(zip(images, pictures, strict=True)):
                left = _MARGIN + _LABEL + column * (_THUMBNAIL[0] + _GAP)
                _draw_image(sheet, draw, image, picture, at=(left, top))
    return sheet


def _draw_label(draw: ImageDraw.ImageDraw, group: DuplicateGroup, *, top: int) -> None:
    kind = "exact copies" if group.is_exact else "near duplicates"
    hidden = len(group.images) - MAX_IMAGES
    more = f" ({hidden} not shown)" if hidden > 0 else ""
    top = draw_lines(draw, kind, at=(_MARGIN, top), width=_LABEL - 12, size=15, colour=INK, max_lines=1)
    text = f"{len(group.images)} images{more}"
    draw_lines(draw, text, at=(_MARGIN, top), width=_LABEL - 12, size=13, colour=SOFT, max_lines=2)


def _draw_image(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: ImageFinding,
    picture: Image.Image | None,
    *,
    at: tuple[int, int],
) -> None:
    left, width = at[0], _THUMBNAIL[0]
    mark = SIDE_COLOURS.get(image.side or "", EMPTY)
    bottom = draw_picture(sheet, picture, at=at, box=_THUMBNAIL, mark=mark)
    size = "" if image.size is None else f"{image.size[0]} x {image.size[1]}"
    text = shorten(image.name, width, 13)
    top = draw_lines(draw, text, at=(left, bottom + 5), width=width, size=13, colour=INK, max_lines=1)
    draw_lines(draw, size, at=(left, top), width=width, size=12, colour=SOFT, max_lines=1)
