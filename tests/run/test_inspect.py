"""The command `inspect`, from configuration to page."""

import json
import shutil
from pathlib import Path

import pytest

from src.config.build import check_config, plain, register
from src.config.cli import CONFIG_DIR, Job
from src.config.composition import Root, compose_root
from src.errors import UserError
from src.models.locate import native_resolution
from src.run.build_data import prepare_data
from src.run.inspect import run_inspect
from tests.data.pictures import noise_image, photo_folder, truncate


def compose(root: Path, model: Path | str, *overrides: str, name: str = "inspect"):
    register()
    paths = [f"paths.{folder}_dir={root / folder}" for folder in ("cache", "data", "output")]
    given = [
        f"dataset.path={root / 'photos'}",
        f"model.path={model}",
        "model.dvc=null",
        "dataset.resolution=32",
    ]
    return compose_root(Root(name=name, folder=CONFIG_DIR), [*paths, *given, *overrides])


def inspect(root: Path, model: Path | str, *overrides: str):
    config = compose(root, model, *overrides)
    job = Job(run_dir=root / "run", name="mine", resolved=plain(config), overrides=overrides, in_sweep=False)
    outcome = run_inspect(check_config(config), job)
    return outcome, json.loads((root / "run" / "inspect.json").read_text())


def test_a_sound_dataset(tmp_path, pocket_sd15, capsys):
    photo_folder(tmp_path / "photos", 6)
    outcome, summary = inspect(tmp_path, pocket_sd15)
    assert outcome.exit_code == 0
    assert outcome.results == {"images": 6.0, "problems": 0.0}
    assert summary["token_limit"] == 75
    assert all(image["tokens"] > 5 for image in summary["images"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "No problems"
    assert str(tmp_path / "run" / "inspect.html") in "\n".join(lines[-4:])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "inspect",
        "inspect.html",
        "inspect.json",
        "inspect.log",
        "metrics.jsonl",
    }


def test_the_split_is_that_of_training_and_is_not_kept(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 10)
    _, summary = inspect(tmp_path, pocket_sd15)
    assert not (tmp_path / "data").exists()
    data = prepare_data(check_config(compose(tmp_path, pocket_sd15, name="train")), size=(32, 32))
    held_out = {image["file"] for image in summary["images"] if image["side"] == "held out"}
    assert held_out == {record.id for record in data.split.validation}
    (split_file,) = (tmp_path / "data" / "splits").rglob("*.json")
    kept = split_file.read_text()
    noise_image(77).save(tmp_path / "photos" / "new.png")
    with (tmp_path / "photos" / "captions.txt").open("a") as file:
        file.write("new.png|a photo of sksToy\n")
    _, summary = inspect(tmp_path, pocket_sd15)
    assert split_file.read_text() == kept
    assert held_out <= {image["file"] for image in summary["images"] if image["side"] == "held out"}


def test_problems_are_listed_and_the_exit_code_says_so(tmp_path, pocket_sd15, capsys):
    photo_folder(tmp_path / "photos", 6)
    truncate(tmp_path / "photos" / "IMG_0001.png")
    (tmp_path / "photos" / "IMG_0002.png").unlink()
    outcome, summary = inspect(tmp_path, pocket_sd15, "dataset.on_problem=skip")
    assert outcome.exit_code == 1
    assert len(summary["problems"]) == 2
    out = capsys.readouterr().out
    assert "error: IMG_0001.png: cannot be read" in out
    assert out.splitlines()[-1] == "Problems: 2"
    sides = {image["file"]: image["side"] for image in summary["images"]}
    assert sides["IMG_0001.png"] is None
    assert set(sides.values()) == {None, "train", "held out"}


@pytest.mark.parametrize(("num_photos", "message"), [(1, "at least 2"), (2, None)])
def test_too_few_images(tmp_path, pocket_sd15, num_photos, message):
    photo_folder(tmp_path / "photos", num_photos)
    outcome, summary = inspect(tmp_path, pocket_sd15)
    assert outcome.exit_code == (1 if message else 0)
    assert [message in problem["message"] for problem in summary["problems"]] == ([True] if message else [])


def test_captions_that_cannot_be_read_leave_a_page(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 4)
    (tmp_path / "photos" / "captions.txt").write_bytes(b"\xff\xfea\0")
    outcome, summary = inspect(tmp_path, pocket_sd15)
    assert outcome.exit_code == 1
    assert [problem["can_be_skipped"] for problem in summary["problems"]] == [False]


def test_nothing_to_look_at(tmp_path, pocket_sd15):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds no images"):
        inspect(tmp_path, pocket_sd15)


@pytest.mark.parametrize("model", ["/nowhere/model", "nobody/has-this-model"])
def test_without_the_base_model(tmp_path, model, caplog):
    photo_folder(tmp_path / "photos", 4)
    outcome, summary = inspect(tmp_path, model)
    assert outcome.exit_code == 0
    assert summary["token_limit"] is None
    assert any(
        "not counted" in warning and "not on this machine" in warning for warning in summary["warnings"]
    )


def test_a_trained_placeholder_is_one_token(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 4)
    _, with_word = inspect(tmp_path, pocket_sd15)
    _, with_token = inspect(tmp_path, pocket_sd15, "adapter.token_embedding=train")
    assert with_token["images"][0]["tokens"] < with_word["images"][0]["tokens"]


def test_buckets_are_those_of_training(tmp_path, pocket_sd15):
    photos = photo_folder(tmp_path / "photos", 4)
    for number, size in enumerate([(64, 64), (96, 64), (64, 96), (400, 20)]):
        noise_image(number, size).save(photos / f"IMG_000{number}.png")
    _, summary = inspect(tmp_path, pocket_sd15, "dataset.buckets.enabled=true")
    assert summary["buckets"] == {"24x40": 1, "32x32": 1, "40x24": 1}
    assert [problem["images"] for problem in summary["problems"]] == [["IMG_0003.png"]]
    assert "400x20" in summary["problems"][0]["message"]
    assert (tmp_path / "run" / "inspect" / "buckets.png").exists()


def test_buckets_of_a_model_of_the_hub(tmp_path, pocket_sd15, monkeypatch):
    """Known from the local cache; nothing is downloaded for them, and that they are not known is said."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    photo_folder(tmp_path / "photos", 4)
    overrides = ("dataset.buckets.enabled=true", "dataset.resolution=null")
    _, summary = inspect(tmp_path, "owner/tiny", *overrides)
    assert summary["buckets"] == {}
    assert any("Buckets are known when" in warning for warning in summary["warnings"])
    place = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(pocket_sd15, place / "snapshots" / "1234")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("1234")
    _, summary = inspect(tmp_path, "owner/tiny", *overrides)
    side = native_resolution(str(pocket_sd15))
    assert summary["training_size"] == [side, side]
    assert sum(summary["buckets"].values()) + len(summary["problems"]) == 4


def test_class_images_are_looked_at(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 4)
    toys = tmp_path / "toys"
    overrides = ("trainer.prior_loss_weight=1", f"dataset.class_images.path={toys}")
    outcome, summary = inspect(tmp_path, pocket_sd15, *overrides)
    assert outcome.exit_code == 1
    assert "is not a folder" in summary["problems"][0]["message"]
    toys.mkdir()
    for number in range(3):
        noise_image(100 + number).save(toys / f"toy{number}.png")
    outcome, _ = inspect(tmp_path, pocket_sd15, *overrides)
    assert outcome.exit_code == 0
    truncate(toys / "toy1.png")
    shutil.copy(tmp_path / "photos" / "IMG_0000.png", toys / "same.png")
    truncate(tmp_path / "photos" / "IMG_0001.png")
    outcome, summary = inspect(tmp_path, pocket_sd15, *overrides)
    assert [problem["file"] for problem in summary["problems"]] == [
        "IMG_0001.png",
        "class:toy1.png",
        "class:same.png",
    ]
    assert len(summary["images"]) == 4


def test_a_damaged_tokenizer_is_a_warning(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 4)
    model = shutil.copytree(pocket_sd15, tmp_path / "model")
    for name in ("vocab.json", "tokenizer.json"):
        if (model / "tokenizer" / name).exists():
            truncate(model / "tokenizer" / name)
    outcome, summary = inspect(tmp_path, model)
    assert outcome.exit_code == 0
    assert any("The tokenizer in" in warning for warning in summary["warnings"])


def test_tokens_of_long_prompts(tmp_path, pocket_sd15):
    photos = photo_folder(tmp_path / "photos", 4)
    caption = ", ".join(["a photo of sksToy on a table"] * 12)
    (photos / "captions.txt").write_text("".join(f"IMG_000{number}.png|{caption}\n" for number in range(4)))
    _, cut = inspect(tmp_path, pocket_sd15)
    assert len(cut["captions_cut"]) == 4
    assert cut["token_limit"] == 75
    assert any("not see the end of 4 of 4 captions (75 tokens fit)" in text for text in cut["warnings"])
    _, whole = inspect(tmp_path, pocket_sd15, "model.long_prompts=true")
    assert whole["captions_cut"] == []
    assert whole["token_limit"] == 3 * 75


def test_trackers_get_the_pictures(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 6)
    truncate(tmp_path / "photos" / "IMG_0001.png")
    inspect(tmp_path, pocket_sd15)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    images = {event["series"] for event in events if event["kind"] == "image"}
    assert images == {"contact_sheet_001", "sizes", "shapes", "shorter_sides", "tokens"}
    (table,) = [event for event in events if event["kind"] == "table"]
    assert table["rows"][0]["file"] == "IMG_0001.png"


def test_a_damaged_split_file_is_a_problem(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 6)
    prepare_data(check_config(compose(tmp_path, pocket_sd15, name="train")), size=(32, 32))
    (split_file,) = (tmp_path / "data" / "splits").rglob("*.json")
    split_file.write_text("{")
    _, summary = inspect(tmp_path, pocket_sd15)
    assert ["damaged" in problem["message"] for problem in summary["problems"]] == [True]
