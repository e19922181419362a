"""Puts trained parts together to the folders that diffusers, timm and open_clip load, in fp16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from src.pocket.make_evaluators import clip_settings, dino_settings, save_evaluator
from src.pocket.make_models import RESOLUTION, make_scheduler, model_index, save_text_encoder
from src.pocket.tokenizer import vocabulary, write_tokenizer
from src.pocket.training.clip import CLIP_CONTEXT, clip_config
from src.pocket.training.dino import ARCHITECTURE, dino_sizes


def export_generator(work: Path, folder: Path) -> None:
    """Writes the text-to-image model as a diffusers folder.

    Args:
        work: where the stages left their results.
        folder: made if need be.
    """
    AutoencoderKL.from_pretrained(work / "vae" / "model").half().save_pretrained(folder / "vae")
    UNet2DConditionModel.from_pretrained(work / "denoiser" / "unet").half().save_pretrained(folder / "unet")
    save_text_encoder(
        CLIPTextModel.from_pretrained(work / "denoiser" / "text_encoder"), folder / "text_encoder"
    )
    # As learned by the stage: what the text encoder was trained with, whatever the code says by now.
    shutil.copytree(work / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    make_scheduler().save_pretrained(folder / "scheduler")
    text = json.dumps(model_index("sd15"), indent=2, sort_keys=True)
    (folder / "model_index.json").write_text(text + "\n", encoding="utf-8")


def export_clip(work: Path, folder: Path) -> None:
    """Writes the judge of prompts as an open_clip folder."""
    sizes = clip_config(image_size=RESOLUTION, vocab_size=len(vocabulary()[0]), context_length=CLIP_CONTEXT)
    save_evaluator(
        folder,
        "open_clip_config.json",
        clip_settings(sizes),
        "open_clip_model.safetensors",
        _state(work / "clip"),
    )
    shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)


def export_dino(work: Path, folder: Path) -> None:
    """Writes the judge of likeness as a timm folder."""
    settings = dino_settings(ARCHITECTURE, dino_sizes(RESOLUTION))
    save_evaluator(folder, "config.json", settings, "model.safetensors", _state(work / "dino"))


def _state(stage: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(stage / "model.pt", map_location="cpu", weights_only=True)
    return state
