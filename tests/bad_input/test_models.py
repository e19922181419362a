"""Base models and adapters that cannot be used."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_input.place import LORA, Place, assert_refused
from tests.data.pictures import truncate

# Base models


def _sd2_folder(place: Place) -> str:
    folder = place.folder / "sd2"
    shutil.copytree(place.model, folder)
    for name, key in (("unet", "cross_attention_dim"), ("text_encoder", "hidden_size")):
        config = folder / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: 1024}))
    return str(folder)


def _without_unet(place: Place) -> str:
    folder = place.folder / "partial"
    shutil.copytree(place.model, folder)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    return str(folder)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (lambda _: "/nowhere/model", ["/nowhere/model does not exist", "model.path", "hub id"]),
        (lambda _: "nobody/not-in-the-cache", ["nobody/not-in-the-cache", "cannot be reached", "model.path"]),
        (_sd2_folder, ["sd2 is Stable Diffusion 2.x", "Supported: Stable Diffusion 1.x (1.5) and SDXL"]),
        (_without_unet, ["partial", "unet"]),
    ],
    ids=["missing", "not_in_the_cache", "sd2", "without_weights"],
)
def test_a_base_model_that_cannot_be_used(place: Place, model: Callable[[Place], str], parts) -> None:
    path = model(place)
    started = time.monotonic()
    done = place.run("train", f"model.path={path}")
    # Against hanging on a network that is not there.
    assert time.monotonic() - started < 60
    assert_refused(done, *parts)
    assert place.files() == {}


@pytest.mark.parametrize("given", ["adapter", f"adapter/{LORA}"])
def test_an_adapter_as_base_model(trained: Place, given) -> None:
    before = trained.files()
    done = trained.run("train", f"model.path={trained.out}/train/mine/{given}", "run.name=other")
    assert_refused(done, "is an adapter", "not a base model", "Supported:")
    assert trained.files() == before


def test_an_architecture_that_contradicts_the_model(place: Place) -> None:
    done = place.run("train", "model.architecture=sdxl")
    assert_refused(done, str(place.model), "is sd15, but model.architecture=sdxl", "model.architecture=auto")
    assert place.files() == {}
    assert not (place.folder / "data").exists(), "the split was made for a run that could not begin"


# Adapters at inference


def test_inference_before_any_training(place: Place) -> None:
    done = place.run("inference")
    assert_refused(done, f"No trained adapter found under {place.out}", "sh train_run.sh")
    assert place.files() == {}


def _missing_step(place: Place) -> str:
    return "7"


def _missing_file(place: Place) -> str:
    return str(place.folder / "nothing.safetensors")


def _cut_file(place: Place) -> str:
    file = place.folder / "cut.safetensors"
    file.write_bytes((place.out / "train/mine/adapter" / LORA).read_bytes()[:-1000])
    return str(file)


def _text_file(place: Place) -> str:
    file = place.folder / "text.safetensors"
    file.write_text("this is no adapter")
    return str(file)


def _empty_folder(place: Place) -> str:
    (place.folder / "empty").mkdir()
    return str(place.folder / "empty")


def _rotten_checkpoint(place: Place) -> str:
    weights = place.out / "train/mine/checkpoints/step_00000002/weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    return "2"


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        (_missing_step, ["adapter.weights=7", "Kept are the steps 2"]),
        (_missing_file, ["nothing.safetensors", "no such file", "best, last, a step"]),
        (_cut_file, ["cut.safetensors", "damaged", "again"]),
        (_text_file, ["text.safetensors is damaged", "no safetensors file", "again"]),
        (_empty_folder, ["empty holds no adapter", LORA, "adapter.weights"]),
        (_rotten_checkpoint, ["step_00000002 is damaged", "weights.safetensors", "adapter.weights"]),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_weights_that_are_not_there_or_damaged(
    trained: Place, weights: Callable[[Place], str], parts
) -> None:
    value = weights(trained)
    before = trained.files()
    assert_refused(trained.run("inference", f"adapter.weights={value}"), *parts)
    assert trained.files() == before


@pytest.mark.parametrize("weights", ["best", "adapter"])
def test_an_adapter_of_another_architecture(trained: Place, pocket_sdxl: Path, weights) -> None:
    given = weights if weights == "best" else str(trained.out / "train/mine/adapter")
    # Told from configurations alone: gigabytes of weights are not read for it, and these could not be.
    base = shutil.copytree(pocket_sdxl, trained.folder / "base")
    truncate(base / "unet" / "diffusion_pytorch_model.safetensors")
    before = trained.files()
    done = trained.run("inference", f"adapter.weights={given}", f"model.path={base}")
    assert_refused(done, "was trained for sd15", "the base model is sdxl", "model.path", "adapter.weights")
    assert trained.files() == before


def test_a_second_generation_of_one_name(trained: Place) -> None:
    assert trained.run("inference").code == 0
    before = trained.files()
    assert_refused(trained.run("inference", "seed=5"), "inference/mine already holds images", "run.name")
    assert trained.files() == before
