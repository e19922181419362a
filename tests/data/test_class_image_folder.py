"""A folder of class images: captions as in other folders, or one prompt for all."""

import pytest

from src.data.readers.class_images import read_class_images
from src.errors import UserError
from tests.data.pictures import noise_image

PROMPT = "a photo of a {small} toy"


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        noise_image(ord(name[0])).save(tmp_path / name)
    return tmp_path


def captions(result):
    return {record.id: record.caption for record in result.records}


def test_without_captions_all_have_the_prompt(folder):
    result = read_class_images(path=folder, prompt=PROMPT)
    assert captions(result) == {"class:a.png": PROMPT, "class:b.png": PROMPT}
    assert not result.problems


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", "a.png|a red toy\nb.png|a blue toy\n"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a red toy"}\n{"file_name": "b.png", "text": "a blue toy"}\n',
        ),
    ],
)
def test_captions_of_the_folder_count_first(folder, name, text):
    (folder / name).write_text(text)
    result = read_class_images(path=folder, prompt=PROMPT)
    assert captions(result) == {"class:a.png": "a red toy", "class:b.png": "a blue toy"}


def test_captions_beside_the_images(folder):
    (folder / "a.txt").write_text("a red toy")
    (folder / "b.txt").write_text("a blue toy")
    assert set(captions(read_class_images(path=folder, prompt=PROMPT)).values()) == {
        "a red toy",
        "a blue toy",
    }


def test_problems_name_the_class_image(folder):
    (folder / "captions.txt").write_text("a.png|a red toy\n")
    (problem,) = read_class_images(path=folder, prompt=PROMPT).problems
    assert str(problem).startswith("class:b.png: has no caption")


@pytest.mark.parametrize("caption", ["a photo of sksToy toy", "a photo of sksToy, red"])
def test_the_placeholder_does_not_belong_there(folder, caption):
    (folder / "captions.txt").write_text(f"a.png|a red toy\nb.png|{caption}\n")
    warnings = read_class_images(path=folder, prompt=PROMPT, placeholder="sksToy").warnings
    assert any("1 captions contain the placeholder sksToy, first: class:b.png" in text for text in warnings)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.class_images\.path=.*none is not a folder"):
        read_class_images(path=tmp_path / "none", prompt=PROMPT)
