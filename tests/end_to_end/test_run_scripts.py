"""`sh train_run.sh` and `sh infer_run.sh` as a user types them in a fresh clone."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.end_to_end.conftest import FEW_STEPS
from tests.end_to_end.workbench import (
    UNOBSERVED,
    Bench,
    Clone,
    assert_same_checkpoint,
    assert_same_tensors,
    parameters,
    places,
    scalars,
)


def assert_offline_session(archive: Path, *, holds: set[str], setting: tuple[str, str]) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        task = json.loads(opened.read("task.json"))
        told = opened.read("metrics.jsonl").decode()
    assert (task["project_name"], task["name"]) == ("darkroom", archive.parents[2].name)
    assert task["hyperparams"]["General"][setting[0]]["value"] == setting[1]
    for name in holds:
        assert name in told or any(name in entry for entry in names), name


def tensorboard_of(line: str) -> EventAccumulator:
    command, _, folder = line.partition(" --logdir ")
    assert command.endswith("/bin/python -m tensorboard.main")
    assert list(Path(folder).glob("events.out.tfevents.*"))
    events = EventAccumulator(folder, size_guidance={"images": 0})
    events.Reload()
    return events


def test_training_leaves_what_its_last_lines_say(clone: Clone, trained: str) -> None:
    said = places(trained)
    run = Path(said["Adapter"]).parent
    assert run.parent == clone.folder / "outputs" / "train"

    with safe_open(Path(said["Adapter"]) / "pytorch_lora_weights.safetensors", framework="pt") as adapter:
        assert any("lora_B" in name for name in adapter.keys())  # noqa: SIM118
    pictures = sorted(path.relative_to(said["Images"]) for path in Path(said["Images"]).rglob("*.png"))
    for step in ("step_00000002", "step_00000004", "step_00000006"):
        assert Path(f"{step}.png") in pictures
        assert len([path for path in pictures if path.parent.name == step]) == 4
    assert len([path for path in pictures if path.parent.name == "base"]) == 4
    for path in pictures:
        Image.open(Path(said["Images"]) / path).verify()

    assert Path(said["Metrics"]) == run / "metrics.jsonl"
    logged = {(name, step) for name, step, _ in scalars(run)}
    for name in ("loss/train", "grad_norm/total", "grad_norm/unet_lora", "lr/unet_lora"):
        assert {(name, 4), (name, 6)} <= logged
    assert {("loss/validation", 3), ("loss/validation", 6)} <= logged
    names = {name for name, _ in logged}
    for title in ("throughput/", "machine_percent/", "dino[pocket]/", "clip_t[pocket]/"):
        assert any(name.startswith(title) for name in names), title

    assert_offline_session(
        Path(said["ClearML (offline)"]),
        holds={"loss", "adapter.zip", "config.yaml"},
        setting=("trainer.max_steps", "6"),
    )
    assert f"Task.import_offline_session('{said['ClearML (offline)']}')" in trained
    events = tensorboard_of(said["TensorBoard"])
    assert {"loss/train", "loss/validation"} <= set(events.Tags()["scalars"])
    assert "samples/grid" in events.Tags()["images"]
    assert "Trained 6 steps (max_steps)." in Path(said["Log"]).read_text(encoding="utf-8")
    assert json.loads((run / "result.json").read_text())["failures"] == []


def test_data_and_models_came_through_dvc(clone: Clone, trained: str) -> None:
    """Pulled from the folder remote in the clone: what is there is what DVC has tracked and cached."""
    assert len(list((clone.folder / "data" / "demo").glob("*.HEIC"))) >= 50
    assert clone.dvc("status", "-q", "data/demo.dvc", "assets/pocket.dvc") == ""
    for target in ("data/demo.dvc", "assets/pocket.dvc"):
        digest = yaml.safe_load((clone.folder / target).read_text())["outs"][0]["md5"]
        assert (clone.folder / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).is_file()


def test_nothing_is_left_that_git_would_take(clone: Clone, generated: str) -> None:
    assert clone.run("git", "status", "--short") == ""


def test_generating_leaves_what_its_last_lines_say(clone: Clone, trained: str, generated: str) -> None:
    said = places(generated)
    run = Path(said["Images"]).parent
    assert run.parent == clone.folder / "outputs" / "inference"
    assert Path(said["Grid"]) == run / "grid.png"
    Image.open(said["Grid"]).verify()
    files = {kind: sorted((run / "images" / kind).glob("*.png")) for kind in ("base", "adapted")}
    assert {kind: len(found) for kind, found in files.items()} == {"base": 4, "adapted": 4}
    scores = json.loads(Path(said["Scores"]).read_text())
    assert {(score["name"], score["label"]) for score in scores} == {
        ("dino", "pocket"),
        ("clip_t", "pocket"),
    }
    assert all(score["floor"] is not None for score in scores)
    logged = {name for name, _, _ in scalars(run)}
    assert any(name.startswith("dino[pocket]/") for name in logged)
    assert_offline_session(
        Path(said["ClearML (offline)"]),
        holds={"dino[pocket]", "samples_grid"},
        setting=("num_images", "1"),
    )
    assert "samples/grid" in tensorboard_of(said["TensorBoard"]).Tags()["images"]


def test_each_image_knows_how_it_was_made(clone: Clone, trained: str, generated: str) -> None:
    folder = Path(places(generated)["Images"])
    train_run = Path(places(trained)["Adapter"]).parent
    best_step = int(json.loads((train_run / "result.json").read_text())["best_step"])
    prompts = yaml.safe_load((train_run / "config.yaml").read_text())["dataset"]["prompts"]
    assert "a photo of sksToy toy in the snow" in prompts
    seeds = {}
    for kind in ("base", "adapted"):
        found = {path: parameters(path) for path in (folder / kind).glob("*.png")}
        assert sorted(made["prompt"] for made in found.values()) == sorted(prompts)
        seeds[kind] = {made["prompt"]: made["noise_seed"] for made in found.values()}
        for path, made in found.items():
            expected = {
                "num_steps": 25,
                "guidance_scale": 5.0,
                "scheduler": "dpmpp_2m",
                "seed": 0,
                "index": 0,
            }
            assert expected.items() <= made.items()
            assert (made["width"], made["height"]) == Image.open(path).size
            assert made["negative_prompt"]
            assert ("adapter" in made) == (kind == "adapted")
            text = Image.open(path).info["parameters"]
            assert text.startswith(made["prompt"])
            assert f"Steps: 25, Sampler: dpmpp_2m, CFG scale: 5.0, Seed: {made['noise_seed']}" in text
            if kind == "adapted":
                assert made["adapter"] == f"{train_run.name} step {best_step}"
                assert made["adapter_scale"] == 1.0
    assert seeds["base"] == seeds["adapted"]
    assert len(set(seeds["base"].values())) == len(prompts)


@pytest.mark.slow
def test_observers_do_not_touch(ready: Clone, trained: str, tmp_path: Path) -> None:
    """Weights, optimizer state and losses at every checkpoint are those of the bare loop, bit for bit."""
    observed = Path(places(trained)["Adapter"]).parent
    ready.run("sh", "train_run.sh", "run.name=bare", f"paths.output_dir={tmp_path}", *FEW_STEPS, *UNOBSERVED)
    bare = tmp_path / "train" / "bare"
    assert not list(scalars(bare))
    assert not (bare / "images").exists()
    names = [path.name for path in sorted((observed / "checkpoints").iterdir())]
    assert names == [path.name for path in sorted((bare / "checkpoints").iterdir())]
    assert len(names) >= 3
    for name in names:
        # A checkpoint holds the sums of the losses since the last log as well.
        assert_same_checkpoint(observed / "checkpoints" / name, bare / "checkpoints" / name)
    with_scores, without = (json.loads((run / "result.json").read_text()) for run in (observed, bare))
    assert without.pop("seconds") > 0
    assert {"loss_train", "loss_validation", "loss_train_probe", "best_step", "failures"} <= without.keys()
    assert {name: with_scores[name] for name in without} == without
    lora = "adapter/pytorch_lora_weights.safetensors"
    assert_same_tensors(observed / lora, bare / lora)


@pytest.mark.slow
def test_a_folder_of_sdxl_needs_no_further_word(ready: Clone, tmp_path: Path) -> None:
    base, output = tmp_path / "models" / "mine", f"paths.output_dir={tmp_path / 'outputs'}"
    shutil.copytree(ready.folder / "assets" / "pocket" / "sdxl", base)
    few = (
        "trainer.max_steps=2",
        "trainer.batch_size=4",
        "trainer.num_validation_timesteps=1",
        "optimizer.lr=0.01",
    )
    printed = ready.run("sh", "train_run.sh", f"model.path={base}", output, *few, *UNOBSERVED)
    assert f"Model: {base} (sdxl)" in printed
    adapter = Path(places(printed)["Adapter"])
    with safe_open(adapter / "pytorch_lora_weights.safetensors", framework="pt") as opened:
        assert opened.metadata()["darkroom.architecture"] == "sdxl"

    bench = Bench(root=ready.folder, output_dir=tmp_path / "outputs")
    folder = bench.generate("one", "num_images=1", "num_steps=4", "prompts=[a photo of sksToy]") / "images"
    assert f"on {base} (cpu)" in (folder.parent / "inference.log").read_text(encoding="utf-8")
    pixels = [Image.open(folder / kind / "a_photo_of_skstoy.png") for kind in ("base", "adapted")]
    assert pixels[0].tobytes() != pixels[1].tobytes()
