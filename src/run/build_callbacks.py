"""From the configuration to the observers of a run."""

import functools
from typing import Any

from src.callbacks.base import Callback
from src.config.schema import MetricsConfig, TrainConfig
from src.config.targets import build
from src.data.images import load_image, parse_colour
from src.metrics.evaluate import words_for_clip
from src.run.build_data import PreparedData


def build_extractors(config: MetricsConfig) -> dict[str, Any]:
    """The judging models by name; None where switched off."""
    return {
        "dino": build("metrics.dino", config.dino) if config.dino else None,
        "clip": build("metrics.clip", config.clip) if config.clip else None,
    }


def build_callbacks(config: TrainConfig, data: PreparedData, *, size: tuple[int, int]) -> list[Callback]:
    """All chosen callbacks, each with those of the run's values that it asks for."""
    chosen = {name: block for name, block in config.callbacks.items() if block is not None}
    dataset, held_out = config.dataset, data.split.validation
    background = parse_colour(dataset.background)
    for_clip = functools.partial(
        words_for_clip, placeholder=dataset.placeholder, class_word=dataset.class_word
    )
    runtime: dict[str, Any] = {
        "prompts": dataset.prompts,
        "clip_prompts": [for_clip(prompt) for prompt in dataset.prompts],
        "negative_prompt": dataset.negative_prompt,
        "resolution": size,
        "held_out": [record.path for record in held_out],
        "held_out_captions": [for_clip(record.caption) for record in held_out],
        "load_image": functools.partial(load_image, background=background),
    }
    if any(block["_target_"].endswith(".SampleImages") for block in chosen.values()):
        runtime |= build_extractors(config.metrics)
    return [build("callbacks", block, **runtime) for block in chosen.values()]
