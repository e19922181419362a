"""What training hands over: in plain diffusers, at scale 0, and under each name that it can be called by."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from src.errors import UserError
from tests.end_to_end.workbench import Bench, images, parameters, same_pixels

# Rates at which four steps change every image.
RATES = ("optimizer.lr=0.02", "optimizer.lr_text_encoder=0.02", "optimizer.lr_token_embedding=0.2")
SETTINGS = (
    *(
        "trainer.max_steps=4",
        "trainer.batch_size=4",
        "trainer.save_every=1",
        "trainer.validate_every=1",
        "trainer.keep_checkpoints=9",
    ),
    *("trainer.num_validation_timesteps=1", "trainer.max_validation_images=4", *RATES),
    *("adapter.rank=4", "adapter.alpha=6"),
)
KINDS: dict[str, tuple[str, ...]] = {
    "lora": ("adapter=lora",),
    "default": (),
    "pivotal": ("adapter=pivotal",),
    "lora_text": ("adapter=lora_text",),
    "full": ("adapter=full",),
    "dora": ("adapter=dora",),
    "loha": ("adapter=loha",),
    "lokr": ("adapter=lokr", "dataset.placeholder=skstoy", "adapter.num_token_vectors=3"),
    "sdxl": ("model=pocket_sdxl",),
    "sdxl_pivotal": ("model=pocket_sdxl", "adapter=pivotal"),
    "sdxl_text": ("model=pocket_sdxl", "adapter=lora_text", "adapter.text_encoder_2=lora"),
}
PROMPTS = ["a photo of sksToy on a wooden table", "a pictogram of sksToy"]
ONE_IMAGE = (f"prompts=[{PROMPTS[0]}]", "num_images=1", "num_steps=2")
SAMPLING = (f"prompts=[{','.join(PROMPTS)}]", "num_steps=4", "num_images=2", "inference.batch_size=3")


@pytest.fixture(scope="module")
def run_of(bench: Bench) -> Callable[[str], Path]:
    """Training runs by kind, each made when it is first asked for."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = bench.train(kind, *SETTINGS, *KINDS[kind])
        return made[kind]

    return get


def base_of(bench: Bench, kind: str) -> Path:
    return bench.root / "assets" / "pocket" / ("sdxl" if kind.startswith("sdxl") else "sd15")


def plain_pipeline(folder: Path) -> Any:
    """As diffusers' users load a model and choose a scheduler."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_into(pipeline: Any, adapter: Path) -> None:
    """As diffusers' documentation says."""
    if (adapter / "pytorch_lora_weights.safetensors").exists():
        pipeline.load_lora_weights(adapter)
    embedding = adapter / "learned_embeds.safetensors"
    if embedding.exists() and hasattr(pipeline, "text_encoder_2"):
        rows = load_file(embedding)
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                rows[key],
                token="sksToy",
                text_encoder=getattr(pipeline, f"text_encoder{number}"),
                tokenizer=getattr(pipeline, f"tokenizer{number}"),
            )
    elif embedding.exists():
        pipeline.load_textual_inversion(embedding)


def drawn_by(pipeline: Any, folder: Path, *, batch_size: int) -> dict[str, np.ndarray]:
    """The images of a folder again, from nothing but the parameters in its PNGs."""
    made = {path.stem: parameters(path) for path in folder.glob("*.png")}
    order = sorted(made, key=lambda name: (PROMPTS.index(made[name]["prompt"]), made[name]["index"]))
    drawn: dict[str, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        names = order[start : start + batch_size]
        one = made[names[0]]
        pictures = pipeline(
            prompt=[made[name]["prompt"] for name in names],
            negative_prompt=[made[name]["negative_prompt"] for name in names],
            num_inference_steps=one["num_steps"],
            guidance_scale=one["guidance_scale"],
            width=one["width"],
            height=one["height"],
            generator=[torch.Generator().manual_seed(made[name]["noise_seed"]) for name in names],
        ).images
        drawn |= {name: np.asarray(picture) for name, picture in zip(names, pictures, strict=True)}
    return drawn


def assert_same(drawn: dict[str, np.ndarray], folder: Path) -> None:
    written = images(folder)
    assert drawn.keys() == written.keys()
    assert len(written) == 4
    for name, pixels in written.items():
        np.testing.assert_array_equal(drawn[name], pixels, err_msg=f"{folder.name}/{name}")


@pytest.mark.parametrize(
    "kind",
    [
        "default",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("lora", "lora_text", "dora", "pivotal", "sdxl", "sdxl_text", "sdxl_pivotal")
        ),
    ],
)
def test_plain_diffusers_draws_the_same_pixels(bench: Bench, run_of, kind: str) -> None:
    run = run_of(kind)
    # The run folder: its best checkpoint, which the exported adapter must be equal to.
    folder = bench.generate(f"plain-{kind}", f"adapter.weights={run}", *SAMPLING, "inference.merge=false")
    pipeline = plain_pipeline(base_of(bench, kind))
    assert_same(drawn_by(pipeline, folder / "images" / "base", batch_size=3), folder / "images" / "base")
    load_into(pipeline, run / "adapter")
    assert_same(
        drawn_by(pipeline, folder / "images" / "adapted", batch_size=3), folder / "images" / "adapted"
    )
    assert not same_pixels(folder / "images" / "base", folder / "images" / "adapted")


@pytest.mark.slow
def test_a_fully_trained_model_is_a_plain_diffusers_folder(bench: Bench, run_of) -> None:
    run = run_of("full")
    for weights in (run / "adapter", run):  # the export, and the checkpoint behind it
        name = f"full-{weights.name}"
        folder = bench.generate(name, f"adapter.weights={weights}", *SAMPLING)
        pipeline = plain_pipeline(run / "adapter" / "model")
        assert_same(
            drawn_by(pipeline, folder / "images" / "adapted", batch_size=3), folder / "images" / "adapted"
        )
        assert not same_pixels(folder / "images" / "base", folder / "images" / "adapted")


@pytest.mark.parametrize(
    "kind",
    [
        "pivotal",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dora", "loha", "lokr", "sdxl_text")),
    ],
)
def test_a_checkpoint_generates_what_its_export_does(bench: Bench, run_of, kind: str) -> None:
    run = run_of(kind)
    common = (*SAMPLING, "inference.merge=false", "inference.compare=false")
    checkpoint = bench.generate(f"checkpoint-{kind}", f"adapter.weights={run}", *common)
    export = bench.generate(f"export-{kind}", f"adapter.weights={run / 'adapter'}", *common)
    assert same_pixels(checkpoint / "images" / "adapted", export / "images" / "adapted")


@pytest.mark.parametrize(
    "kind", ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("lora_text", "sdxl_text"))]
)
def test_rank_and_alpha_are_in_the_header(run_of, kind: str) -> None:
    with safe_open(run_of(kind) / "adapter" / "pytorch_lora_weights.safetensors", framework="pt") as opened:
        header = opened.metadata()
        components = {name.split(".", 1)[0] for name in opened.keys()}  # noqa: SIM118
    settings = json.loads(header["lora_adapter_metadata"])
    assert {name.split(".", 1)[0] for name in settings} == components
    for component in components:
        assert settings[f"{component}.r"] == 4
        assert settings[f"{component}.lora_alpha"] == 6


@pytest.mark.parametrize(
    ("kind", "merge"),
    [
        *(("lora", "true"), ("pivotal", "false")),
        *(
            pytest.param(kind, "true", marks=pytest.mark.slow)
            for kind in ("pivotal", "full", "lora_text", "dora", "loha", "lokr", "sdxl_pivotal")
        ),
        *(pytest.param(kind, "false", marks=pytest.mark.slow) for kind in ("lora", "full", "sdxl_text")),
    ],
)
def test_scale_0_without_the_embedding_is_the_base(bench: Bench, run_of, kind: str, merge: str) -> None:
    run = run_of(kind)
    for weights in (run / "adapter", run):
        folder = bench.generate(
            f"zero-{kind}-{merge}-{weights.name}",
            *(f"adapter.weights={weights}", "adapter.scale=0", "adapter.token_embedding=false"),
            *(f"inference.merge={merge}", *ONE_IMAGE),
        )
        assert same_pixels(folder / "images" / "base", folder / "images" / "adapted")


def test_the_embedding_alone_changes_images(bench: Bench, run_of) -> None:
    folder = bench.generate("embedding", f"adapter.weights={run_of('pivotal')}", "adapter.scale=0", *SAMPLING)
    assert not same_pixels(folder / "images" / "base", folder / "images" / "adapted")


class TestNames:
    """adapter.weights: all that it can be."""

    @pytest.fixture(scope="class")
    def generate(self, bench: Bench, run_of) -> Callable[..., tuple[dict[str, np.ndarray], str]]:
        run_of("lora")
        count = iter(range(99))

        def go(weights: Any, *more: str) -> tuple[dict[str, np.ndarray], str]:
            quick = (*ONE_IMAGE, "inference.compare=false", *more)
            folder = bench.generate(f"name-{next(count)}", f"adapter.weights={weights}", *quick)
            (path,) = (folder / "images" / "adapted").glob("*.png")
            return images(path.parent)[path.stem], parameters(path)["adapter"]

        return go

    @pytest.fixture(scope="class")
    def by_step(self, generate) -> list[np.ndarray]:
        """The image of each step's weights."""
        found = [generate(step, "adapter.run=lora") for step in (1, 2, 3, 4)]
        assert [name for _, name in found] == [f"lora step {step}" for step in (1, 2, 3, 4)]
        pixels = [image for image, _ in found]
        assert all(not np.array_equal(pixels[k], pixels[k + 1]) for k in range(3))
        return pixels

    def test_last(self, generate, by_step) -> None:
        image, name = generate("last", "adapter.run=lora")
        assert name == "lora step 4"
        np.testing.assert_array_equal(image, by_step[3])

    def test_checkpoint_folder(self, generate, by_step, run_of) -> None:
        image, name = generate(run_of("lora") / "checkpoints" / "step_00000002")
        assert name == "lora step 2"
        np.testing.assert_array_equal(image, by_step[1])

    def test_best_run_folder_adapter_folder_and_file(self, generate, by_step, run_of) -> None:
        run = run_of("lora")
        image, name = generate("best", "adapter.run=lora")
        step = int(name.removeprefix("lora step "))
        np.testing.assert_array_equal(image, by_step[step - 1])
        for weights in (run, run / "adapter", run / "adapter" / "pytorch_lora_weights.safetensors"):
            np.testing.assert_array_equal(generate(weights)[0], image, err_msg=str(weights))

    def test_a_file_away_from_its_run(self, generate, by_step, run_of, tmp_path: Path) -> None:
        """Its header says on which base model it was trained; nothing else is known of it."""
        file = tmp_path / "mine.safetensors"
        shutil.copy(run_of("lora") / "adapter" / "pytorch_lora_weights.safetensors", file)
        negative = "negative_prompt='blurry, low quality, deformed'"
        image, name = generate(file, negative)
        assert name == "mine.safetensors"
        np.testing.assert_array_equal(image, generate("best", "adapter.run=lora")[0])

    def test_a_step_that_is_not_there(self, generate, run_of) -> None:
        with pytest.raises(UserError, match="Kept are the steps 1, 2, 3, 4"):
            generate(7, "adapter.run=lora")


def test_unknown_before_any_training(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No trained adapter found .* sh train_run.sh"):
        Bench(root=bench.root, output_dir=tmp_path).generate("early")
