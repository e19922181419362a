"""Datasets and settings that cannot be used: one line that says what, where and how to fix it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.bad_input.place import LORA, Place, assert_refused
from tests.data.pictures import noise_image, photo_folder, truncate

# Datasets: (what is done to six sound photos, lines of the message, what it says)


def _remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_text(folder: Path) -> None:
    for photo in folder.glob("*.png"):
        photo.unlink()


def _photo_missing(folder: Path) -> None:
    (folder / "IMG_0001.png").unlink()


def _caption_missing(folder: Path) -> None:
    lines = (folder / "captions.txt").read_text().splitlines(keepends=True)
    (folder / "captions.txt").write_text("".join(lines[1:]))


def _unreadable(folder: Path) -> None:
    (folder / "IMG_0001.png").write_bytes(b"this is no image")


def _truncated(folder: Path) -> None:
    truncate(folder / "IMG_0001.png")


def _truncated_heic(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    noise_image(9, (64, 64)).save(folder / "IMG_0009.HEIC")
    truncate(folder / "IMG_0009.HEIC", 0.7)


def _no_separator(folder: Path) -> None:
    captions = folder / "captions.txt"
    captions.write_text(captions.read_text() + "IMG_0001.png a photo of sksToy\n")


def _one_photo(folder: Path) -> None:
    _empty(folder)
    photo_folder(folder, 1)


def _the_same_photo_twice(folder: Path) -> None:
    _one_photo(folder)
    shutil.copy(folder / "IMG_0000.png", folder / "IMG_0001.png")
    (folder / "captions.txt").unlink()


def _several(folder: Path) -> None:
    _photo_missing(folder)
    _no_separator(folder)
    truncate(folder / "IMG_0003.png")


@pytest.mark.parametrize(
    ("spoil", "num_lines", "parts"),
    [
        (_remove_all, 1, ["photos does not exist", "set dataset.path or dataset.url"]),
        (_empty, 1, ["photos is empty", "Put the images there"]),
        (_only_text, 1, ["photos holds no images", ".heic", "dataset.path"]),
        (_photo_missing, 2, ["1 problem", "captions.txt:2", "'IMG_0001.png' does not exist", "Restore it"]),
        (_caption_missing, 2, ["IMG_0000.png: has no caption", "Add the line IMG_0000.png|"]),
        (_unreadable, 2, ["IMG_0001.png: cannot be read as an image", "Replace or remove"]),
        (_truncated, 2, ["IMG_0001.png: cannot be read as an image", "truncated", "Replace or remove"]),
        (_truncated_heic, 2, ["IMG_0009.HEIC: cannot be read as an image", "Replace or remove"]),
        (_no_separator, 2, ["captions.txt:7", "is not filename|caption", "Put a |"]),
        (_one_photo, 2, ["1 different image;", "at least 2", "Add images"]),
        (_the_same_photo_twice, 2, ["1 different image;", "at least 2"]),
        (_several, 4, ["3 problems", "captions.txt:2", "captions.txt:7", "IMG_0003.png"]),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_dataset_with_faults(place: Place, spoil: Callable[[Path], None], num_lines, parts) -> None:
    spoil(place.photos)
    done = place.run("train")
    assert_refused(done, str(place.photos), *parts, num_lines=num_lines)
    assert place.files() == {}


def test_an_optimizer_that_cannot_be_made(place: Place) -> None:
    done = place.run("train", "optimizer.algorithm.weight_decay=-1")
    assert_refused(done, "optimizer.algorithm (torch.optim.AdamW)", "weight_decay")
    assert place.files() == {}


def test_data_alone_is_checked_just_the_same(place: Place) -> None:
    _several(place.photos)
    assert_refused(place.run("train", "command=prepare"), "3 problems", num_lines=4)
    assert place.files() == {}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_stps=3", ["trainer.max_stps", "trainer.max_steps", "conf/trainer/default.yaml"]),
        ("trainer.batch_size=many", ["trainer.batch_size=many", "Integer"]),
        ("adapter.rank=0", ["adapter.rank=0 must be at least 1"]),
        ("dataset.resolution=100", ["dataset.resolution=100", "multiple of 8", "96 and 104"]),
        ("dataset.resolution=[96,100]", ["dataset.resolution=[96, 100]", "multiple of 8", "96 and 104"]),
    ],
)
def test_a_wrong_setting(place: Place, override, parts) -> None:
    assert_refused(place.run("train", override), *parts)
    assert not place.out.exists()


def test_a_wrong_setting_of_a_sweep(place: Place) -> None:
    assert_refused(place.run("train", "-m", "trainer.seed=1,2", "adapter.rank=0"), "adapter.rank=0")
    assert not place.out.exists()


def test_what_is_skipped_leaves_no_trace_in_the_others(place: Place, tmp_path: Path) -> None:
    """A run that skips a damaged photo trains the same weights as one that never had it."""
    shutil.copytree(place.photos, tmp_path / "whole")
    truncate(place.photos / "IMG_0001.png")
    done = place.run("train", "dataset.on_problem=skip", "run.name=skipping")
    assert done.code == 0
    assert "1 problem" in done.out
    assert "IMG_0001.png: cannot be read as an image" in done.out
    run = place.out / "train" / "skipping"
    (entry,) = json.loads((run / "skipped.json").read_text())
    assert entry["file"] == "IMG_0001.png"
    assert "cannot be read" in entry["reason"]
    lineage = json.loads((run / "lineage.json").read_text())
    assert lineage["skipped"] == [entry]
    assert "IMG_0001.png" not in [*lineage["images"], *lineage["split"]["train"]]

    _photo_missing(tmp_path / "whole")
    captions = tmp_path / "whole" / "captions.txt"
    lines = captions.read_text().splitlines(keepends=True)
    captions.write_text("".join(lines[:1] + lines[2:]))
    assert place.run("train", f"dataset.path={tmp_path / 'whole'}", "run.name=without").code == 0
    without = place.out / "train" / "without"
    assert not (without / "skipped.json").exists()
    assert load_file(run / "adapter" / LORA).keys() == load_file(without / "adapter" / LORA).keys()
    for name, weight in load_file(run / "adapter" / LORA).items():
        assert weight.equal(load_file(without / "adapter" / LORA)[name]), name


def test_what_cannot_be_skipped(place: Place) -> None:
    (place.photos / "captions.txt").write_bytes("IMG_0000.png|café".encode("latin-1"))
    truncate(place.photos / "IMG_0001.png")
    done = place.run("train", "dataset.on_problem=skip")
    assert_refused(done, "1 problem", "skip cannot leave out", "captions.txt:1", "UTF-8", num_lines=2)
    assert place.files() == {}


def test_inspecting_lists_problems_and_refuses_nothing(place: Place) -> None:
    _several(place.photos)
    done = place.run("train", "-cn", "inspect")
    assert done.code == 1
    assert done.err == ""
    for part in ("captions.txt:2", "captions.txt:7", "IMG_0003.png: cannot be read as an image"):
        assert f"error: {part}" in done.out
    assert done.out.splitlines()[-1] == "Problems: 3"
    assert (place.out / "inspect" / "mine" / "inspect.html").is_file()
    assert not (place.folder / "data" / "splits").exists()
