"""Contact sheets, sheets of duplicates and charts. What they look like was looked at; here, what they say."""

import numpy as np
import pytest
from PIL import Image

from src.data.overview.charts import (
    SCALE,
    Bins,
    draw_histogram,
    draw_sizes,
    number_bins,
    ratio_bins,
)
from src.data.overview.contact_sheet import COLUMNS, ROWS, choose_shown, draw_pages, num_pages
from src.data.overview.duplicate_sheet import MAX_GROUPS, MAX_IMAGES, draw_duplicates
from src.data.overview.findings import HELD_OUT, TRAIN, DuplicateGroup
from src.data.overview.style import BAD, SIDE_COLOURS, shorten, thumbnail
from src.drawing import font_for
from tests.data.overview.places import WHITE, finding, findings
from tests.data.pictures import orientation_exif, quarters, truncate


def colours(image):
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in image.getcolors(1 << 24)}


def sheet(images):
    found = findings(images)
    return list(draw_pages(found, images, background=WHITE))


def test_marks_say_the_side(tmp_path):
    images = [finding(tmp_path, "a.png", side=TRAIN), finding(tmp_path, "b.png", side=HELD_OUT)]
    (page,) = sheet(images)
    assert {SIDE_COLOURS[TRAIN], SIDE_COLOURS[HELD_OUT]} <= colours(page)
    assert BAD not in colours(page)
    (page,) = sheet(images[:1])
    assert SIDE_COLOURS[HELD_OUT] not in colours(page)


def test_an_image_that_cannot_be_shown(tmp_path):
    images = [finding(tmp_path, "a.png", problems=["is cut off"], side=None)]
    truncate(images[0].path)
    (page,) = sheet(images)
    assert BAD in colours(page)


def test_pages_hold_so_many_images(tmp_path):
    images = [finding(tmp_path, "same.png") for _ in range(COLUMNS * ROWS + 1)]
    pages = sheet(images)
    assert len(pages) == num_pages(len(images)) == 2
    assert pages[1].height < pages[0].height / 4
    assert pages[0].width == pages[1].width
    assert num_pages(0) == 0
    assert sheet([]) == []


@pytest.mark.parametrize(
    "caption",
    ["", "x" * 10_000, "word " * 2000, "фото 写真 صورة 🦊", "a\u0000b\u001b[31m\u202e", "<b>&amp;", "\ud800"],
)
def test_any_caption_can_be_drawn(tmp_path, caption):
    (page,) = sheet([finding(tmp_path, "a.png", captions=[caption], problems=[caption])])
    assert page.height < 600


@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (1, 1)])
def test_extreme_shapes_can_be_drawn(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    picture = thumbnail(tmp_path / "a.png", (200, 150), background=WHITE)
    assert picture is not None
    assert picture.width <= 200
    assert picture.height <= 150
    sheet([finding(tmp_path, "a.png")])


def test_thumbnails_are_upright(tmp_path):
    quarters((64, 32)).save(tmp_path / "a.png", exif=orientation_exif(6))
    picture = thumbnail(tmp_path / "a.png", (100, 100), background=WHITE)
    assert picture is not None
    assert picture.height > picture.width
    assert picture.getpixel((picture.width - 3, 3)) == (255, 0, 0)


def test_which_images_are_shown(tmp_path):
    images = [finding(tmp_path, f"{number:03d}.png") for number in range(40)]
    images[17] = finding(tmp_path, "017.png", problems=["x"])
    shown = choose_shown(images, 10)
    assert len(shown) == 10
    assert images[17] in shown
    assert shown == sorted(shown, key=lambda image: image.name)
    # Neither the first ones nor others when some are added.
    assert [image.name for image in shown] != [f"{number:03d}.png" for number in range(10)]
    assert set(map(id, choose_shown(images, 9))) < set(map(id, shown))
    assert choose_shown(images, 100) == images


def test_long_names_keep_their_end():
    name = shorten("a folder with a long name/" * 5 + "IMG_0013.HEIC", 120, 14)
    assert name.endswith("IMG_0013.HEIC")
    assert font_for(name, 14).getlength(name) <= 120
    assert shorten("a.png", 120, 14) == "a.png"


def test_duplicates_side_by_side(tmp_path):
    images = [finding(tmp_path, f"{number}.png") for number in range(MAX_IMAGES + 3)]
    small = draw_duplicates([DuplicateGroup(is_exact=True, images=images[:2])], background=WHITE)
    wide = draw_duplicates([DuplicateGroup(is_exact=False, images=images)], background=WHITE)
    assert wide.width > small.width
    assert wide.height == small.height
    groups = [DuplicateGroup(is_exact=True, images=images[:2])] * (MAX_GROUPS + 5)
    many = draw_duplicates(groups, background=WHITE)
    assert many.height == draw_duplicates(groups[:MAX_GROUPS], background=WHITE).height


def test_bins_of_numbers():
    bins = number_bins([0, 5, 76, 77, 78], from_zero=True, line=78, line_name="limit 77")
    assert sum(bins.counts) == 5
    assert bins.line is not None
    width = 78 / bins.line[0]
    edges = [index * width for index in range(len(bins.counts))]
    below = sum(count for edge, count in zip(edges, bins.counts, strict=True) if edge + width <= 78)
    assert below >= 2
    assert bins.ticks[0.0] == "0"


@pytest.mark.parametrize("values", [[0], [7], [1, 10_000_000], list(range(100)), [64, 65]])
def test_no_number_is_lost_and_bins_are_few(values):
    bins = number_bins(values)
    assert sum(bins.counts) == len(values)
    assert len(bins.counts) <= 31
    draw_histogram("x", bins)


def test_bins_of_shapes():
    sizes = {(100, 100): 3, (1500, 1000): 2, (1000, 1500): 1, (9000, 10): 4, (10, 9000): 5}
    bins = ratio_bins(sizes)
    assert sum(bins.counts) == 15
    assert (bins.counts[0], bins.counts[-1]) == (5, 4)
    middle = len(bins.counts) // 2
    assert bins.counts[middle] == 3
    (square,) = [place for place, label in bins.ticks.items() if label == "1:1"]
    assert square == middle + 0.5


def test_a_bar_is_as_long_as_its_number():
    chart = np.asarray(draw_sizes("x", {(64, 64): 100, (32, 64): 50}))
    lengths = (chart == np.array([0x5B, 0x7A, 0xA8])).all(axis=2).sum(axis=1)
    lengths = lengths[lengths > 0]
    assert lengths.min() == pytest.approx(lengths.max() / 2, rel=0.02)


def test_many_sizes_are_added_up():
    few = draw_sizes("x", {(number, 64): 1 for number in range(1, 15)})
    many = draw_sizes("x", {(number, 64): 1 for number in range(1, 500)})
    assert many.height - few.height <= 22 * SCALE


def test_a_line_is_drawn_where_it_belongs():
    chart = np.asarray(draw_histogram("x", Bins(counts=[0] * 10, ticks={}, line=(5.0, ""))))
    red = np.flatnonzero((chart == np.array([0xC2, 0x30, 0x1C])).all(axis=2).any(axis=0))
    assert red.mean() == pytest.approx(chart.shape[1] / 2, abs=2)
