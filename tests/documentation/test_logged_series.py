"""docs/clearml.md names what is logged."""

import re

import pytest
import yaml

from src.callbacks.samples import SampleImages
from src.config.build import check_config, plain, register
from src.config.cli import CONFIG_DIR, Job
from src.config.composition import Root, compose_root
from src.run.training import run_training
from tests.documentation.pages import inline, tables, text_of

COMPONENTS = {
    "unet_lora",
    "unet",
    "text_encoder_lora",
    "text_encoder",
    "text_encoder_2_lora",
    "text_encoder_2",
}


def documented_series() -> dict[str, set[str]]:
    """Title to series, from the table of docs/clearml.md."""
    (table,) = [table for table in tables(text_of("docs/clearml.md")) if "Series" in table[0]]
    found: dict[str, set[str]] = {}
    titles: list[str] = []
    for row in table:
        named = re.findall(r"`([^`]+)`", row["Title"])
        if row["Title"] == "both":
            titles = [title for title in found if "<label>" in title]
        elif named:
            titles = named
        series = set(re.findall(r"`([^`]+)`", row["Series"]))
        if row["Series"] == "the same components":
            series = found["grad_norm"] - {"total"}
        for title in titles:
            found.setdefault(title, set()).update(series)
    return found


@pytest.mark.slow
def test_what_is_documented_is_logged(tmp_path):
    overrides = [
        f"paths.output_dir={tmp_path}",
        "logger=[]",
        "trainer.max_steps=2",
        "trainer.max_validation_images=2",
        "trainer.num_validation_timesteps=2",
        "trainer.prior_loss_weight=1",
        "dataset.class_images.num=2",
        "dataset.class_images.num_steps=1",
        "dataset.class_images.batch_size=2",
        "adapter.text_encoder=lora",
        "adapter.token_embedding=train",
        "callbacks.samples.num_steps=2",
        "callbacks.machine_load.seconds_between_samples=0.05",
        "run.name=documented",
    ]
    register()
    config = compose_root(Root(name="train", folder=CONFIG_DIR), overrides)
    checked = check_config(config)
    job = Job(
        run_dir=tmp_path / "run",
        name="documented",
        resolved=plain(config),
        overrides=overrides,
        in_sweep=False,
    )
    outcome = run_training(checked, job)
    assert outcome.exit_code == 0
    events = [yaml.safe_load(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {
        re.sub(r"\[.*\]", "[<label>]", key)
        for event in events
        if event["kind"] == "scalars"
        for key in event["scalars"]
    }
    documented = {f"{title}/{series}" for title, names in documented_series().items() for series in names}
    assert logged - documented == set()
    not_here = {
        name for name in documented if "gpu<n>" in name or "/gpu_" in name or name.endswith("/gap_closed")
    }
    not_here |= {f"{title}/{name}" for title in ("grad_norm", "lr") for name in COMPONENTS}
    not_here.add("prodigy/d")  # with optimizer=prodigy only
    not_here.add("gradient_scaling/skipped_steps")  # with fp16 only, and that needs a GPU
    assert documented - logged - not_here == set()
    page = text_of("docs/clearml.md")
    for kind, name in {
        (e["kind"], e.get("title") or e.get("name")) for e in events if e["kind"] != "scalars"
    }:
        if kind in ("image", "curve", "table", "artifact", "model"):
            assert f"`{name}`" in page, f"{kind} {name}"
    assert {file.name for file in (tmp_path / "run").iterdir()} - {"tensorboard", "clearml"} <= {
        name.strip("/`") for span in inline(text_of("README.md")) for name in span.split()
    }


def test_sample_settings_are_documented():
    import inspect

    runtime = {"prompts", "clip_prompts", "negative_prompt", "resolution", "held_out", "held_out_captions"}
    runtime |= {"load_image", "dino", "clip", "self"}
    page = text_of("docs/configuration.md")
    settings = set(inspect.signature(SampleImages.__init__).parameters) - runtime
    assert {name for name in settings if f"`callbacks.samples.{name}`" not in page} == set()
