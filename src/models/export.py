"""Saves what was trained in diffusers' own form, so that whatever reads diffusers adapters loads it."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from src.errors import UserError
from src.models.adapter_files import (
    EMBEDDING_FILE,
    KOHYA_FILE,
    LORA_FILE,
    LYCORIS_FILE,
    MODEL_FOLDER,
    OUR_PREFIX,
    PEFT_FOLDER,
    read_adapter_header,
)
from src.models.adapter_settings import method_of, only, peft_pattern, plain_alpha
from src.models.adapter_strength import merge_adapter, set_adapter_scale
from src.models.adapters import ADAPTER_NAME, adapter_layers
from src.models.apply import load_adapter
from src.models.base import DiffusionModel, is_own_weight
from src.models.dora import has_new_lengths, is_dora
from src.models.export_kohya import kohya_metadata, kohya_tensors
from src.models.export_pipeline import save_pipeline
from src.models.peft_folder import has_learned, save_peft
from src.models.token_embedding import token_embeddings
from src.models.write_tensors import write_tensors

__all__ = ["load_adapter", "merge_adapter", "read_adapter_header", "save_adapter", "set_adapter_scale"]

_LOG = logging.getLogger(__name__)
_EMBEDDING_KEYS = ("clip_l", "clip_g")


def save_adapter(model: DiffusionModel, folder: Path, *, metadata: Mapping[str, str]) -> list[Path]:
    """Writes the adapter: LoRA weights, the learned embedding, and a whole model where trained in full.

    Args:
        model: with what `attach` added.
        folder: made if need be; files in it are replaced one by one, each whole.
        metadata: short lineage strings for the files' headers.

    Returns:
        What was written: pytorch_lora_weights.safetensors and kohya_lora.safetensors, or peft/ and
        lycoris.safetensors (LoHa and LoKr); learned_embeds.safetensors; model/.

    Raises:
        UserError: weights that are not finite, or no space.
    """
    trained = {name: tensor for name, tensor in model.denoiser.named_parameters() if tensor.requires_grad}
    _require_finite(trained)
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    adapted = {name: component for name, component in components.items() if adapter_layers(component)}
    full = sorted({name.split(".", 1)[0] for name in trained if is_own_weight(name)})
    header = _header(model, metadata, adapted, full)
    written: list[Path] = []
    if adapted:
        written += _save_layers(model, folder, adapted, header)
    if token_embeddings(model):
        written.append(_save_embedding(model, folder / EMBEDDING_FILE, header))
    if full:
        written.append(save_pipeline(model, folder / MODEL_FOLDER, header, full))
    assert written, "save_adapter needs a model with something attached"
    return written


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"Not saved: {len(broken)} trained tensors hold NaN or infinity, such as {broken[0]}. Resume "
            "from an earlier checkpoint with a lower learning rate."
        )


def _header(
    model: DiffusionModel, metadata: Mapping[str, str], adapted: Mapping[str, nn.Module], full: list[str]
) -> dict[str, str]:
    ours = {"architecture": model.architecture, "base_model_hash": model.base_hash}
    if model.placeholder is not None:
        ours["placeholder"] = model.placeholder
    if full:
        ours["full"] = ",".join(full)
    if not model.schedule.is_own:
        # Other bases of its kind bring the right one; this adapter needs it changed.
        ours["prediction_type"] = model.prediction_type
        ours["zero_terminal_snr"] = str(model.schedule.has_zero_terminal_snr).lower()
    if model.max_chunks > 1:
        ours["prompt_chunks"] = str(model.num_chunks)
    if adapted:
        ours["method"] = _method(adapted)
    if adapted and not any(_has_learned(component) for component in adapted.values()):
        _LOG.warning(
            "The adapter has learned nothing: it is as it was before training, so it changes no image. Train "
            "for more steps or raise optimizer.lr."
        )
        ours["nothing_learned"] = "true"
    return {"format": "pt", **metadata, **{f"{OUR_PREFIX}{key}": value for key, value in ours.items()}}


def _method(adapted: Mapping[str, Any]) -> str:
    (method,) = {method_of(component.peft_config[ADAPTER_NAME]) for component in adapted.values()}
    return method


def _has_learned(component: Any) -> bool:
    if method_of(component.peft_config[ADAPTER_NAME]) in ("loha", "lokr"):
        return has_learned(component)
    layers: list[Any] = list(adapter_layers(component))
    return any(
        bool(layer.lora_B[ADAPTER_NAME].weight.any()) or (is_dora(layer) and has_new_lengths(layer))
        for layer in layers
    )


def _save_layers(
    model: DiffusionModel, folder: Path, adapted: Mapping[str, Any], header: Mapping[str, str]
) -> list[Path]:
    """The adapter in the form that it is loaded from here, and in kohya's."""
    is_lycoris = _method(adapted) in ("loha", "lokr")
    for_tools = folder / (LYCORIS_FILE if is_lycoris else KOHYA_FILE)
    if is_lycoris:
        save_peft(folder / PEFT_FOLDER, adapted, header)
        ours = folder / PEFT_FOLDER
    else:
        ours = _save_lora(model, folder / LORA_FILE, adapted, header)
    write_tensors(
        for_tools, kohya_tensors(model, adapted), {**header, **kohya_metadata(model, adapted, header)}
    )
    return [ours, for_tools]


def _save_lora(
    model: DiffusionModel, path: Path, adapted: Mapping[str, Any], header: Mapping[str, str]
) -> Path:
    arguments: dict[str, Any] = {}
    for name, component in adapted.items():
        # The UNet's layers keep peft's names (lora_A, lora_B). diffusers' older ones exist for attention
        # only, and its loader takes the first name for all: of a file of both kinds it drops one in silence.
        layers = get_peft_model_state_dict(component)
        if name != "unet":
            layers = convert_state_dict_to_diffusers(layers)
            # transformers loads DoRA's lengths under their whole name only, and leaves others out unasked.
            layers = {
                f"{key}.weight" if key.endswith(".lora_magnitude_vector") else key: value
                for key, value in layers.items()
            }
        if name == "text_encoder":
            # The published names; newer transformers have dropped the prefix, and loaders take both.
            layers = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in layers.items()}
        config = component.peft_config[ADAPTER_NAME]
        arguments[f"{name}_lora_layers"] = layers
        # Only what any version of peft knows; the rest is at its defaults.
        arguments[f"{name}_lora_adapter_metadata"] = {
            "r": config.r,
            "lora_alpha": plain_alpha(config),
            "lora_dropout": config.lora_dropout,
            "target_modules": sorted(config.target_modules),
            **({"use_dora": True} if config.use_dora else {}),
            **_patterns(component),
        }
    with tempfile.TemporaryDirectory() as name:
        type(model.pipeline()).save_lora_weights(name, weight_name=LORA_FILE, **arguments)
        file = Path(name) / LORA_FILE
        with safe_open(file, framework="pt") as opened:
            theirs = opened.metadata() or {}
        write_tensors(path, load_file(file), {**header, **theirs})
    return path


def _patterns(component: Any) -> dict[str, Any]:
    """Ranks and alphas of the layers that have others than their component; nothing where all are alike."""
    config = component.peft_config[ADAPTER_NAME]
    ranks, alphas = {}, {}
    for path, layer in component.named_modules():
        if isinstance(layer, LoraLayer):
            rank, alpha = only(layer.r), plain_alpha(config, layer)
            if rank != config.r:
                ranks[path] = rank
            if alpha != plain_alpha(config):
                alphas[path] = alpha
    patterns = {"rank_pattern": peft_pattern(ranks), "alpha_pattern": peft_pattern(alphas)}
    return {key: pattern for key, pattern in patterns.items() if pattern}


def _save_embedding(model: DiffusionModel, path: Path, header: Mapping[str, str]) -> Path:
    assert model.placeholder is not None
    rows = [embedding.rows.detach().cpu() for embedding in token_embeddings(model).values()]
    # One encoder: the token itself is the key, as diffusers reads it. Two: it is given them one by one.
    keys = (model.placeholder,) if len(rows) == 1 else _EMBEDDING_KEYS
    write_tensors(path, dict(zip(keys, rows, strict=True)), header)
    return path
