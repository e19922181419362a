"""A generation batch: what lies in its folder, what loggers see, and that base means base."""

import json

import pytest
from PIL import Image

from src.inference.compare import Judges, SamplingSettings, compare
from src.inference.generate import generate
from src.inference.grids import read_params
from src.inference.resolve import resolve_weights
from src.loggers.events import read_events
from src.loggers.jsonl import JsonlLogger
from src.metrics.evaluate import measure_photos
from src.models.load import load_model
from src.pocket.make_models import smooth_images
from tests.inference.runs import write_checkpoint, write_config
from tests.models.common import settings_for, trained

PROMPTS = ["a photo of sksToy", "a dog"]
SAMPLING = SamplingSettings(
    negative_prompt="blurry",
    num_images=2,
    num_steps=1,
    guidance_scale=5.0,
    seed=4,
    width=64,
    height=64,
    scheduler="dpmpp_2m",
    batch_size=4,
)


@pytest.fixture(scope="module")
def run(pocket_sd15, tmp_path_factory):
    run = tmp_path_factory.mktemp("outputs") / "train" / "toy"
    model, _ = trained(pocket_sd15)
    write_config(run, settings_for("sd15"))
    write_checkpoint(run, model, step=30, best_step=30)
    return run


@pytest.fixture(scope="module")
def jury(dino, clip):
    pixels = ((smooth_images(3, 64, 5).permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy()
    photos = [Image.fromarray(image) for image in pixels]
    held_out = measure_photos(photos, captions=["a toy"] * 3, dino=dino, clip=clip)
    return Judges(dino=dino, clip=clip, held_out=held_out, photos=photos)


def _compare(pocket, run, folder, **options):
    logger = JsonlLogger(run_dir=folder)
    logger.start()
    source = resolve_weights("best", output_dir=run.parent.parent)
    options = {"merge": False, "prompts": PROMPTS, **options}
    result = compare(
        load_model(str(pocket)),
        source,
        folder=folder,
        sampling=SAMPLING,
        logger=logger,
        **options,
    )
    logger.close("completed")
    return result


@pytest.fixture(scope="module")
def batch(pocket_sd15, run, jury, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    told = []
    result = _compare(
        pocket_sd15, run, folder, judges=jury, on_batch=lambda *now: told.append(now),
        clip_prompts=["a photo of toy", "a dog"],
    )  # fmt: skip
    assert told == [("base", 4, 4), ("adapted", 4, 4)], "the base model comes first"
    return folder, result


def test_the_folder(batch):
    folder, result = batch
    names = {"a_photo_of_skstoy_0", "a_photo_of_skstoy_1", "a_dog_0", "a_dog_1"}
    for kind, files in (("base", result.base_images), ("adapted", result.images)):
        assert {path.stem for path in (folder / "images" / kind).iterdir()} == names == set(files)
    assert result.grid == folder / "grid.png"
    assert {score["name"] for score in json.loads((folder / "scores.json").read_text())} == {"dino", "clip_t"}


def test_prompts_that_are_cut_are_named_once(pocket_sd15, run, tmp_path, caplog):
    _compare(pocket_sd15, run, tmp_path, prompts=["a dog", "toy " * 75 + "a cup"])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in said if "Not seen" in line] == [
        "prompts[1]: 77 tokens are more than fit. Not seen: 'a cup'."
    ], "once for the base model and the adapter"


def test_base_images_are_the_base_models(batch, pocket_sd15, run):
    folder, result = batch
    expected = generate(
        load_model(str(pocket_sd15)), prompts=PROMPTS, num_images=2, num_steps=1, seed=4,
        negative_prompt="blurry", width=64, height=64,
    )  # fmt: skip
    for image, path in zip(expected, result.base_images.values(), strict=True):
        with Image.open(path) as file:
            assert file.tobytes() == image.image.tobytes()
        assert path.read_bytes() != (folder / "images" / "adapted" / path.name).read_bytes()


def test_each_file_says_how_it_was_made(batch):
    _, result = batch
    base = read_params(result.base_images["a_dog_1"])
    adapted = read_params(result.images["a_dog_1"])
    assert base["noise_seed"] == adapted["noise_seed"]
    assert (adapted["adapter"], adapted["adapter_scale"]) == ("toy step 30", 1.0)
    assert "adapter" not in base
    assert len(base["model_hash"]) == 16
    assert read_params(result.grid)["prompts"] == PROMPTS


def test_scores_have_their_scale(batch, clip):
    _, result = batch
    for score in result.scores:
        assert score.label == "pocket-random"
        assert None not in (score.floor, score.ceiling, score.low, score.high, score.gain_low)
    images = []
    for path in result.images.values():
        with Image.open(path) as file:
            images.append(file.convert("RGB"))
    texts = clip.texts(["a photo of toy"] * 2 + ["a dog"] * 2)
    expected = (clip.images(images) * texts).sum(dim=1).mean().item()
    assert result.scores[1].value == pytest.approx(expected, abs=1e-5), "CLIP reads the class word"


def test_everything_is_logged_at_the_adapters_step(batch):
    folder, _ = batch
    events = list(read_events(folder))
    assert {event.arguments["step"] for event in events} == {30}
    images = [
        (event.arguments["title"], event.arguments["series"]) for event in events if event.kind == "image"
    ]
    assert ("samples", "grid") in images
    assert {("samples", "a_dog_0"), ("base", "a_dog_0")} <= set(images)
    assert len(images) == 9
    scalars = {key for event in events if event.kind == "scalars" for key in event.arguments["scalars"]}
    assert {
        "dino[pocket-random]/samples",
        "dino[pocket-random]/base",
        "clip_t[pocket-random]/held_out",
    } <= scalars
    (table,) = [event for event in events if event.kind == "table"]
    assert [row["score"] for row in table.arguments["rows"]] == [
        "dino[pocket-random]",
        "clip_t[pocket-random]",
    ]


def test_without_base_and_judges(pocket_sd15, run, tmp_path):
    result = _compare(pocket_sd15, run, tmp_path, with_base=False)
    assert (result.base_images, result.scores) == ({}, [])
    assert not (tmp_path / "images" / "base").exists()
    assert json.loads((tmp_path / "scores.json").read_text()) == []


def test_strength_zero_shows_the_base_model_twice(pocket_sd15, run, tmp_path):
    result = _compare(pocket_sd15, run, tmp_path, scale=0.0, with_token_embedding=False)
    for name, path in result.images.items():
        with Image.open(path) as adapted, Image.open(result.base_images[name]) as base:
            assert adapted.tobytes() == base.tobytes()
