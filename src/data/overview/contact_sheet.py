"""Contact sheets: every image upright and small, with its caption, its side of the split and its problems."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from src.data.images import Colour
from src.data.overview.findings import Findings, ImageFinding
from src.data.overview.style import (
    BAD,
    EMPTY,
    INK,
    MARK,
    PAPER,
    SIDE_COLOURS,
    SOFT,
    draw_lines,
    draw_picture,
    line_height,
    shorten,
    thumbnail,
)
from src.randomness import address_seed

COLUMNS, ROWS = 6, 8
_PER_PAGE = COLUMNS * ROWS
_THUMBNAIL = (232, 184)
_GAP, _MARGIN, _PADDING = 18, 28, 6
_NAME, _META, _CAPTION, _TITLE = 14, 12, 13, 22
_CAPTION_LINES = 4
_TEXT_HEIGHT = line_height(_NAME) + line_height(_META) + _CAPTION_LINES * line_height(_CAPTION) + 4
_CELL = (_THUMBNAIL[0], MARK + _THUMBNAIL[1] + _PADDING + _TEXT_HEIGHT)
_HEADER = 76
_NUM_THREADS = 4


def choose_shown(images: Sequence[ImageFinding], max_images: int) -> list[ImageFinding]:
    """At most so many images, in their order: those with problems first, of the others always the same."""
    ranked = sorted(
        images, key=lambda image: (not image.problems, address_seed("sheet", image.name), image.name)
    )
    chosen = {image.path for image in ranked[:max_images]}
    return [image for image in images if image.path in chosen]


def num_pages(num_images: int) -> int:
    """Pages for so many images."""
    return -(-num_images // _PER_PAGE)


def draw_pages(
    findings: Findings, shown: Sequence[ImageFinding], *, background: Colour
) -> Iterator[Image.Image]:
    """One page after the other.

    Args:
        findings: For title and legend.
        shown: The images, in order.
        background: What shows through transparent pixels.
    """
    total = num_pages(len(shown))
    load = partial(_load, background=background)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number in range(total):
            images = shown[number * _PER_PAGE : (number + 1) * _PER_PAGE]
            pictures = list(pool.map(load, [image.path for image in images]))
            yield _draw_page(findings, images, pictures, title=f"page {number + 1} of {total}")


def _load(path: Path, *, background: Colour) -> Image.Image | None:
    return thumbnail(path, _THUMBNAIL, background=background)


def _draw_page(
    findings: Findings,
    images: Sequence[ImageFinding],
    pictures: Sequence[Image.Image | None],
    *,
    title: str,
) -> Image.Image:
    num_rows = -(-len(images) // COLUMNS)
    width = 2 * _MARGIN + COLUMNS * (_CELL[0] + _GAP) - _GAP
    height = _HEADER + _MARGIN + num_rows * (_CELL[1] + _GAP)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    _draw_header(draw, findings, title, width=width)
    for index, (image, picture) in enumerate(zip(images, pictures, strict=True)):
        row, column = divmod(index, COLUMNS)
        left, top = _MARGIN + column * (_CELL[0] + _GAP), _HEADER + row * (_CELL[1] + _GAP)
        _draw_cell(page, draw, image, picture, at=(left, top))
    return page


def _draw_header(draw: ImageDraw.ImageDraw, findings: Findings, title: str, *, width: int) -> None:
    text = f"{findings.title}, {title}"
    draw_lines(draw, text, at=(_MARGIN, 14), width=width, size=_TITLE, colour=INK, max_lines=1)
    left = _MARGIN
    names = {side: findings.num_of_side(side) for side in SIDE_COLOURS}
    marks = [(f"{side} ({number})", SIDE_COLOURS[side]) for side, number in names.items() if number]
    if with_problems := sum(bool(image.problems) for image in findings.images):
        marks.append((f"problem ({with_problems})", BAD))
    for label, colour in marks:
        draw.rectangle((left, 50, left + 22, 50 + MARK - 1), fill=colour)
        draw_lines(draw, label, at=(left + 30, 45), width=300, size=_NAME, colour=SOFT, max_lines=1)
        left += 30 + 9 * len(label) + 24


def _draw_cell(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: ImageFinding,
    picture: Image.Image | None,
    *,
    at: tuple[int, int],
) -> None:
    left = at[0]
    width = _THUMBNAIL[0]
    colour = BAD if image.problems else SIDE_COLOURS.get(image.side or "", EMPTY)
    bottom = draw_picture(page, picture, at=at, box=_THUMBNAIL, mark=colour, is_bad=bool(image.problems))
    top = bottom + _PADDING
    name = shorten(image.name, width, _NAME)
    top = draw_lines(draw, name, at=(left, top), width=width, size=_NAME, colour=INK, max_lines=1)
    meta_colour = BAD if image.is_cut else SOFT
    top = (
        draw_lines(
            draw, _meta(image), at=(left, top), width=width, size=_META, colour=meta_colour, max_lines=1
        )
        + 2
    )
    lines = _CAPTION_LINES
    if image.problems:
        lines -= 1
        text = "; ".join(image.problems)
        top = draw_lines(draw, text, at=(left, top), width=width, size=_META, colour=BAD, max_lines=lines)
        lines = 1
    draw_lines(draw, _caption(image), at=(left, top), width=width, size=_CAPTION, colour=INK, max_lines=lines)


def _meta(image: ImageFinding) -> str:
    parts = [] if image.size is None else [f"{image.size[0]} x {image.size[1]}"]
    if image.num_tokens is not None:
        parts.append(f"{image.num_tokens} tokens")
    return ", ".join(parts)


def _caption(image: ImageFinding) -> str:
    more = f" (+ {len(image.captions) - 1} more)" if len(image.captions) > 1 else ""
    return image.captions[0] + more if image.captions else ""
