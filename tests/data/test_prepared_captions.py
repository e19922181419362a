import json
import logging

import pytest

from src.config.cli import CONFIG_DIR
from src.data.adverbs import prepared_captions
from src.data.adverbs.prepared_captions import captions_without_adverbs
from src.data.readers.coco import read_coco
from src.errors import UserError
from tests.data.pictures import noise_image

CAPTIONS = ["A very big dog sits quietly.\n", "Slowly.", "A dog"]
WITHOUT = ["A big dog sits.", "Slowly.", "A dog"]


@pytest.fixture
def coco(tmp_path):
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    noise_image(1).save(folder / "val2017" / "1.jpg")
    content = {
        "info": {"year": 2017},
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": n, "image_id": 1, "caption": caption} for n, caption in enumerate(CAPTIONS)],
    }
    (folder / "annotations/captions_val2017.json").write_text(json.dumps(content))
    return folder


def prepare(coco, folder):
    return captions_without_adverbs(
        coco / "annotations/captions_val2017.json", folder=folder, num_processes=1
    )


def test_the_original_stands_beside_the_changed_caption(coco, tmp_path, caplog):
    source = (coco / "annotations/captions_val2017.json").read_bytes()
    with caplog.at_level(logging.INFO):
        file = prepare(coco, tmp_path / "cache")
    content = json.loads(file.read_text())
    assert [item["caption"].strip() for item in content["annotations"]] == WITHOUT
    assert [item["original_caption"] for item in content["annotations"]] == CAPTIONS
    assert (content["info"], content["images"][0]["file_name"]) == ({"year": 2017}, "1.jpg")
    header = content["adverbs"]
    assert (header["changed"], header["unchanged"], header["would_be_empty"]) == (1, 1, 1)
    assert header["tagger"].startswith("textblob ")
    assert header["source"] == "captions_val2017.json"
    assert "1 of 3 captions" in caplog.text
    assert (coco / "annotations/captions_val2017.json").read_bytes() == source


def test_what_is_too_long_for_a_caption_is_left_to_the_reader(coco, tmp_path):
    file = coco / "annotations/captions_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["caption"] = "very " * 20_000
    content["annotations"][2]["caption"] = "\ud800 a very big dog"
    file.write_text(json.dumps(content))
    made = [item["caption"] for item in json.loads(prepare(coco, tmp_path).read_text())["annotations"]]
    assert made == ["very " * 20_000, "Slowly.", "\ud800 a big dog"]
    result = read_coco(path=coco, split="val2017", adverbs="remove", caption="all", cache_dir=tmp_path)
    assert [record.caption for record in result.records] == ["Slowly."]
    assert len(result.problems) == 2


def test_it_is_made_once(coco, tmp_path, monkeypatch):
    file = prepare(coco, tmp_path)
    seen = file.stat().st_mtime_ns, file.read_bytes()
    monkeypatch.setattr(prepared_captions, "remove_adverbs_from_all", None)
    assert prepare(coco, tmp_path) == file
    assert (file.stat().st_mtime_ns, file.read_bytes()) == seen


@pytest.mark.parametrize("changed", ["rules", "tagger", "annotations"])
def test_it_is_made_again_when_what_it_was_made_of_changes(coco, tmp_path, monkeypatch, changed):
    first = prepare(coco, tmp_path)
    if changed == "rules":
        monkeypatch.setattr(prepared_captions, "RULES_VERSION", 99)
    elif changed == "tagger":
        monkeypatch.setattr(prepared_captions, "tagger_version", lambda: "textblob 99")
    else:
        annotations = coco / "annotations/captions_val2017.json"
        annotations.write_text(annotations.read_text().replace("quietly", "happily"))
    second = prepare(coco, tmp_path)
    assert second != first
    assert json.loads(second.read_text())["adverbs"] != json.loads(first.read_text())["adverbs"]


def test_it_is_whole_or_absent(coco, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared_captions, "remove_adverbs_from_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(coco, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.json")) == []
    assert prepare(coco, tmp_path / "cache").is_file()


@pytest.mark.parametrize("content", ["", "[]", '{"annotations": 3}', '{"annotations": [{}]}'])
def test_annotations_that_are_not_cocos_are_named(coco, tmp_path, content):
    (coco / "annotations/captions_val2017.json").write_text(content)
    with pytest.raises(UserError, match=r"captions_val2017\.json is not COCO's captions JSON"):
        prepare(coco, tmp_path)
    assert list(tmp_path.glob("*.json")) == []


def test_the_reader_takes_the_captions_without_adverbs(coco, tmp_path):
    result = read_coco(
        path=coco, split="val2017", caption="all", adverbs="remove", cache_dir=tmp_path / "cache"
    )
    assert result.problems == []
    assert [record.caption for record in result.records] == WITHOUT
    assert len(list((tmp_path / "cache/captions").glob("captions_val2017-without-adverbs-*.json"))) == 1
    kept = read_coco(path=coco, split="val2017", caption="all")
    assert [record.caption for record in kept.records] == [caption.strip() for caption in CAPTIONS]
    with pytest.raises(UserError, match="adverbs=x must be one of keep, remove"):
        read_coco(path=coco, split="val2017", adverbs="x")


def test_coco_is_configured_to_remove_them():
    assert "  adverbs: remove" in (CONFIG_DIR / "dataset/coco.yaml").read_text()
