"""Datasets of Hugging Face in every local form, written once and read as an image folder."""

import io
import json
import shutil
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from src.config.build import PROJECT_ROOT, check_config, register
from src.data.data_manager import DataManager
from src.data.preflight import check_dataset
from src.data.readers.imagefolder import read_imagefolder
from src.data.sources.huggingface import HuggingfaceSource
from src.errors import UserError
from tests.data.pictures import noise_image, photo_folder
from tests.data.test_subject import captions, metadata

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


def encoded(number, kind="PNG") -> bytes:
    file = io.BytesIO()
    noise_image(number).save(file, kind)
    return file.getvalue()


def rows(**columns):
    images = [
        {"bytes": encoded(n, kind), "path": None} for n, kind in enumerate(("PNG", "JPEG", "WEBP", "HEIF"))
    ]
    table = datasets.Dataset.from_dict({"image": images, **columns})
    return table.cast_column("image", datasets.Image())


@pytest.fixture
def parquet(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows(text=["zero", "one,\n two", "два", "three"], label=[3, 2, 1, 0]).to_parquet(folder / "train.parquet")
    return folder


def bring(path, **options):
    manager = DataManager(path=path, dvc_target=None, source=HuggingfaceSource(**options), progress=False)
    manager.ensure()
    return path


def test_images_are_written_as_they_are_stored(parquet, tmp_path):
    folder = bring(tmp_path / "out", id=str(parquet))
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))
    assert names == [
        "images/00000000.png",
        "images/00000001.jpg",
        "images/00000002.webp",
        "images/00000003.heic",
        "metadata.jsonl",
    ]
    assert (folder / "images/00000001.jpg").read_bytes() == encoded(1, "JPEG")
    result = read_imagefolder(path=folder)
    assert list(captions(result).values()) == ["zero", "one, two", "два", "three"]
    assert check_dataset(result, resolution=(32, 32)).warnings == []


def test_a_second_start_needs_no_package(parquet, tmp_path, monkeypatch):
    folder = bring(tmp_path / "out", id=str(parquet))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    monkeypatch.setitem(sys.modules, "datasets", None)
    bring(folder, id=str(parquet))
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_a_later_start_needs_no_folder(parquet, tmp_path):
    folder = bring(tmp_path / "out", id=str(parquet))
    shutil.rmtree(parquet)
    bring(folder, id=str(parquet))
    with pytest.raises(UserError, match="there is no such folder"):
        bring(tmp_path / "other", id=str(parquet))


@pytest.mark.parametrize("id", ["~nosuchuser/x", "/nowhere/x", "a/b/c", "./x", "a\0b", "x" * 5000 + "/a/b"])
def test_an_id_that_is_neither_is_one_line(tmp_path, id):
    with pytest.raises(UserError, match=r"dataset\.source\.id=.*there is no such folder") as caught:
        bring(tmp_path / "out", id=id)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_settings_never_reuse_a_folder(parquet, tmp_path):
    folder = bring(tmp_path / "out", id=str(parquet))
    with pytest.raises(UserError, match=r"holds a Hugging Face dataset .*set another dataset\.path"):
        bring(folder, id=str(parquet), split="train[:2]")


def test_without_the_package(parquet, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="DARKROOM_EXTRAS=1"):
        bring(tmp_path / "out", id=str(parquet))
    assert not (tmp_path / "out").exists()


def test_splits_and_columns(parquet, tmp_path):
    folder = bring(tmp_path / "out", id=str(parquet), split="train[1:3]", caption_column="text")
    assert list(captions(read_imagefolder(path=folder)).values()) == ["one, two", "два"]


def test_saved_to_disk(tmp_path):
    table = rows(label=[0, 1, 1, 0]).cast_column("label", datasets.ClassLabel(names=["red_cat", "dog"]))
    table.save_to_disk(tmp_path / "one")
    folder = bring(tmp_path / "out", id=str(tmp_path / "one"), caption_column="label")
    assert list(captions(read_imagefolder(path=folder)).values()) == ["red cat", "dog", "dog", "red cat"]
    datasets.DatasetDict({"test": rows(captions=[["a", "b"]] * 4)}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"has no split train\. It has: test"):
        bring(tmp_path / "out2", id=str(tmp_path / "two"))
    folder = bring(tmp_path / "out2", id=str(tmp_path / "two"), split="test")
    assert set(captions(read_imagefolder(path=folder)).values()) == {"a"}


def test_an_image_folder_names_files_of_its_own(tmp_path):
    folder = photo_folder(tmp_path / "set", 2, captions=False)
    metadata(folder, {"file_name": "IMG_0000.png", "text": "a"}, {"file_name": "IMG_0001.png", "text": "b"})
    out = bring(tmp_path / "out", id=str(folder))
    assert (out / "images/00000000.png").read_bytes() == (folder / "IMG_0000.png").read_bytes()


def test_rows_cannot_name_files_elsewhere(tmp_path):
    """A dataset of a stranger's would otherwise copy any picture of this machine's into the set."""
    noise_image(1).save(tmp_path / "secret.png")
    images = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": encoded(1), "path": None}]
    table = datasets.Dataset.from_dict({"image": images, "text": ["a", "b"]})
    table = table.cast_column("image", datasets.Image(decode=False))
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set/train.parquet", storage_options=None)
    with pytest.raises(UserError, match=r"row 0: names the file .*secret\.png', which is no part"):
        bring(tmp_path / "out", id=str(tmp_path / "set"))
    assert not (tmp_path / "out").exists()


def test_unusable_rows_are_left_out_and_named(tmp_path, caplog):
    images = [{"bytes": encoded(n), "path": None} for n in range(60)]
    images[7] = {"bytes": b"no image", "path": None}
    texts = [f"caption {n}" for n in range(60)]
    texts[9] = "  "
    table = datasets.Dataset.from_dict({"image": images, "text": texts})
    table = table.cast_column("image", datasets.Image(decode=False))
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set/train.parquet")
    folder = bring(tmp_path / "out", id=str(tmp_path / "set"))
    assert len(read_imagefolder(path=folder).records) == 58
    assert "2 rows are unusable and were left out. row 7:" in caplog.text
    assert "row 9: the caption is empty" in caplog.text


def test_images_without_captions(tmp_path):
    (tmp_path / "set").mkdir()
    rows().to_parquet(tmp_path / "set/train.parquet")
    folder = bring(tmp_path / "out", id=str(tmp_path / "set"))
    result = read_imagefolder(path=folder, default_caption="a drawing")
    assert set(captions(result).values()) == {"a drawing"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "absent"}, "cannot load.*absent"),
        ({"image_column": "x"}, "image_column=x is no column. The columns: image, text, label"),
        ({"caption_column": "x"}, "has no column 'x'. Its columns: 'text', 'label'"),
        ({"image_column": "label"}, "The column label holds no images"),
    ],
)
def test_mistakes(parquet, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        bring(tmp_path / "out", id=str(parquet), **options)
    assert not (tmp_path / "out").exists()


def test_each_dataset_has_a_folder_of_its_own(tmp_path):
    register()
    places = set()
    for id, split in (("a/b", "train"), ("a/b", "train[:10%]"), ("a/c", "train"), ("../b", "train")):
        with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
            overrides = ["dataset=huggingface", f"dataset.source.id={id}", f"dataset.source.split='{split}'"]
            config = compose("train", overrides=[*overrides, f"paths.data_dir={tmp_path}"])
        places.add(Path(check_config(config).dataset.path))
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path / "huggingface"}


@pytest.mark.parametrize("id", [None, "", " "])
def test_ids_that_cannot_be(id):
    with pytest.raises(UserError, match=r"dataset\.source\.id"):
        HuggingfaceSource(id=id)


def test_a_folder_that_datasets_cannot_read(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"datasets cannot load .*dataset\.source\.id"):
        bring(tmp_path / "out", id=str(tmp_path / "set"))


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_found_within_seconds(tmp_path, monkeypatch, is_offline):
    """Offline what the cache lacks is said to be missing; online the hub is asked first, once."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if is_offline else "0")
    if not is_offline:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("src.data.sources.huggingface.HfApi", unreachable_hub)
    started = time.monotonic()
    with pytest.raises(UserError, match="nobody/nothing") as caught:
        bring(tmp_path / "out", id="nobody/nothing")
    assert time.monotonic() - started < 20
    assert ("HF_HUB_OFFLINE=1 is set" in str(caught.value)) == is_offline
    assert ("cannot be reached" in str(caught.value)) != is_offline
    assert not (tmp_path / "out").exists()


def unreachable_hub():
    from huggingface_hub import HfApi

    return HfApi(endpoint="http://127.0.0.1:9")  # nobody listens there


def test_nothing_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    rows(text=["a"] * 4).to_parquet(tmp_path / "set/train.parquet")
    monkeypatch.setattr(Image.Image, "load", None)
    folder = bring(tmp_path / "out", id=str(tmp_path / "set"))
    assert len(json.loads(f"[{','.join((folder / 'metadata.jsonl').read_text().splitlines())}]")) == 4
