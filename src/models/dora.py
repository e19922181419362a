"""What DoRA (arXiv 2402.09353) keeps beside its low-rank matrices: the lengths of a layer's output rows."""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from src.models.adapter_settings import ADAPTER_NAME

_START = "_lengths_at_start"


def is_dora(layer: Any) -> bool:
    """Whether a layer's adapter is a DoRA."""
    return isinstance(layer, LoraLayer) and ADAPTER_NAME in layer.lora_magnitude_vector


def row_norms(weight: Tensor) -> Float[Tensor, " out"]:
    """The length of each output row of a layer's weight, in fp32."""
    # As DoRA's forward pass computes it, to the last bit, so that a new one changes nothing.
    if weight.dim() == 2:
        return torch.linalg.norm(weight.float(), dim=1)
    return weight.float().norm(p=2, dim=(1, 2, 3))


@torch.no_grad()
def start_lengths(component: nn.Module) -> None:
    """Gives new DoRAs the lengths of their layers' rows, in fp32 whatever the base's precision."""
    for module in component.modules():
        layer: Any = module
        if is_dora(layer):
            norms = row_norms(layer.get_base_layer().weight)
            magnitude: nn.Parameter = layer.lora_magnitude_vector[ADAPTER_NAME].weight
            magnitude.data = norms.reshape(magnitude.shape)
            # The base may be rounded to 8 bits or half precision later. On the CPU, and no part of any state.
            setattr(layer, _START, norms.cpu().clone())


def has_new_lengths(layer: Any) -> bool:
    """Whether a DoRA's lengths are others than those that it started with."""
    magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight.detach().flatten()
    start = getattr(layer, _START, None)
    if start is None:
        start = row_norms(layer.get_base_layer().weight)
    # Weight decay alone moves a length by less.
    return not torch.allclose(magnitude.cpu(), start.cpu(), rtol=1e-3)
