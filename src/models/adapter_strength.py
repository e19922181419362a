"""How strongly a loaded adapter acts, and folding it into the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from src.models.adapters import ADAPTER_NAME, adapter_layers
from src.models.base import DiffusionModel
from src.models.dora import is_dora
from src.models.eight_bit import is_eight_bit

_BLEND = "_blend_with_base"


def set_adapter_scale(model: DiffusionModel, scale: float) -> None:
    """Sets the strength of a loaded adapter; 0 is the base model exactly.

    LoRA, LoHa and LoKr add `scale` times what they add at 1. So does DoRA, as in ComfyUI: base weights W
    become W + scale * (W' - W). peft would scale the low-rank part alone and keep the magnitudes.
    """
    for layer in adapter_layers(model.denoiser):
        if is_dora(layer):
            _blend(layer, scale)
        else:
            layer.set_scale(ADAPTER_NAME, scale)


@torch.no_grad()
def merge_adapter(model: DiffusionModel) -> None:
    """Adds the adapter to the weights, at its present scale, and removes its layers. Equal up to rounding."""
    assert not is_eight_bit(model.denoiser), "weights in 8 bits take no merge: load the base model anew"
    for layer in adapter_layers(model.denoiser):
        blend: _Blend | None = getattr(layer, _BLEND, None)
        scale = 1.0 if blend is None else blend.scale
        if is_dora(layer) and layer.disable_adapters:
            continue
        before = layer.get_base_layer().weight.detach().clone() if scale != 1 else None
        layer.merge(safe_merge=True)
        if before is not None:
            weight = layer.get_base_layer().weight
            weight.copy_(before.float().lerp(weight.float(), scale))
    # diffusers' own way of taking layers out; it looks at no method.
    model.pipeline().unload_lora_weights()
    assert not adapter_layers(model.denoiser)


class _Blend:
    """A forward hook that moves a layer's output towards what its base layer gives."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.handle: RemovableHandle | None = None

    def __call__(self, layer: Any, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
        base: Tensor = layer.get_base_layer()(*args, **keywords)
        return base.lerp(output, self.scale)


def _blend(layer: Any, scale: float) -> None:
    earlier: _Blend | None = getattr(layer, _BLEND, None)
    if earlier is not None and earlier.handle is not None:
        earlier.handle.remove()
    blend = None
    if scale not in (0, 1):
        blend = _Blend(scale)
        blend.handle = layer.register_forward_hook(blend, with_kwargs=True)
    setattr(layer, _BLEND, blend)
    # peft's switch takes and gives requires_grad as it likes.
    frozen = [parameter for parameter in layer.parameters() if not parameter.requires_grad]
    layer.enable_adapters(scale != 0)
    for parameter in frozen:
        parameter.requires_grad_(False)
