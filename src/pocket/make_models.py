"""The pocket models: complete Stable Diffusion 1.5 and SDXL in miniature, with random weights.

Every part is the real class from diffusers and transformers, only smaller, in an ordinary diffusers folder of
about 2 MB, so whatever works with a pocket model takes the same path as with the real one.

    python -m src.pocket.make_models --out <folder>
"""

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from src.pocket.tokenizer import END, MODEL_MAX_LENGTH, START, vocabulary, write_tokenizer
from src.randomness import forked_rng, generator

_CARD = """---
license: apache-2.0
library_name: diffusers
---

# A Stable Diffusion in miniature with random weights

The classes and the layout of the real one, small, in fp16. It was not trained on anything: it shows that
a path through the code works, and its pictures are noise. Made again by `python -m
src.pocket.make_models --out <folder>`.
"""
Architecture = Literal["sd15", "sdxl"]
RESOLUTION = 64
LATENT_SIZE = RESOLUTION // 4
# Nearly no noise in the posterior of an untrained encoder: with default weights its standard deviation would
# be about one and drown the image.
_INITIAL_LOG_VARIANCE = -6.0

_UNET: dict[Architecture, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (24, 32, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 48,
        "attention_head_dim": 4,
    },
    "sdxl": {
        "block_out_channels": (24, 24, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32 + 48,
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 6 * 16 + 48,
    },
}
_TEXT_SIZES: dict[Architecture, tuple[int, ...]] = {"sd15": (48,), "sdxl": (32, 48)}


def make_pocket(folder: Path, *, architecture: Architecture, seed: int = 0) -> None:
    """Writes a pocket model as a diffusers folder (fp16 safetensors); the same seed gives the same bytes.

    Args:
        folder: where to; made if need be.
        architecture: "sd15" or "sdxl".
        seed: of the random weights.
    """
    with forked_rng(seed, "pocket", architecture):
        unet = _make_unet(architecture)
        vae = _make_vae(seed)
        encoders = [
            _make_text_encoder(architecture, index) for index in range(len(_TEXT_SIZES[architecture]))
        ]
    unet.half().save_pretrained(folder / "unet")
    vae.half().save_pretrained(folder / "vae")
    for index, encoder in enumerate(encoders):
        suffix = "" if index == 0 else f"_{index + 1}"
        save_text_encoder(encoder, folder / f"text_encoder{suffix}")
        write_tokenizer(folder / f"tokenizer{suffix}", pad_token="!" if index else END)
    make_scheduler().save_pretrained(folder / "scheduler")
    text = json.dumps(model_index(architecture), indent=2, sort_keys=True)
    (folder / "model_index.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")


def _make_unet(architecture: Architecture) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE, layers_per_block=1, norm_num_groups=8, **_UNET[architecture]
    ).eval()


def _make_vae(seed: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(16, 24, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        force_upcast=False,
    ).eval()
    convolution = vae.quant_conv
    assert convolution is not None
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight[4:] *= 0.0
        convolution.bias[4:] = _INITIAL_LOG_VARIANCE
        spread = vae.encode(smooth_images(16, RESOLUTION, seed)).latent_dist.mean.std().item()
    # Four digits: a CPU that rounds the sum differently still gives the same folder.
    vae.register_to_config(scaling_factor=float(f"{1 / spread:.4g}"))
    return vae


def _make_text_encoder(architecture: Architecture, index: int) -> CLIPTextModel | CLIPTextModelWithProjection:
    tokens, _ = vocabulary()
    size = _TEXT_SIZES[architecture][index]
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=size,
        intermediate_size=4 * size,
        projection_dim=size,
        num_hidden_layers=2,
        num_attention_heads=size // 16,
        max_position_embeddings=MODEL_MAX_LENGTH,
        hidden_act="gelu" if index else "quick_gelu",
        bos_token_id=tokens[START],
        eos_token_id=tokens[END],
        pad_token_id=tokens["!"] if index else tokens[END],
    )
    return (CLIPTextModelWithProjection if index else CLIPTextModel)(config).eval()


def save_text_encoder(encoder: CLIPTextModel | CLIPTextModelWithProjection, folder: Path) -> None:
    """Writes a text encoder in fp16, in a form that old and new transformers read."""
    folder.mkdir(parents=True, exist_ok=True)
    # The published files' names; older transformers know only these, newer ones both.
    weights = {
        name if name.startswith("text_") else f"text_model.{name}": tensor.half().contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # transformers loads in the precision that the configuration names, diffusers in fp32; a pipeline needs
    # both to agree when nobody asks for a precision.
    encoder.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"architectures": [type(encoder).__name__], "dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_scheduler() -> DDPMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="epsilon",
        steps_offset=1,
        timestep_spacing="leading",
    )


def model_index(architecture: Architecture) -> dict[str, Any]:
    """What diffusers reads first: the parts and their classes."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline" if architecture == "sd15" else "StableDiffusionXLPipeline",
        "_diffusers_version": diffusers_version,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if architecture == "sd15":
        return {**index, "requires_safety_checker": False, "safety_checker": [None, None]}
    return {
        **index,
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def smooth_images(num_images: int, size: int, seed: int) -> Float[Tensor, "n 3 size size"]:
    """Images in [-1, 1] with detail at every scale, as photographs have it: noise added up over octaves."""
    images = torch.zeros(num_images, 3, size, size)
    for octave in (2, 4, 8, 16, 32):
        noise = torch.randn(num_images, 3, octave, octave, generator=generator(seed, "smooth", octave))
        layer = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
        images += layer / octave**0.5
    return images.tanh()


def main() -> None:
    """Writes both pocket models."""
    parser = argparse.ArgumentParser(description="Write the pocket models (random weights).")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets sd15/ and sdxl/")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    architectures: tuple[Architecture, ...] = ("sd15", "sdxl")
    for architecture in architectures:
        folder = arguments.out / architecture
        card = folder / "README.md"
        if card.exists() and card.read_text(encoding="utf-8") != _CARD:
            parser.error(f"{folder} holds another model, which would be lost. Give another --out.")
        make_pocket(folder, architecture=architecture, seed=arguments.seed)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
