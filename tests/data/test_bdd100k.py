"""BDD100K: captions made of labels, and everything that can be wrong with them."""

import json

import pytest

from src.data.readers.bdd100k import caption_of, read_bdd100k
from src.errors import UserError
from tests.data.pictures import noise_image

SCENE = {"weather": "rainy", "scene": "city street", "timeofday": "night"}


def frame(name, attributes=SCENE, *categories):
    return {"name": name, "attributes": attributes, "labels": [{"category": c} for c in categories]}


def place(folder, *frames, labels="labels/det_20/det_train.json", images="images/100k/train"):
    (folder / labels).parent.mkdir(parents=True, exist_ok=True)
    (folder / labels).write_text(json.dumps(frames))
    (folder / images).mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(frames):
        noise_image(number).save(folder / images / one["name"])
    return folder


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        ("labels/det_20/det_train.json", "images/100k/train"),
        ("labels/bdd100k_labels_images_train.json", "images/100k/train"),
        ("bdd100k_labels_images_train.json", "train"),
    ],
)
def test_captions_from_labels(tmp_path, labels, images):
    place(tmp_path, frame("b.jpg", SCENE, "car", "car", "bus"), frame("a.jpg"), labels=labels, images=images)
    result = read_bdd100k(path=tmp_path, placeholder="sks")
    assert result.problems == []
    assert "BDD100K" in result.attribution
    assert {record.id: record.caption for record in result.records} == {
        "a.jpg": "sks a driving scene on a city street at night, rain",
        "b.jpg": "sks a driving scene on a city street at night, rain, two cars and a bus",
    }


@pytest.mark.parametrize(
    ("attributes", "categories", "caption"),
    [
        ({"weather": "undefined", "scene": "undefined", "timeofday": "undefined"}, [], "a driving scene"),
        ({"scene": "tunnel"}, ["lane"], "a driving scene in a tunnel"),
        ({"scene": "gas stations", "weather": "clear"}, [], "a driving scene at a gas station, clear sky"),
        (None, ["car"] * 9 + ["person"] * 3 + ["bike", "traffic light"],
         "a driving scene, several cars, three pedestrians and a bicycle"),
        (None, ["motor", "motorcycle"], "a driving scene, two motorcycles"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_not_spoken_of(attributes, categories, caption):
    assert caption_of(frame("a.jpg", attributes, *categories), objects=True) == caption
    assert caption_of(frame("a.jpg", attributes, *reversed(categories)), objects=True) == caption
    assert caption_of(frame("a.jpg", attributes, *categories), objects=False).count(",") <= 1


def test_fewer_samples_are_always_the_same(tmp_path):
    place(tmp_path, *(frame(f"{number}.jpg") for number in range(8)))
    three = {record.id for record in read_bdd100k(path=tmp_path, max_samples=3).records}
    assert len(three) == 3
    assert three < {record.id for record in read_bdd100k(path=tmp_path, max_samples=5).records}


def test_an_image_that_is_missing_can_be_skipped(tmp_path):
    place(tmp_path, frame("a.jpg"), frame("b.jpg"))
    (tmp_path / "images/100k/train/a.jpg").unlink()
    result = read_bdd100k(path=tmp_path)
    assert [record.id for record in result.records] == ["b.jpg"]
    assert "'train/a.jpg' does not exist" in str(result.problems[0])
    assert result.problems[0].is_skippable


def test_a_link_that_leads_out_is_never_read(tmp_path):
    folder = place(tmp_path / "bdd", frame("a.jpg"))
    image = folder / "images/100k/train/a.jpg"
    image.rename(tmp_path / "secret.jpg")
    image.symlink_to(tmp_path / "secret.jpg")
    assert "outside the folder" in str(read_bdd100k(path=folder).problems[0])


@pytest.mark.parametrize(
    "content",
    ["{", "3", '{"frames": 3}', "[3]", "[{}]", '[{"name": "../a.jpg"}]', '[{"name": "a.jpg", "labels": [1]}]',
     '[{"name": "a.jpg", "attributes": [1]}]', "[" * 100_000],
)  # fmt: skip
def test_labels_that_are_none(tmp_path, content):
    place(tmp_path, frame("a.jpg"))
    (tmp_path / "labels/det_20/det_train.json").write_text(content)
    with pytest.raises(UserError, match="not BDD100K's list of labels"):
        read_bdd100k(path=tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_bdd100k(path=tmp_path / "none")
    with pytest.raises(UserError, match=r"det_20/det_val\.json.*labels_file"):
        read_bdd100k(path=tmp_path, split="val")
    place(tmp_path)
    assert "lists no images" in str(read_bdd100k(path=tmp_path).problems[0])


def test_a_folder_in_the_place_of_the_labels(tmp_path):
    place(tmp_path, frame("a.jpg"))
    with pytest.raises(UserError, match=r"none of .*labels is a file\. Unpack it there, or set labels_file"):
        read_bdd100k(path=tmp_path, labels_file="labels")
