"""Names of generated images, and images read back only if they are the planned ones."""

import pytest
from PIL import Image

from src.inference.generate import GeneratedImage, plan_images
from src.inference.outputs import by_prompt, image_names, load_images, prompt_slugs, save_images

PLAN = {"num_images": 2, "seed": 0, "width": 8, "height": 8, "guidance_scale": 5.0, "negative_prompt": "é"}


@pytest.fixture
def images():
    planned = plan_images(prompts=["a dog", "a cup"], **PLAN)
    return [
        GeneratedImage(image=Image.new("RGB", (8, 8), (index, 0, 0)), params=params)
        for index, params in enumerate(planned)
    ]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["A photo, of sksToy!"], ["a_photo_of_skstoy"]),
        (["a/b", "a b", "A-B"], ["a_b", "a_b_2", "a_b_3"]),
        (["", "!!"], ["empty", "empty_2"]),
        (["кот на столе"], ["кот_на_столе"]),
        (["x" * 99, "x" * 98], ["x" * 48, "x" * 48 + "_2"]),
        (["../../etc/passwd"], ["etc_passwd"]),
    ],
)
def test_slugs(prompts, expected):
    assert list(prompt_slugs(prompts).values()) == expected


def test_numbers_only_where_there_are_several():
    planned = plan_images(prompts=["a dog", "a cup"], **{**PLAN, "num_images": 1})
    assert image_names(planned) == ["a_dog", "a_cup"]
    assert image_names(plan_images(prompts=["a dog"], **PLAN)) == ["a_dog_0", "a_dog_1"]


def test_rows(images):
    rows = by_prompt(images, 2)
    assert [[picture.getpixel((0, 0))[0] for picture in row] for row in rows] == [[0, 1], [2, 3]]
    assert by_prompt([], 2) == []


def test_images_come_back(images, tmp_path):
    paths = save_images(images, tmp_path / "base", {"model_hash": "abc"})
    assert list(paths) == ["a_dog_0", "a_dog_1", "a_cup_0", "a_cup_1"]
    again = load_images([image.params for image in images], tmp_path / "base")
    assert [image.image.tobytes() for image in again] == [image.image.tobytes() for image in images]


@pytest.mark.parametrize(
    "change", [{"guidance_scale": 6.0}, {"seed": 1}, {"negative_prompt": ""}, {"width": 16}]
)
def test_images_made_in_another_way_do_not(images, tmp_path, change):
    save_images(images, tmp_path)
    assert load_images(plan_images(prompts=["a dog", "a cup"], **{**PLAN, **change}), tmp_path) is None


def test_a_missing_image(images, tmp_path):
    save_images(images, tmp_path)["a_cup_1"].unlink()
    assert load_images([image.params for image in images], tmp_path) is None
