"""Loads a model from a hub id, a diffusers folder or a single file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from src.errors import UserError
from src.files import read_json
from src.models.base import DiffusionModel
from src.models.clip_vocabulary import write_clip_tokenizers
from src.models.detect import Architecture
from src.models.locate import CONFIGS, local_path, look_at
from src.models.quiet import quiet_libraries
from src.models.safetensors_header import read_header
from src.models.schedule import schedule_of
from src.models.sd15 import StableDiffusion15Denoiser, StableDiffusion15Model
from src.models.sdxl import StableDiffusionXLModel
from src.models.tokens import load_tokenizer
from src.models.weight_files import choose_in_folder, variants_to_try

_ENCODERS: dict[Architecture, tuple[str, ...]] = {
    "sd15": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
}
# What the libraries raise for files that are damaged or of another kind.
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, SingleFileComponentError)
_ENCODER_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def load_model(
    path: str,
    *,
    vae_path: str | None = None,
    architecture: Literal["auto", "sd15", "sdxl"] = "auto",
    revision: str | None = None,
    variant: str | None = None,
    torch_dtype: torch.dtype = torch.float32,
) -> DiffusionModel:
    """Loads a model, frozen and in eval mode, on the CPU.

    Args:
        path: hub id (`owner/name`), diffusers folder or single `.safetensors` file.
        vae_path: the same for another VAE.
        architecture: "auto" detects; anything else is checked against what is found.
        revision: of a hub id: branch, tag or commit.
        variant: of the weight files, such as "fp16"; "none" is the plain ones.
        torch_dtype: precision of the UNet and text encoders in memory. The VAE is always loaded in fp32.

    Raises:
        UserError: missing, damaged, unsupported, or another architecture than asked for.
    """
    place, found = look_at(path, architecture=architecture, revision=revision, variant=variant)
    variants = variants_to_try(variant, from_hub=not Path(path).exists())
    # What their warnings speak of, weights missing or too many, is checked here.
    with quiet_libraries(errors_only=True):
        parts = (
            _load_folder(place, found, variants, torch_dtype)
            if place.is_dir()
            else _load_single_file(place, found, torch_dtype)
        )
        if vae_path is not None:
            parts["vae"], parts["weight_files"]["vae"] = _load_vae(vae_path, found, variant)
    model = _assemble(found, parts)
    _check_vae(model, vae_path or path)
    return model


def _assemble(architecture: Architecture, parts: dict[str, Any]) -> DiffusionModel:
    unet, encoders = parts.pop("unet"), parts.pop("text_encoders")
    if architecture == "sdxl":
        return StableDiffusionXLModel(unet=unet, text_encoders=encoders, **parts)
    parts.pop("force_zeros_for_empty_prompt")
    return StableDiffusion15Model(
        denoiser=StableDiffusion15Denoiser(unet=unet, text_encoders=encoders), **parts
    )


def _load_folder(
    folder: Path, architecture: Architecture, variants: Sequence[str], dtype: torch.dtype
) -> dict[str, Any]:
    files: dict[str, list[Path]] = {}
    loaded: dict[str, Any] = {}
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    classes |= {name: _ENCODER_CLASSES[name] for name in _ENCODERS[architecture]}
    for name, component in classes.items():
        precision = torch.float32 if name == "vae" else dtype
        loaded[name], files[name] = _load_component(component, folder / name, variants, precision)
    tokenizers = [
        load_tokenizer(folder / name.replace("text_encoder", "tokenizer")) for name in _ENCODERS[architecture]
    ]
    return {
        "unet": loaded["unet"],
        "vae": loaded["vae"],
        "text_encoders": {name: loaded[name] for name in _ENCODERS[architecture]},
        "tokenizers": tokenizers,
        "scheduler_config": schedule_of(folder, architecture),
        "weight_files": files,
        "force_zeros_for_empty_prompt": _zeros_for_empty(folder),
    }


def _zeros_for_empty(folder: Path) -> bool:
    return bool(read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt", True))


def _load_component(
    component: Any, folder: Path, variants: Sequence[str], dtype: torch.dtype
) -> tuple[Any, list[Path]]:
    variant, files = choose_in_folder(folder, variants)
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
    try:
        loaded, report = component.from_pretrained(
            folder,
            variant=None if variant == "none" else variant,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{folder} cannot be loaded: {str(error).strip().splitlines()[0]} Copy or download it again."
        ) from error
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            raise UserError(
                f"{folder}: {len(report[kind])} {kind.replace('_', ' ')}, such as {sorted(report[kind])[0]}: "
                "its weights do not belong to its configuration. Copy or download it again."
            )
    return loaded, [*files, folder / "config.json"]


def _load_single_file(path: Path, architecture: Architecture, dtype: torch.dtype) -> dict[str, Any]:
    pipeline_class = StableDiffusionXLPipeline if architecture == "sdxl" else StableDiffusionPipeline
    names = _ENCODERS[architecture]
    with tempfile.TemporaryDirectory() as name:
        folder = _config_folder(Path(name), architecture)
        tokenizers = write_clip_tokenizers(folder, count=len(names))
        try:
            # By itself: with the rest it would come rounded to the rest's precision.
            vae = AutoencoderKL.from_single_file(
                str(path), config=str(folder / "vae"), local_files_only=True, torch_dtype=torch.float32
            )
            pipeline = pipeline_class.from_single_file(
                str(path), vae=vae, config=str(folder), local_files_only=True, torch_dtype=dtype
            )
        except _LOAD_ERRORS as error:
            raise UserError(
                f"{path} cannot be loaded: {str(error).strip().splitlines()[0]} Download or copy it again."
            ) from error
    for part in (pipeline.unet, vae, *(getattr(pipeline, name) for name in names)):
        if missing := [name for name, tensor in part.named_parameters() if tensor.is_meta]:
            raise UserError(f"{path} lacks weights, such as {missing[0]}. Download or copy it again.")
    encoders: dict[str, PreTrainedModel] = {name: getattr(pipeline, name) for name in names}
    configs = CONFIGS / architecture
    return {
        "unet": pipeline.unet,
        "vae": vae,
        "text_encoders": encoders,
        "tokenizers": tokenizers,
        "scheduler_config": schedule_of(path, architecture),
        "weight_files": {name: [path, configs / name / "config.json"] for name in ("unet", "vae", *names)},
        "force_zeros_for_empty_prompt": _zeros_for_empty(configs),
    }


def _config_folder(folder: Path, architecture: Architecture) -> Path:
    # A copy, because the tokenizers, too large for the package, are written beside the configurations.
    for source in (CONFIGS / architecture).rglob("*.json"):
        target = folder / source.relative_to(CONFIGS / architecture)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    return folder


def _load_vae(path: str, architecture: Architecture, variant: str | None) -> tuple[AutoencoderKL, list[Path]]:
    # The variant is meant for the base model's files; a VAE of its own often comes in one only.
    from_hub = not Path(path).exists()
    order = (*variants_to_try(variant, from_hub=from_hub), *variants_to_try(None, from_hub=from_hub))
    variants = tuple(dict.fromkeys(order))
    place = local_path(path, revision=None, variants=variants, key="model.vae_path")
    if place.is_dir():
        folder = place / "vae" if (place / "vae").is_dir() else place
        return _load_component(AutoencoderKL, folder, variants, torch.float32)
    read_header(place)
    config = CONFIGS / architecture / "vae"
    try:
        vae = AutoencoderKL.from_single_file(str(place), config=str(config), local_files_only=True)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{place} is no VAE for {architecture}: {str(error).strip().splitlines()[0]} Give another "
            "model.vae_path."
        ) from error
    return vae.float(), [place, config / "config.json"]


def _check_vae(model: DiffusionModel, path: str) -> None:
    if model.latent_channels != model.unet.config.in_channels:
        raise UserError(
            f"The VAE of {path} makes latents of {model.latent_channels} channels, the UNet takes "
            f"{model.unet.config.in_channels}. Give a VAE for {model.architecture} (model.vae_path)."
        )
