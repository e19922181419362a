"""Small judges of images: a DINO-like ViT and a CLIP, with random weights, that need no hub.

They are real timm and open_clip models in the form that both libraries write themselves, so tests with them
take the same path as with the real judges. Random networks keep some likeness between images, no more. The
judges of assets/pocket are trained instead (src.pocket.training).

    python -m src.pocket.make_evaluators --out <folder>
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

from src.pocket.make_models import RESOLUTION, smooth_images
from src.pocket.tokenizer import MODEL_MAX_LENGTH, vocabulary, write_tokenizer
from src.randomness import forked_rng

_NUM_CALIBRATION_IMAGES = 64
_NORMALISE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
_DINO_ARCHITECTURE = "vit_tiny_patch16_224"
_DINO_SIZES: dict[str, Any] = {
    "img_size": RESOLUTION,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
}
_CAPTIONS = (
    "a photo of a toy on a wooden table",
    "a painting of a red car in the snow",
    "two dogs playing in the garden",
    "a black and white pictogram of a house",
    "a blue cup on a shelf near a window",
    "a child with a book on the beach",
    "a bird in the sky above the sea",
    "a green robot under a yellow chair",
)


def make_dino(folder: Path, *, seed: int = 0) -> None:
    """Writes a timm folder (config.json, model.safetensors in fp16); the same seed gives the same bytes."""
    with forked_rng(seed, "pocket", "dino"):
        model: Any = timm.create_model(_DINO_ARCHITECTURE, pretrained=False, num_classes=0, **_DINO_SIZES)
        _spread(model)
    model.eval()
    images = smooth_images(_NUM_CALIBRATION_IMAGES, RESOLUTION, seed)
    with torch.no_grad():
        _centre(model.norm, torch.eye(model.num_features), model(images))
    config = dino_settings(_DINO_ARCHITECTURE, _DINO_SIZES)
    save_evaluator(folder, "config.json", config, "model.safetensors", model.state_dict())


def make_clip(folder: Path, *, seed: int = 0) -> None:
    """Writes an open_clip folder with a tokenizer of its own; the same seed gives the same bytes."""
    sizes = _clip_sizes()
    with forked_rng(seed, "pocket", "clip"):
        model = open_clip.CLIP(**sizes)
        _spread(model)
    model.eval()
    # open_clip finds a tokenizer through the configuration beside it.
    save_clip(folder, sizes, model.state_dict())
    write_tokenizer(folder)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(_CAPTIONS))
    images = smooth_images(_NUM_CALIBRATION_IMAGES, RESOLUTION, seed)
    with torch.no_grad():
        _centre(model.visual.ln_post, model.visual.proj, model.encode_image(images))
        _centre(model.ln_final, model.text_projection, model.encode_text(tokens))
    save_clip(folder, sizes, model.state_dict())


def save_clip(folder: Path, sizes: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Writes an open_clip folder, all but its tokenizer."""
    save_evaluator(
        folder, "open_clip_config.json", clip_settings(sizes), "open_clip_model.safetensors", state
    )


def dino_settings(architecture: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """timm's config.json of a judge of likeness: its sizes, and how images are prepared for it."""
    return {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": dict(sizes),
        "pretrained_cfg": {
            **_NORMALISE,
            "input_size": [3, sizes["img_size"], sizes["img_size"]],
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def clip_settings(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's configuration file of a judge of prompts."""
    return {"model_cfg": dict(sizes), "preprocess_cfg": {**_NORMALISE, "resize_mode": "shortest"}}


def _clip_sizes() -> dict[str, Any]:
    tokens, _ = vocabulary()
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": RESOLUTION,
            "layers": 4,
            "width": 96,
            "head_width": 24,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": MODEL_MAX_LENGTH,
            "vocab_size": len(tokens),
            # Any name makes open_clip read the tokenizer beside the weights. The pocket vocabulary
            # instead of CLIP's 49,408 entries keeps the folder small.
            "hf_tokenizer_name": "pocket",
            "width": 64,
            "heads": 4,
            "layers": 3,
        },
    }


def _spread(model: nn.Module) -> None:
    """Weights that keep a signal's size, so that features differ from image to image.

    The libraries' own start is nearly flat: every image would have the same features.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("weight", "in_proj_weight") and parameter.ndim >= 2:
                fan_in = 1 if isinstance(module, nn.Embedding) else parameter[0].numel()
                nn.init.normal_(parameter, std=fan_in**-0.5)


@torch.no_grad()
def _centre(norm: nn.Module, projection: Tensor, features: Tensor) -> None:
    """Moves the last norm's bias so that the average image or text has a feature of zero.

    Untrained features all point the same way; without this every cosine would be near one.
    """
    shift = features.double().mean(dim=0) @ torch.linalg.pinv(projection.double())
    bias = norm.bias
    assert isinstance(bias, Tensor)
    bias -= shift.to(bias.dtype)


def save_evaluator(
    folder: Path, config_name: str, config: Mapping[str, Any], weights_name: str, state: Mapping[str, Tensor]
) -> None:
    """Writes a judge's configuration and its weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in state.items()}
    # Not `save_file`: it makes files that only their owner may read.
    (folder / weights_name).write_bytes(save(weights, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / config_name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Writes both evaluators."""
    parser = argparse.ArgumentParser(description="Write the pocket DINO and CLIP (random weights).")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets dino/ and clip/")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_dino(arguments.out / "dino", seed=arguments.seed)
    make_clip(arguments.out / "clip", seed=arguments.seed)
    for name in ("dino", "clip"):
        size = sum(file.stat().st_size for file in (arguments.out / name).iterdir())
        print(f"{arguments.out / name}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
