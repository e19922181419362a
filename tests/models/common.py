"""What the tests of the models share."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from src.models.adapters import AdapterSettings, TrainableGroup, attach
from src.models.base import DiffusionModel
from src.models.load import load_model
from src.models.quiet import quiet_libraries


def plain_pipeline(folder: Path) -> DiffusionPipeline:
    """Plain diffusers, with the sampler that is our default."""
    with quiet_libraries():
        pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pixels(pipeline: DiffusionPipeline, prompt: str = "a photo of sksToy"):
    return pipeline(
        prompt, num_inference_steps=2, generator=torch.manual_seed(0), output_type="np", guidance_scale=5.0
    ).images


def sizes(num: int) -> dict[str, torch.Tensor]:
    return {
        "original_sizes": torch.tensor([[80, 70]] * num),
        "crop_top_lefts": torch.tensor([[3, 5]] * num),
        "target_sizes": torch.tensor([[64, 64]] * num),
    }


def settings_for(architecture: str, **changes) -> AdapterSettings:
    """LoRA on everything and a trained token, alpha unlike rank."""
    values = {
        "text_encoder": "lora",
        "text_encoder_2": "lora" if architecture == "sdxl" else "frozen",
        "token_embedding": "train",
        "rank": 4,
        "alpha": 6.0,
        "placeholder": "sksToy",
        "initializer_word": "toy",
    }
    return AdapterSettings(**{**values, **changes})


def trained(folder: Path, **changes) -> tuple[DiffusionModel, list[TrainableGroup]]:
    """A pocket model with everything attached and moved away from its start, as training would."""
    model = load_model(str(folder))
    groups = attach(model, settings_for(folder.name, **changes), seed=1)
    move(groups)
    return model, groups


@torch.no_grad()
def move(groups: list[TrainableGroup]) -> None:
    generator = torch.Generator().manual_seed(3)
    for group in groups:
        spread = {"lora": 0.05, "full": 0.01, "embedding": 0.3}[group.kind]
        for _, parameter in group.parameters:
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
