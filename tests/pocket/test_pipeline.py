"""The pocket from pictures to shipped folders: all stages in miniature, and what the usual libraries load of it."""

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from src.metrics.features import ClipExtractor, DinoExtractor
from src.pocket.training import pipeline
from src.pocket.training.cards import CARDS
from src.pocket.training.pipeline import CODE, PLANS, STAGES, Workshop

TRAINED = ("vae", "decoder", "denoiser", "toys", "clip", "dino")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NUM_SEEN", "NUM_HELD_OUT", "NUM_ELSEWHERE", "NUM_TOYS"):
            patch.setattr(pipeline, name, 12)
        for name, plan in PLANS.items():
            patch.setitem(PLANS, name, {**plan, "steps": 1, "batch_size": 4})
        shop = Workshop(tmp_path_factory.mktemp("work"))
        for make in STAGES.values():
            make(shop)
    return shop


@pytest.fixture(scope="module")
def folder(shop):
    return shop.folder / "export"


@pytest.mark.slow
def test_diffusers_draws_with_the_exported_model(shop, folder) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder / "sd15")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a photo of a red car", num_inference_steps=1, width=64, height=64).images[0]
    assert image.size == (64, 64)
    trained = load_file(shop.folder / "toys" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, weights in pipe.unet.state_dict().items():
        assert torch.equal(weights.half(), trained[name].half()), name


@pytest.mark.slow
def test_timm_and_open_clip_load_the_exported_judges(shop, folder) -> None:
    pixels = torch.rand(2, 3, 64, 64)
    vit = timm.create_model(f"local-dir:{folder / 'dino'}", pretrained=True)
    assert vit(pixels).shape == (2, 128)
    state = torch.load(shop.folder / "dino" / "model.pt", weights_only=True)
    assert torch.equal(vit.blocks[0].mlp.fc1.weight.half(), state["blocks.0.mlp.fc1.weight"].half())
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'clip'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")(["a red car", "a blue car"])
    assert clip.encode_image(pixels).shape == clip.encode_text(tokens).shape == (2, 128)
    assert not torch.equal(tokens[0], tokens[1])


def test_the_projects_own_extractors_read_them(folder) -> None:
    image = Image.new("RGB", (80, 64), "teal")
    dino = DinoExtractor(model=str(folder / "dino"), label="pocket")
    clip = ClipExtractor(model=str(folder / "clip"), label="pocket")
    assert dino.images([image]).norm().item() == pytest.approx(1, abs=1e-3)
    assert clip.texts(["a photo of a red car"]).shape == clip.images([image]).shape


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_was_trained_on_what_for_how_long(shop, folder, name) -> None:
    card = (folder / name / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "\n24 rendered pictures" in card
    for stage in CARDS[name].stages:
        report = json.loads((shop.folder / stage / "report.json").read_text())
        row = next(line for line in card.splitlines() if line.startswith(f"| {stage} |"))
        assert f"loss {report['history'][-1]['loss']:.3g}" in row
        assert report["device"] in card
    assert "{" not in card


def test_the_samples_of_the_card_are_the_models_own(folder) -> None:
    with Image.open(folder / "sd15" / "samples.png") as sheet:
        assert sheet.size == (6 * 128, 2 * 128)
        assert len(sheet.getcolors(sheet.width * sheet.height)) > 100


def test_stages_that_are_done_are_not_done_again(shop) -> None:
    before = {name: (shop.folder / name / "checkpoint.pt").stat().st_mtime_ns for name in TRAINED}
    with pytest.MonkeyPatch.context() as patch:
        for name, plan in PLANS.items():
            patch.setitem(PLANS, name, {**plan, "steps": 1, "batch_size": 4})
        STAGES["clip"](shop)
        patch.setitem(PLANS, "dino", {**PLANS["dino"], "lr": 1.0})
        with pytest.raises(ValueError, match="another plan"):
            STAGES["dino"](shop)
    after = {name: (shop.folder / name / "checkpoint.pt").stat().st_mtime_ns for name in TRAINED}
    assert after == before


def test_dvc_runs_all_stages_each_after_what_it_needs() -> None:
    root = Path(__file__).resolve().parents[2]
    stages = yaml.safe_load((root / "src/pocket/dvc.yaml").read_text())["stages"]
    assert list(stages) == list(STAGES)
    made: set[str] = set()
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m src.pocket.training {name}"
        for needed in stage["deps"]:
            assert needed in made or ((root / needed).exists() and not needed.startswith(".cache")), needed
        assert set(CODE.get(name, ())) <= set(stage["deps"]), name
        made |= {out for outs in stage["outs"] for out in outs}
    assert made == {f".cache/pocket/{name}" for name in STAGES}
