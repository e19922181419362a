"""From the configuration of a generation, and the run that trained the adapter, to what is generated."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from src.config.checks import parse_size
from src.config.schema import InferenceConfig, ModelConfig
from src.data.images import load_image, parse_colour
from src.errors import UserError
from src.files import read_json, sha256_file
from src.inference.compare import Judges, SamplingSettings
from src.inference.resolve import AdapterSource
from src.metrics.evaluate import measure_photos, words_for_clip
from src.metrics.features import ClipExtractor, DinoExtractor
from src.models.adapter_files import (
    MODEL_FOLDER,
    OUR_PREFIX,
    PEFT_FOLDER,
    find_adapter_files,
    read_adapter_header,
)
from src.models.base import DiffusionModel
from src.models.detect import Architecture
from src.models.locate import architecture_of

log = logging.getLogger(__name__)
_PHOTOS = 8


def base_model_config(config: InferenceConfig, source: AdapterSource) -> ModelConfig:
    """The base model: the configured one, or the one that the adapter was trained on.

    Raises:
        UserError: neither the configuration nor the adapter names one.
    """
    if config.model.path is not None:
        return config.model
    run = source.run_config()
    if run is not None:
        # What it suggests is for training.
        return ModelConfig(**{key: value for key, value in run["model"].items() if "suggested" not in key})
    header = _header(source.path)
    path = header.get("metadata", {}).get("darkroom.base_model")
    if not path:
        raise UserError(
            f"{source.path} does not say which base model it was trained on. Name it: model.path=<hub id, "
            "folder or .safetensors file>, or model=sd15 or model=sdxl."
        )
    return replace(config.model, path=path)


def base_architecture(base: ModelConfig) -> Architecture:
    """The base model's architecture, from its configurations or the keys of its file."""
    assert base.path is not None
    return architecture_of(
        base.path,
        architecture=base.architecture,  # type: ignore[arg-type]  # checked by the schema
        revision=base.revision,
        variant=base.variant,
    )


def warn_of_other_base(model: DiffusionModel, source: AdapterSource) -> None:
    """Says when the adapter was trained on other weights than those it is put on."""
    trained_on = _header(source.path).get("metadata", {}).get("darkroom.base_model_hash")
    if trained_on and trained_on != model.base_hash:
        log.warning(
            "The adapter was trained on another base model (hash %s) than this one (%s). It may work worse.",
            trained_on[:12],
            model.base_hash[:12],
        )


def use_prompt_chunks(config: InferenceConfig, source: AdapterSource, model: DiffusionModel) -> None:
    """Lets prompts be as long as configured, or as they were when the adapter was trained.

    What was trained with prompts in several chunks gets as many here, also of shorter prompts.
    """
    trained_with = _trained_chunks(source)
    long_prompts = config.model.long_prompts
    if long_prompts or (long_prompts is None and trained_with is not None):
        num_chunks = trained_with or 1
        model.use_chunks(num_chunks, max_chunks=max(num_chunks, config.model.max_prompt_chunks))
    elif trained_with is not None:
        log.warning(
            "The adapter was trained with long prompts (%d x %d tokens), and model.long_prompts=false. It "
            "may work worse; leave the key out to take what it was trained with.",
            trained_with,
            model.chunk_size,
        )


def _trained_chunks(source: AdapterSource) -> int | None:
    """Chunks of the prompts that an adapter was trained with; None without long prompts, or if unknown."""
    said = _header(source.path).get("metadata", {}).get(f"{OUR_PREFIX}prompt_chunks")
    if said is None and source.is_checkpoint and source.run_folder is not None:
        lineage = source.run_folder / "lineage.json"
        said = read_json(lineage).get("prompt_chunks") if lineage.is_file() else None
    return None if said is None else int(said)


def prompts_of(config: InferenceConfig, source: AdapterSource) -> list[str]:
    """The configured prompts, or those that the training run sampled.

    Raises:
        UserError: there are none.
    """
    run = source.run_config()
    prompts = config.prompts or (run["dataset"]["prompts"] if run is not None else [])
    if not prompts:
        raise UserError("Nothing to generate: set prompts, for example 'prompts=[\"a photo of a cat\"]'.")
    if len(set(prompts)) < len(prompts):
        raise UserError("A prompt stands twice in prompts. Raise num_images for more images of one prompt.")
    return list(prompts)


def sampling_settings(
    config: InferenceConfig, source: AdapterSource, *, native_resolution: int
) -> SamplingSettings:
    """How images are generated; what is not configured is as the adapter was trained."""
    run = source.run_config()
    dataset: dict[str, Any] = (
        run["dataset"] if run is not None else {"resolution": None, "negative_prompt": ""}
    )
    width, height = parse_size("dataset.resolution", dataset["resolution"] or native_resolution)
    negative = dataset["negative_prompt"] if config.negative_prompt is None else config.negative_prompt
    return SamplingSettings(
        negative_prompt=negative,
        num_images=config.num_images,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
        width=config.width or width,
        height=config.height or height,
        scheduler=config.inference.scheduler,
        batch_size=config.inference.batch_size,
    )


def clip_words(prompts: list[str], source: AdapterSource) -> list[str]:
    """The prompts as CLIP should read them, which does not know the placeholder."""
    run = source.run_config()
    if run is None:
        return prompts
    dataset = run["dataset"]
    return [
        words_for_clip(prompt, placeholder=dataset["placeholder"], class_word=dataset["class_word"])
        for prompt in prompts
    ]


def build_judges(
    source: AdapterSource, *, dino: DinoExtractor | None, clip: ClipExtractor | None, device: torch.device
) -> Judges:
    """The judging models and, while the run's held-out photos are there, what they are compared with."""
    for extractor in (dino, clip):
        if extractor is not None:
            extractor.to(device)
    run, held_out = source.run_config(), _held_out(source)
    if run is None or not held_out:
        return Judges(dino=dino, clip=clip)
    background = parse_colour(run["dataset"]["background"])
    photos = (load_image(path, background=background) for path in held_out)
    reference = measure_photos(photos, dino=dino, clip=clip)
    shown = [load_image(path, background=background) for path in held_out[:_PHOTOS]]
    return Judges(dino=dino, clip=clip, held_out=reference, photos=shown)


def _held_out(source: AdapterSource) -> list[Path]:
    """Held-out photos of the adapter's run that still have the content they had then."""
    if source.run_folder is None or not (source.run_folder / "lineage.json").is_file():
        return []
    files: dict[str, str] = read_json(source.run_folder / "lineage.json")["held_out_files"]
    found = [Path(name) for name, digest in files.items() if _has_content(Path(name), digest)]
    if len(found) < len(files):
        log.warning("%d of the %d held-out images are where they were.", len(found), len(files))
    return found


def _has_content(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _header(path: Path) -> dict[str, Any]:
    """The header of an adapter's file; nothing for a checkpoint, which has none."""
    if path.is_dir() and not any(
        (*path.glob("*.safetensors"), *path.glob(f"{MODEL_FOLDER}/"), *path.glob(f"{PEFT_FOLDER}/"))
    ):
        return {}
    if (path / "manifest.json").is_file():
        return {}
    return read_adapter_header(find_adapter_files(path).with_headers()[0])
