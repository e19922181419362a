"""From the configuration to class images, through whole runs of a tiny model."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from src.config.build import PROJECT_ROOT, check_config, plain, register
from src.config.cli import CONFIG_DIR, Job
from src.config.composition import Root, compose_root
from src.errors import DatasetProblems, UserError
from src.inference import class_images as store
from src.inference.grids import png_bytes
from src.run.build_data import prepare_data
from src.run.training import run_training
from tests.data.pictures import noise_image, photo_folder, truncate
from tests.run.test_records import agreement

DRAWN = (
    "trainer.prior_loss_weight=1",
    "dataset.class_images.num=3",
    "dataset.class_images.num_steps=1",
    "dataset.class_images.batch_size=2",
)


@pytest.fixture
def place(tmp_path, pocket_sd15):
    """What all runs of a test share: photos, model and caches."""
    photo_folder(tmp_path / "photos", 6)
    return [
        f"model.path={pocket_sd15}",
        f"dataset.path={tmp_path / 'photos'}",
        "dataset.resolution=32",
        f"paths.data_dir={tmp_path}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "trainer.device=cpu",
        "trainer.batch_size=2",
        "trainer.max_steps=3",
        "trainer.log_every=1",
        "trainer.num_validation_timesteps=2",
        "callbacks.samples=null",
        "callbacks.machine_load=null",
        "logger=[]",
        "metrics=none",
    ]


def compose(*overrides):
    register()
    composed = compose_root(Root(name="train", folder=CONFIG_DIR), list(overrides))
    return composed, check_config(composed)


def train(folder, *overrides):
    """Runs; returns what was logged and the lineage."""
    composed, config = compose(*overrides, f"run.name={folder.name}")
    job = Job(run_dir=folder, name=folder.name, resolved=plain(composed), overrides=[], in_sweep=False)
    assert run_training(config, job).exit_code == 0
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [
        (event["step"], name, value)
        for event in events
        if event["kind"] == "scalars"
        for name, value in event["scalars"].items()
        if not name.startswith(("throughput/", "memory_"))
    ]
    return kept, json.loads((folder / "lineage.json").read_text())


def test_it_does_not_matter_whether_images_were_drawn_now_or_before(place, tmp_path):
    first, lineage = train(tmp_path / "first", *place, *DRAWN)
    assert {"loss/train", "loss/prior", "loss/validation"} <= {name for _, name, _ in first}
    ids = list(lineage["class_images"])
    assert ids == ["class:000000", "class:000001", "class:000002"]
    assert not any(id.startswith("class:") for side in lineage["split"].values() for id in side)
    (folder,) = (tmp_path / "cache" / "class_images").iterdir()
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    second, again = train(tmp_path / "second", *place, *DRAWN)
    assert second == first
    assert again["class_images"] == lineage["class_images"]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps, "nothing was drawn"

    third, other = train(tmp_path / "third", *place, *DRAWN, "dataset.class_images.prompt=a photo of a cup")
    assert third != first
    assert not set(other["class_images"].values()) & set(lineage["class_images"].values())
    assert len(list((tmp_path / "cache" / "class_images").iterdir())) == 2


def test_a_run_goes_on_with_the_same_class_images_only(place, tmp_path, monkeypatch):
    run, again = tmp_path / "run", (*place, *DRAWN, "trainer.resume=auto")
    _, lineage = train(run, *place, *DRAWN, "trainer.max_steps=1")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"dataset\.class_images\.seed \(then 0, now 1\)"):
        train(run, *again, "dataset.class_images.seed=1")
    with pytest.raises(UserError, match=r"trainer\.prior_loss_weight"):
        train(run, *again, "trainer.prior_loss_weight=0.5")
    assert not (tmp_path / "cache").exists(), "refused before the photos are looked at"
    captions = tmp_path / "photos" / "captions.txt"
    before = captions.read_text()
    captions.write_text(before.replace("number", "No."))
    with pytest.raises(UserError, match="dataset_hash"):
        train(run, *again)
    assert not (tmp_path / "cache" / "class_images").exists(), "refused before anything is drawn"
    captions.write_text(before)

    # The cache may be removed, also where what is drawn anew has other last bits.
    monkeypatch.setattr(store, "png_bytes", lambda image, params: png_bytes(image, {**params, "else": 1}))
    _, later = train(run, *again)
    assert set(later["class_images"].values()).isdisjoint(lineage["class_images"].values())
    assert later["resumed_from"][0]["class_images"] == lineage["class_images"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_beside_images_in_buckets_and_after_a_stop(place, tmp_path, request, architecture):
    """Drawn at one size, whatever buckets the training images have; a resumed run is an unbroken one."""
    for number in range(6, 9):
        noise_image(number, (40, 64)).save(tmp_path / "photos" / f"IMG_{number:04d}.png")
    with (tmp_path / "photos" / "captions.txt").open("a") as file:
        file.writelines(f"IMG_{number:04d}.png|a tall sksToy {number}\n" for number in range(6, 9))
    model = request.getfixturevalue(f"pocket_{architecture}")
    own = [*DRAWN, f"model.path={model}", "dataset.buckets.enabled=true", "dataset.resolution=64"]
    own += ["dataset.buckets.max_upscale=4", "dataset.buckets.max_crop=0.5", "optimizer.schedule=constant"]
    unbroken, lineage = train(tmp_path / "unbroken", *place, *own)
    assert len(lineage["buckets"]) > 1
    assert len(lineage["class_images"]) == 3
    train(tmp_path / "stopped", *place, *own, "trainer.max_steps=1")
    stopped, _ = train(tmp_path / "stopped", *place, *own, "trainer.resume=auto")

    def losses(logged):
        return [event for event in logged if event[1] in ("loss/train", "loss/prior")]

    assert losses(stopped) == losses(unbroken)
    assert {name for _, name, _ in losses(unbroken)} == {"loss/train", "loss/prior"}


@pytest.mark.slow
def test_two_processes_share_the_drawing(place, tmp_path):
    """The same images as one process draws, each drawn once, and the same losses from there on."""
    drawn = [*DRAWN, "dataset.class_images.num=6"]
    alone, lineage = train(tmp_path / "alone", *place, *drawn)
    other_cache = f"paths.cache_dir={tmp_path / 'other_cache'}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    subprocess.run(
        [
            *(sys.executable, *launcher, "train.py", *place, *drawn, other_cache),
            *("trainer.batch_size=1", "run.name=two", f"paths.output_dir={tmp_path}"),
        ],
        cwd=PROJECT_ROOT,
        env={name: v for name, v in os.environ.items() if name not in names} | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=200,
    )
    folder = tmp_path / "train" / "two"
    assert json.loads((folder / "lineage.json").read_text())["class_images"] == lineage["class_images"]
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scalars = {}
    for event in events:
        if event["kind"] == "scalars":
            scalars |= {(event["step"], name): value for name, value in event["scalars"].items()}
    expected = {(step, name): value for step, name, value in alone if name in ("loss/train", "loss/prior")}
    assert len(expected) == 6
    assert {key: scalars[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_a_folder_of_class_images_is_trained_on(place, tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    for number in range(4):
        noise_image(100 + number).save(folder / f"toy{number}.png")
    overrides = ["trainer.prior_loss_weight=0.5", f"dataset.class_images.path={folder}"]
    logged, lineage = train(tmp_path / "run", *place, *overrides)
    assert list(lineage["class_images"]) == [f"class:toy{number}.png" for number in range(4)]
    assert any(name == "loss/prior" for _, name, _ in logged)
    assert not (tmp_path / "cache" / "class_images").exists()


def test_problems_of_both_folders_are_listed_together(place, tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    noise_image(100).save(folder / "toy.png")
    truncate(folder / "toy.png")
    truncate(tmp_path / "photos" / "IMG_0002.png")
    _, config = compose(*place, "trainer.prior_loss_weight=1", f"dataset.class_images.path={folder}")
    with pytest.raises(DatasetProblems) as caught:
        prepare_data(config, size=(32, 32))
    assert str(caught.value).startswith("2 problems in the dataset subject (")
    assert f"and its class images ({folder})" in str(caught.value)
    assert "IMG_0002.png: " in str(caught.value)
    assert "class:toy.png: " in str(caught.value)
    photo_folder(tmp_path / "photos", 6)
    with pytest.raises(DatasetProblems, match=r"(?s)1 problem in the class images .*class:toy\.png"):
        prepare_data(config, size=(32, 32))


def test_damaged_class_images_are_left_out_if_asked(place, tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    for number in range(2):
        noise_image(100 + number).save(folder / f"toy{number}.png")
    truncate(folder / "toy1.png")
    overrides = ["trainer.prior_loss_weight=1", f"dataset.class_images.path={folder}"]
    _, lineage = train(tmp_path / "run", *place, *overrides, "dataset.on_problem=skip")
    assert list(lineage["class_images"]) == ["class:toy0.png"]
    assert [entry["file"] for entry in lineage["skipped"]] == ["class:toy1.png"]
    truncate(folder / "toy0.png")
    _, config = compose(*place, *overrides, "dataset.on_problem=skip")
    with pytest.raises(DatasetProblems, match="2 problems leave no image"):
        prepare_data(config, size=(32, 32))


def test_an_image_in_both_folders_is_listed_with_the_others_and_left_out_of_one(place, tmp_path):
    folder = photo_folder(tmp_path / "toys", 1, captions=False)
    noise_image(100).save(folder / "toy.png")
    truncate(tmp_path / "photos" / "IMG_0002.png")
    overrides = ["trainer.prior_loss_weight=1", f"dataset.class_images.path={folder}"]
    _, config = compose(*place, *overrides)
    with pytest.raises(
        DatasetProblems, match=r"(?s)on_problem=skip.*IMG_0002\.png.*class:IMG_0000\.png: is in"
    ):
        prepare_data(config, size=(32, 32))
    _, config = compose(*place, *overrides, "dataset.on_problem=skip")
    data = prepare_data(config, size=(32, 32))
    assert len(data.result.records) == 5
    assert [record.id for record in data.class_images.records] == ["class:toy.png"]
    assert list(data.class_images.hashes) == list(data.class_images.sizes) == ["class:toy.png"]


def test_an_image_in_both_folders_is_a_problem(place, tmp_path):
    """It may be one that was held out."""
    folder = photo_folder(tmp_path / "toys", 1, captions=False)
    _, config = compose(*place, "trainer.prior_loss_weight=1", f"dataset.class_images.path={folder}")
    with pytest.raises(DatasetProblems, match=r"class:IMG_0000\.png: is in the dataset as well, as IMG_0000"):
        prepare_data(config, size=(32, 32))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.class_images.path=toys"], r"Set trainer\.prior_loss_weight=1"),
        (["trainer.prior_loss_weight=-1"], r"trainer\.prior_loss_weight=-1\.0 must be at least 0"),
        (["dataset.class_images.num=0"], r"dataset\.class_images\.num=0"),
        (["dataset.class_images.scheduler=ddpm"], r"dataset\.class_images\.scheduler=ddpm"),
        (["dataset.class_images.prompt='a photo of sksToy'"], "contains the placeholder"),
        (["dataset.class_images.prompt='a photo of sksToy, red'"], "contains the placeholder"),
        (["dataset.class_images.prompt=''"], "prompt is empty"),
    ],
)
def test_settings_that_cannot_be_meant(overrides, message):
    with pytest.raises(UserError, match=message):
        compose(*overrides)


def test_the_prompt_names_the_class():
    assert compose()[1].dataset.class_images.prompt == "a photo of a toy"
    assert (
        compose("dataset=imagefolder", "dataset.class_word=dog")[1].dataset.class_images.prompt
        == "a photo of a dog"
    )


def test_what_must_agree_without_class_images_is_what_it_was():
    """So that a run from before there were any goes on."""
    assert not {"trainer.prior_loss_weight", "class_images_hash"} & agreement().keys()


def test_layers_that_do_not_exist_are_named_before_anything_is_drawn(place, tmp_path):
    with pytest.raises(UserError, match=r"adapter\.target_modules: .*to_qq"):
        train(tmp_path / "run", *place, *DRAWN, "adapter.target_modules=to_qq")
    with pytest.raises(UserError, match=r"adapter\.rank_pattern: to_qq"):
        train(tmp_path / "run", *place, *DRAWN, "adapter.rank_pattern={to_qq:4}")
    assert not (tmp_path / "cache" / "class_images").exists()
