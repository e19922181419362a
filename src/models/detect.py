"""Which architecture a model on disk has, from its configurations or its keys and shapes. No torch here.

Two are supported. Everything else that people have on their disks is refused by its own name, because
"wrong architecture" helps nobody who does not know what the file is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from src.errors import UserError
from src.files import read_json
from src.models.safetensors_header import read_header

Architecture = Literal["sd15", "sdxl"]
Shapes = Mapping[str, tuple[int, ...]]

SUPPORTED = "Supported: Stable Diffusion 1.x (1.5) and SDXL base models"
_PICKLES = (".ckpt", ".bin", ".pt", ".pth")
_UNET = "model.diffusion_model."
_CROSS_SD = _UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_CROSS_XL = _UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_VAE = "first_stage_model.decoder.conv_in.weight"

# Keys that a single file must have, and their shapes: what diffusers' converters need to build the model.
_REQUIRED: dict[Architecture, dict[str, tuple[int, ...]]] = {
    "sd15": {
        _UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
        _CROSS_SD: (320, 768),
        _UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        _UNET + "out.2.weight": (4, 320, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        _VAE: (512, 4, 3, 3),
    },
    "sdxl": {
        _UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
        _CROSS_XL: (640, 2048),
        _UNET + "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        _UNET + "middle_block.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        _UNET + "label_emb.0.0.weight": (1280, 2816),
        _UNET + "out.2.weight": (4, 320, 3, 3),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
        _VAE: (512, 4, 3, 3),
    },
}


def _has(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes for part in parts)


def _starts(*starts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name.startswith(starts) for name in shapes)


def _dimension(key: str, axis: int, size: int) -> Callable[[Shapes], bool]:
    return lambda shapes: len(shapes.get(key, ())) > axis and shapes[key][axis] == size


# In this order: what a file is by its most telling keys.
_REFUSED: tuple[tuple[str, Callable[[Shapes], bool]], ...] = (
    ("an adapter file (LoRA), not a base model", _has("lora_", ".lora.", "hada_w", "lokr_w", "lora_A.")),
    ("a token embedding, not a base model", lambda s: bool({"emb_params", "clip_l", "clip_g"} & set(s))),
    ("a ControlNet", _has("control_model.", "controlnet_cond_embedding", "input_hint_block")),
    ("Stable Diffusion 3", _has("joint_blocks.")),
    ("FLUX", _has("double_blocks.", "single_transformer_blocks.")),
    ("an LCM (latent consistency) model", _has("time_embed.cond_proj", "time_embedding.cond_proj")),
    ("an inpainting model (9 input channels)", _dimension(_UNET + "input_blocks.0.0.weight", 1, 9)),
    ("an InstructPix2Pix model (8 input channels)", _dimension(_UNET + "input_blocks.0.0.weight", 1, 8)),
    ("a depth-conditioned model (5 input channels)", _dimension(_UNET + "input_blocks.0.0.weight", 1, 5)),
    ("Stable Diffusion 2.x", _dimension(_CROSS_SD, 1, 1024)),
    ("the SDXL refiner", _dimension(_CROSS_XL, 1, 1280)),
    ("a bare VAE", lambda s: "decoder.conv_in.weight" in s and "encoder.conv_in.weight" in s),
    (
        "one part of a diffusers folder (give the folder itself)",
        _starts("down_blocks.", "encoder.", "text_model."),
    ),
)

_REFUSED_CLASSES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "FLUX",
    "LatentConsistencyModel": "an LCM (latent consistency) model",
    "InstructPix2Pix": "an InstructPix2Pix model",
    "Inpaint": "an inpainting model",
}


def detect_single_file(path: Path) -> Architecture:
    """The architecture of a single-file checkpoint, from required keys and shapes.

    Raises:
        UserError: a pickle, a damaged file, or a model that is not supported, by its name.
    """
    _refuse_pickle(path)
    shapes = read_header(path).shapes
    for architecture, required in _REQUIRED.items():
        if all(shapes.get(key) == shape for key, shape in required.items()):
            _refuse(path, shapes)
            return architecture
    _refuse(path, shapes)
    raise UserError(f"{path}: {_what_is_missing(shapes)}. {SUPPORTED}.")


def _refuse(path: Path, shapes: Shapes) -> None:
    for name, applies in _REFUSED:
        if applies(shapes):
            raise unsupported(path, name)


def _what_is_missing(shapes: Shapes) -> str:
    def matches(architecture: Architecture) -> int:
        return sum(shapes.get(key) == shape for key, shape in _REQUIRED[architecture].items())

    nearest: Architecture = max(_REQUIRED, key=matches)
    if matches(nearest) < 3:
        return "its keys belong to no architecture known here"
    different = [key for key, shape in _REQUIRED[nearest].items() if shapes.get(key) != shape]
    return (
        f"nearly {nearest}, but {different[0]} is missing or has another shape (a pruned or partial model?)"
    )


def detect_folder(folder: Path) -> Architecture:
    """The architecture of a diffusers folder, from its configurations.

    SDXL has text_time conditioning and two text encoders; SD1.x one CLIP text encoder, no added conditioning;
    both take as many latent channels as they give.

    Raises:
        UserError: no diffusers folder, or a model that is not supported, by its name.
    """
    if (folder / "adapter_config.json").exists() or (folder / "pytorch_lora_weights.safetensors").exists():
        raise unsupported(folder, "an adapter (LoRA), not a base model")
    class_name = str(_config(folder, "model_index.json").get("_class_name", ""))
    if not (folder / "unet" / "config.json").exists():
        raise unsupported(folder, _class_name_in_words(class_name) or f"a {class_name} without a UNet")
    unet = _config(folder, "unet/config.json")
    widths = _text_encoder_widths(folder)
    name = _unsupported_unet(unet, widths) or _class_name_in_words(class_name)
    if name:
        raise unsupported(folder, name)
    is_xl = unet.get("addition_embed_type") == "text_time"
    expected = ["text_encoder", "text_encoder_2"] if is_xl else ["text_encoder"]
    # None marks an encoder that is not CLIP's: its widths say nothing to us.
    if list(widths) != expected or None in widths.values():
        raise unsupported(folder, f"a model with text encoders of another kind ({_in_words(widths)})")
    total = sum(width or 0 for width in widths.values())
    if total != unet["cross_attention_dim"]:
        raise UserError(
            f"{folder}: the UNet expects text of width {unet['cross_attention_dim']}, its text encoders give "
            f"{total}. The parts are of different models; copy or download the folder again."
        )
    return "sdxl" if is_xl else "sd15"


def _unsupported_unet(unet: Mapping[str, Any], widths: Mapping[str, int | None]) -> str | None:
    channels = {9: "an inpainting model", 8: "an InstructPix2Pix model", 5: "a depth-conditioned model"}
    num_channels = unet.get("in_channels", 4)
    # More in than out: a picture or mask comes in beside the latents. As many of both is only another VAE.
    if num_channels != unet.get("out_channels", 4):
        return f"{channels.get(num_channels, 'a model')} ({num_channels} input channels)"
    if unet.get("time_cond_proj_dim") is not None:
        return "an LCM (latent consistency) model"
    if unet.get("addition_embed_type") == "text_time":
        return "the SDXL refiner" if "text_encoder" not in widths else None
    if unet.get("cross_attention_dim") == 1024:
        return "Stable Diffusion 2.x"
    if unet.get("addition_embed_type") is not None or unet.get("class_embed_type") is not None:
        return "a UNet with conditioning of another kind"
    return None


def _text_encoder_widths(folder: Path) -> dict[str, int | None]:
    widths: dict[str, int | None] = {}
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if (folder / name / "config.json").exists():
            config = _config(folder, f"{name}/config.json")
            is_clip = str(config.get("model_type", "")).startswith("clip_text_model")
            widths[name] = config.get("hidden_size") if is_clip else None
    return widths


def _class_name_in_words(class_name: str) -> str | None:
    return next((words for part, words in _REFUSED_CLASSES.items() if part in class_name), None)


def _in_words(widths: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} {width or 'not CLIP'}" for name, width in widths.items()) or "none"


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{folder} is no diffusers model folder: {name} is missing. Give a folder with model_index.json, "
            "a single .safetensors file or a hub id (owner/name)."
        )
    try:
        config = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Download or copy it again.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: no JSON object. Download or copy it again.")
    return config


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise UserError(
            f"{path} is a pickle file, which can run code when it is opened. Convert it to .safetensors "
            "first (diffusers' save_pretrained, or any checkpoint converter) and give that file."
        )


def unsupported(path: Path, name: str) -> UserError:
    """The error for a model that was recognised and cannot be used."""
    return UserError(f"{path} is {name}, which cannot be trained here. {SUPPORTED}.")
