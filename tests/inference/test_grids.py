"""Grids that can be read, and PNG files that say how they were made."""

import json

import pytest
from PIL import Image

from src.inference.grids import a1111_text, comparison_grid, read_params, save_png

PARAMS = {
    "prompt": "a dog, ≥ 2 legs",
    "negative_prompt": "blurry",
    "num_steps": 20,
    "scheduler": "dpmpp_2m",
    "guidance_scale": 5.0,
    "noise_seed": 7,
    "width": 64,
    "height": 72,
    "adapter": "demo step 100",
    "adapter_scale": 0.5,
}


def _plain(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def _colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


def _box(image: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """Where a colour stands."""
    wanted = _plain(colour, (1, 1)).getpixel((0, 0))
    mask = Image.eval(image.convert("RGB").split()[0], lambda _: 0)
    mask.putdata([255 if pixel == wanted else 0 for pixel in image.getdata()])
    box = mask.getbbox()
    assert box is not None, f"no {colour} in the grid"
    return box


def test_base_stands_left_of_adapted_and_photos_below():
    grid = comparison_grid(
        prompts=["one", "two"],
        base=[[_plain("red")], [_plain("red")]],
        adapted=[[_plain("blue")], [_plain("blue")]],
        photos=[_plain("lime", (300, 200)), _plain("yellow"), _plain("cyan")],
    )
    base, adapted, photo, second = (_box(grid, colour) for colour in ("red", "blue", "lime", "yellow"))
    assert base[2] < adapted[0]
    assert base[1::2] == adapted[1::2], "rows are level"
    assert photo[1] > base[3]
    assert (photo[0], second[0]) == (base[0], adapted[0])
    cyan = _plain("cyan", (1, 1)).getpixel((0, 0))
    assert cyan not in _colours(grid), "only as many photos as there are columns"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (192, 192)), ((64, 32), (192, 96)), ((512, 512), (384, 384)), ((200, 200), (200, 200))],
)
def test_cells_are_legible(size, expected):
    grid = comparison_grid(prompts=["x"], adapted=[[_plain("blue", size)]])
    left, top, right, bottom = _box(grid, "blue")
    assert (right - left, bottom - top) == expected


def test_many_large_images_still_fit():
    row = [_plain("blue", (1024, 1024))] * 4
    grid = comparison_grid(prompts=["x"], base=[row], adapted=[row])
    assert grid.width <= 2400


def test_the_prompt_is_written_beside_its_row():
    grid = comparison_grid(prompts=["some prompt"], adapted=[[_plain("blue")]])
    label = grid.crop((0, 60, 240, grid.height))
    assert len(_colours(label)) > 2
    empty = comparison_grid(prompts=[""], adapted=[[_plain("blue")]])
    assert len(_colours(empty.crop((0, 60, 240, empty.height)))) == 1


def test_parameters_travel_with_the_file(tmp_path):
    save_png(_plain("red"), tmp_path / "a" / "image.png", PARAMS)
    assert read_params(tmp_path / "a" / "image.png") == PARAMS
    with Image.open(tmp_path / "a" / "image.png") as image:
        image.load()
        assert json.loads(image.text["darkroom"]) == PARAMS
        assert image.text["parameters"] == (
            "a dog, ≥ 2 legs\nNegative prompt: blurry\n"
            "Steps: 20, Sampler: dpmpp_2m, CFG scale: 5.0, Seed: 7, Adapter: demo step 100, "
            "Adapter scale: 0.5, Size: 64x72"
        )


def test_a_file_without_parameters(tmp_path):
    save_png(_plain("red"), tmp_path / "image.png")
    assert read_params(tmp_path / "image.png") is None


def test_a1111_leaves_out_what_is_not_there():
    assert a1111_text({"prompt": "a dog", "negative_prompt": "", "num_steps": 1}) == "a dog\nSteps: 1"
