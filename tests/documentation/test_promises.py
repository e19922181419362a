"""What the pages say in passing is what the program does."""

import re

import pytest
import yaml

from src.config.cli import CONFIG_DIR
from src.data.readers.arasaac import CREDIT
from src.data.readers.common import IMAGE_SUFFIXES
from src.inference.generate import plan_images
from src.models import detect
from tests.documentation.pages import composed, tables, text_of


@pytest.mark.parametrize("file", sorted((CONFIG_DIR / "dataset").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_negative_prompt_of_each_dataset(file):
    rows = [
        row for table in tables(text_of("docs/inference.md")) for row in table if "Negative prompt" in row
    ]
    documented = {row["Dataset"].strip("`"): row["Negative prompt"].strip("`") for row in rows}
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert documented[f"dataset={file.stem}"] == content["negative_prompt"]


def test_the_parameters_in_a_png():
    page = text_of("docs/inference.md").partition("## In each PNG")[2]
    settings = {"negative_prompt": "", "num_steps": 1, "guidance_scale": 1.0, "scheduler": "ddim"}
    (params,) = plan_images(prompts=["a"], num_images=1, seed=0, width=8, height=8, **settings)
    assert [name for name in params if f"`{name}`" not in page] == []


def test_the_default_caption_and_the_split_file():
    page = text_of("docs/data.md")
    assert f"`{composed('train')['dataset']['reader']['default_caption']}`" in page
    split = re.search(r"data/splits/<dataset.name>-<[^>]+>/(\S+)", page)
    assert split is not None
    assert split[1] == "split_seed0_validation0.2.json"
    assert {".heic", ".jpg", ".png", ".webp"} <= {s for s in IMAGE_SUFFIXES if f"`{s}`" in page}


def test_the_credit_line_of_pictograms():
    assert CREDIT in " ".join(text_of("docs/data.md").replace("\n> ", " ").split())


def test_what_is_refused_as_a_base_model():
    page = text_of("docs/models.md").replace("\n  ", " ")
    names = [*(name for name, _ in detect._REFUSED), *detect._REFUSED_CLASSES.values()]
    assert [name for name in names if re.split(r" \(|,", name)[0] not in page] == []
    assert [suffix for suffix in detect._PICKLES if f"`{suffix}`" not in page] == []


def test_the_labels_of_the_judges():
    page = text_of("docs/metrics.md")
    for option in ("default", "full"):
        judges = composed("train", f"metrics={option}")["metrics"]
        for name in ("dino", "clip"):
            assert f"`{judges[name]['label']}`" in page
