"""Histograms of sizes, shapes and token counts. Drawn at twice the size that a page shows them at."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from src.data.overview.style import BAD, BAR, INK, PAPER, RULE, SOFT
from src.drawing import font_for

SCALE = 2
_WIDTH, _MARGIN, _TITLE, _TEXT = 560 * SCALE, 20 * SCALE, 15 * SCALE, 12 * SCALE
_PLOT_HEIGHT, _ROW_HEIGHT = 170 * SCALE, 22 * SCALE
_TOP = _MARGIN + _TITLE + 22 * SCALE
_MAX_ROWS, _MAX_BINS = 14, 28
# Widest and narrowest shape that has a bin of its own, as powers of two, and bins from one to the next power.
_OCTAVES, _BINS_AN_OCTAVE = 2, 6
_RATIOS = {"1:4": 1 / 4, "1:2": 1 / 2, "2:3": 2 / 3, "1:1": 1.0, "3:2": 3 / 2, "2:1": 2.0, "4:1": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """A histogram.

    Attributes:
        counts: Of each bin.
        ticks: What stands under the axis: a label by its place, in bins from the left.
        line: Where a line is drawn, in bins from the left, and what it is called.
    """

    counts: list[int]
    ticks: dict[float, str]
    line: tuple[float, str] | None = None


def draw_sizes(title: str, counts: Mapping[tuple[int, int], int]) -> Image.Image:
    """A bar for each (width, height), the most frequent first."""
    ranked = Counter(counts).most_common()
    rows = [(f"{width} x {height}", count) for (width, height), count in ranked[:_MAX_ROWS]]
    if rest := ranked[_MAX_ROWS:]:
        rows.append((f"{len(rest)} other sizes", sum(count for _, count in rest)))
    chart = Image.new("RGB", (_WIDTH, _TOP + len(rows) * _ROW_HEIGHT + _MARGIN), PAPER)
    draw = _titled(chart, title)
    label_width = max(font_for(label, _TEXT).getlength(label) for label, _ in rows) + 10 * SCALE
    count_width = max(font_for(str(count), _TEXT).getlength(str(count)) for _, count in rows) + 8 * SCALE
    room = _WIDTH - 2 * _MARGIN - label_width - count_width
    most = max(count for _, count in rows)
    for row, (label, count) in enumerate(rows):
        middle = _TOP + row * _ROW_HEIGHT + _ROW_HEIGHT // 2
        left = _MARGIN + label_width
        right = left + max(SCALE, room * count / most)
        _write(draw, label, (left - 8 * SCALE, middle), anchor="rm", colour=INK)
        draw.rectangle((left, middle - 7 * SCALE, right, middle + 7 * SCALE), fill=BAR)
        _write(draw, str(count), (right + 6 * SCALE, middle), anchor="lm", colour=SOFT)
    return chart


def draw_histogram(title: str, bins: Bins) -> Image.Image:
    """A column a bin over an axis."""
    chart = Image.new("RGB", (_WIDTH, _TOP + _PLOT_HEIGHT + _TEXT + 14 * SCALE + _MARGIN), PAPER)
    draw = _titled(chart, title)
    left, bottom = _MARGIN, _TOP + _PLOT_HEIGHT
    step = (_WIDTH - 2 * _MARGIN) / len(bins.counts)
    most = max(1, *bins.counts)
    room = _PLOT_HEIGHT - 18 * SCALE
    for index, count in enumerate(bins.counts):
        if count:
            top = bottom - max(SCALE, room * count / most)
            start = left + index * step
            draw.rectangle((start + SCALE, top, start + step - SCALE, bottom), fill=BAR)
            if font_for(str(count), _TEXT).getlength(str(count)) <= step:
                _write(draw, str(count), (start + step / 2, top - 3 * SCALE), anchor="ms", colour=SOFT)
    draw.line((left, bottom, _WIDTH - _MARGIN, bottom), fill=RULE, width=SCALE)
    for place, label in bins.ticks.items():
        x = left + place * step
        draw.line((x, bottom, x, bottom + 4 * SCALE), fill=RULE, width=SCALE)
        _write(draw, label, (x, bottom + 7 * SCALE), anchor="mt", colour=INK)
    if bins.line is not None:
        place, label = bins.line
        x = left + place * step
        draw.line((x, _TOP - 4 * SCALE, x, bottom), fill=BAD, width=SCALE)
        anchor = "rs" if place > len(bins.counts) / 2 else "ls"
        shift = -4 * SCALE if anchor == "rs" else 4 * SCALE
        _write(draw, label, (x + shift, _TOP + 4 * SCALE), anchor=anchor, colour=BAD)
    return chart


def number_bins(
    values: Sequence[int], *, from_zero: bool = False, line: float | None = None, line_name: str = ""
) -> Bins:
    """Bins of one round width from the least value, or zero, to the greatest.

    Args:
        values: At least one.
        from_zero: Whether the axis begins at zero.
        line: Where a line is drawn; the axis reaches up to it in any case.
        line_name: What it is called.
    """
    assert values, "a histogram of nothing"
    others = [] if line is None else [int(line)]
    lowest, highest = 0 if from_zero else min([*values, *others]), max([*values, *others])
    width = _round_width((highest - lowest + 1) / _MAX_BINS)
    first = lowest // width
    counts = [0] * (highest // width - first + 1)
    for value in values:
        counts[value // width - first] += 1
    every = math.ceil(len(counts) / 8)
    ticks = {float(index): str((first + index) * width) for index in range(0, len(counts) + 1, every)}
    place = None if line is None else (line / width - first, line_name)
    return Bins(counts=counts, ticks=ticks, line=place)


def ratio_bins(sizes: Mapping[tuple[int, int], int]) -> Bins:
    """Bins of width divided by height, each a sixth of an octave; the last ones hold all beyond 1:4 and 4:1.

    A common shape, such as the square, lies in the middle of its bin.
    """
    num_steps = 2 * _OCTAVES * _BINS_AN_OCTAVE
    edges = [(step - num_steps / 2 - 0.5) / _BINS_AN_OCTAVE for step in range(1, num_steps + 1)]
    counts = [0] * (num_steps + 1)
    for (width, height), count in sizes.items():
        counts[bisect_right(edges, math.log2(width / height))] += count
    ticks = {(math.log2(ratio) + _OCTAVES) * _BINS_AN_OCTAVE + 0.5: label for label, ratio in _RATIOS.items()}
    return Bins(counts=counts, ticks=ticks)


def _round_width(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10


def _titled(chart: Image.Image, title: str) -> ImageDraw.ImageDraw:
    draw = ImageDraw.Draw(chart)
    draw.text((_MARGIN, _MARGIN), title, fill=INK, font=font_for(title, _TITLE))
    return draw


def _write(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], *, anchor: str, colour: str
) -> None:
    draw.text(at, text, fill=colour, font=font_for(text, _TEXT), anchor=anchor)
