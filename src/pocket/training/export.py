"""Puts trained parts together to the folders that diffusers, timm and open_clip load, in fp16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel

from src.inference.generate import generate
from src.models.load import load_model
from src.pocket.make_evaluators import dino_settings, save_clip, save_evaluator
from src.pocket.make_models import RESOLUTION, make_scheduler, model_index, save_text_encoder
from src.pocket.training.clip import CLIP_CONTEXT, clip_config
from src.pocket.training.dino import ARCHITECTURE, dino_sizes

_COLUMNS = 6
_SAMPLE_PROMPTS = (
    "a photo of a red car in the grass",
    "a photo of a blue teapot on the beach",
    "a photo of a green robot in the snow",
    "a photo of a yellow duck on a wooden table",
    "a photo of a pink house on the street at night",
    "a photo of a white cat by the bookshelf",
    "a photo of a purple mushroom in the bathroom, close up",
    "a photo of a black chair on the bed, seen from above",
    "a photo of a brown boat on the sofa",
    "a photo of an orange flower by a brick wall, in warm evening light",
    "a pictogram of an orange rocket",
    "a pictogram of a blue cactus",
)


def export_generator(work: Path, folder: Path) -> None:
    """Writes the text-to-image model as a diffusers folder.

    Args:
        work: where the stages left their results.
        folder: made if need be.
    """
    AutoencoderKL.from_pretrained(work / "decoder" / "model").half().save_pretrained(folder / "vae")
    UNet2DConditionModel.from_pretrained(work / "toys" / "unet").half().save_pretrained(folder / "unet")
    save_text_encoder(CLIPTextModel.from_pretrained(work / "toys" / "text_encoder"), folder / "text_encoder")
    # As learned by the stage: what the text encoder was trained with, whatever the code says by now.
    shutil.copytree(work / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    make_scheduler().save_pretrained(folder / "scheduler")
    text = json.dumps(model_index("sd15"), indent=2, sort_keys=True)
    (folder / "model_index.json").write_text(text + "\n", encoding="utf-8")


def export_clip(work: Path, folder: Path) -> None:
    """Writes the judge of prompts as an open_clip folder."""
    sizes = clip_config(image_size=RESOLUTION, vocab_size=_num_words(work), context_length=CLIP_CONTEXT)
    save_clip(folder, sizes, _state(work / "clip"))
    shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)


def export_dino(work: Path, folder: Path) -> None:
    """Writes the judge of likeness as a timm folder."""
    settings = dino_settings(ARCHITECTURE, dino_sizes(RESOLUTION))
    save_evaluator(folder, "config.json", settings, "model.safetensors", _state(work / "dino"))


def draw_samples(folder: Path) -> None:
    """Writes samples.png: what the model draws for a few prompts, as its card shows it."""
    made = generate(
        load_model(str(folder)), prompts=_SAMPLE_PROMPTS, width=RESOLUTION, height=RESOLUTION, batch_size=8
    )
    sheet = Image.new("RGB", (_COLUMNS * RESOLUTION, len(made) // _COLUMNS * RESOLUTION))
    for k, each in enumerate(made):
        sheet.paste(each.image, (k % _COLUMNS * RESOLUTION, k // _COLUMNS * RESOLUTION))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(folder / "samples.png")


def _num_words(work: Path) -> int:
    return len(json.loads((work / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))


def _state(stage: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(stage / "model.pt", map_location="cpu", weights_only=True)
    return state
