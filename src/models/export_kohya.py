"""An adapter in the form of kohya's scripts and LyCORIS, which ComfyUI and A1111 read."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from src.models.adapter_files import OUR_PREFIX
from src.models.adapter_settings import method_of, plain_alpha
from src.models.adapters import ADAPTER_NAME
from src.models.base import DiffusionModel
from src.models.dora import is_dora, row_norms
from src.models.kohya_names import kohya_name

# As kohya's scripts write them; tools tell by these which base model and which loader a file is for.
_BASES = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}
_ARCHITECTURES = {"sd15": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}
_IMPLEMENTATIONS = {"sd15": "diffusers", "sdxl": "https://github.com/Stability-AI/generative-models"}


@torch.no_grad()
def kohya_tensors(model: DiffusionModel, adapted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The adapter's tensors under kohya's names; alpha / rank is each layer's scale.

    Args:
        model: its UNet's configuration decides names.
        adapted: the components that carry an adapter.
    """
    tensors: dict[str, Tensor] = {}
    for component, module in adapted.items():
        config = module.peft_config[ADAPTER_NAME]
        for path, layer in module.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            prefix = kohya_name(
                component,
                path,
                architecture=model.architecture,
                layers_per_block=model.unet.config.layers_per_block,
                up_block_types=model.unet.config.up_block_types,
            )
            alpha = plain_alpha(config, layer)
            if isinstance(layer, LoraLayer):
                # Where alphas differ diffusers mistakes the names of their layers, and drops them.
                own, alpha = dict(_lora(layer, alpha / plain_alpha(config))), plain_alpha(config)
            else:
                own = dict(_lycoris(layer))
            own["alpha"] = torch.tensor(alpha)
            tensors |= {f"{prefix}.{name}": value.detach().cpu() for name, value in own.items()}
    return tensors


def _lora(layer: Any, factor: float) -> Iterator[tuple[str, Tensor]]:
    """A LoRA's or DoRA's tensors; `factor` goes into one of them."""
    yield "lora_down.weight", layer.lora_A[ADAPTER_NAME].weight
    yield "lora_up.weight", layer.lora_B[ADAPTER_NAME].weight * factor
    if is_dora(layer):
        base = layer.get_base_layer().weight
        adapted = row_norms(base.float() + layer.get_delta_weight(ADAPTER_NAME).float())
        magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight.flatten()
        # DoRA's weight is magnitude * V / |V|, V the weight with the low-rank part (arXiv 2402.09353,
        # equation 5). Where scales belong to output rows, ComfyUI divides by the base's rows, not by V's.
        scale = magnitude * row_norms(base) / adapted
        yield "dora_scale", scale.reshape(-1, *[1] * (base.dim() - 1))


def _lycoris(layer: Any) -> Iterator[tuple[str, Tensor]]:
    matrices = {
        name: getattr(layer, name)[ADAPTER_NAME]
        for name in layer.adapter_layer_names
        if ADAPTER_NAME in getattr(layer, name)
    }
    if "lokr_w1" in matrices and "lokr_w2" in matrices:
        # Of two whole factors nothing tells a rank, so readers take no alpha: the scale goes into one.
        matrices["lokr_w1"] = matrices["lokr_w1"] * (layer.alpha[ADAPTER_NAME] / layer.r[ADAPTER_NAME])
    yield from matrices.items()


def kohya_metadata(
    model: DiffusionModel, adapted: Mapping[str, Any], header: Mapping[str, str]
) -> dict[str, str]:
    """What tools for kohya's files look for in a header; values are texts, as there.

    Args:
        model: what was trained.
        adapted: the components that carry an adapter.
        header: the header's own entries.
    """
    config = next(iter(adapted.values())).peft_config[ADAPTER_NAME]
    method = method_of(config)
    ours = {key.removeprefix(OUR_PREFIX): value for key, value in header.items()}
    arguments: dict[str, str] = {}
    if method != "lora":
        arguments["algo"] = "lora" if method == "dora" else method
    if method == "dora":
        arguments |= {"dora_wd": "True", "wd_on_output": "True"}
    if method == "lokr":
        arguments["factor"] = str(config.decompose_factor)
    size = ours.get("resolution", "")
    entries = {
        "ss_network_module": "networks.lora" if method == "lora" else "lycoris.kohya",
        "ss_network_dim": str(config.r),
        "ss_network_alpha": str(plain_alpha(config)),
        "ss_network_args": json.dumps(arguments) if arguments else "",
        "ss_base_model_version": _BASES[model.architecture],
        "ss_v2": "False",
        "ss_sd_model_name": ours.get("base_model", ""),
        "ss_output_name": ours.get("run", ""),
        "ss_resolution": f"({size.replace('x', ', ')})" if size else "",
        "ss_seed": ours.get("seed", ""),
        "ss_steps": ours.get("step", ""),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _ARCHITECTURES[model.architecture],
        "modelspec.implementation": _IMPLEMENTATIONS[model.architecture],
        "modelspec.title": ours.get("run", "") or "adapter",
        "modelspec.resolution": size,
        "modelspec.prediction_type": "v" if model.prediction_type == "v_prediction" else "epsilon",
        "modelspec.trigger_phrase": ours.get("trigger_word", ""),
    }
    return {key: value for key, value in entries.items() if value}
