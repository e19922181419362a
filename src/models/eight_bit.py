"""Frozen weights of the UNet in 8 bits: half the memory of bf16, a quarter of fp32.

A layer keeps 8-bit numbers and one scale for each output channel. It turns them into an ordinary weight for
the moment of its forward pass, and once more in its backward pass, so between the two nothing of full size is
kept. Computation is in the usual precision: only the weights are rounded, and only frozen ones.

Why this is our own, and not one of these:

- diffusers' layerwise casting leaves the cast weight in autograd's graph until the backward pass (seen with
  `saved_tensors_hooks`: one full-size copy for each linear layer), so without gradient checkpointing training
  saves nothing. It also casts without a scale: below 2**-6, where most weights of a UNet are, float8_e4m3fn
  has no finer steps than 2**-9.
- torchao: peft puts LoRA on its linear layers only, so the UNet's convolutions would stay as they are, and it
  would be one more dependency for the few lines below. Not tried.
- bitsandbytes' LLM.int8() rounds the activations as well, and has no convolutions.

Rounding is as in Jacob et al. 2018 (arXiv 1712.05877, section 2.1) without a zero point: w is about s * q,
where s = max |w| / 127 over an output channel for int8, and max |w| / 448 for float8_e4m3fn (arXiv
2209.05433).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

WeightPrecision = Literal["int8", "fp8"]
_DTYPES: dict[str, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# First and last layer see the latents themselves, and the embeddings of timestep and sizes reach every block:
# an error there is an error everywhere. Together they are under 1 % of the UNet.
_KEPT = frozenset({"conv_in", "conv_out", "time_embedding", "add_embedding", "class_embedding"})


def to_eight_bits(module: nn.Module, precision: WeightPrecision) -> int:
    """Rounds a UNet's frozen linear and convolution weights to 8 bits, in place.

    Call it when all adapters are attached: they start from the weights as they were, and what is trained
    stays as it is. So do norms, biases, the first and the last convolution, and the embeddings of timestep
    and sizes.

    Args:
        module: the UNet.
        precision: "int8" or "fp8" (float8_e4m3fn).

    Returns:
        How many layers were rounded.
    """
    layers = [
        layer
        for name, layer in module.named_modules()
        if type(layer) in _EIGHT_BIT
        and name.split(".", 1)[0] not in _KEPT
        and not layer.weight.requires_grad
        and getattr(layer, "padding_mode", "zeros") == "zeros"
    ]
    for layer in layers:
        _convert(layer, precision)
    return len(layers)


def is_eight_bit(module: nn.Module) -> bool:
    """Whether a module holds weights in 8 bits, which are not those of its files."""
    return any(isinstance(part, EightBitLinear | EightBitConv2d) for part in module.modules())


def quantise(
    weight: Float[Tensor, "out ..."], precision: WeightPrecision
) -> tuple[Tensor, Float[Tensor, "out ..."]]:
    """8-bit numbers and fp32 scales, which multiplied give about the weight.

    Args:
        weight: of a linear layer or a convolution.
        precision: "int8" or "fp8".

    Returns:
        Numbers of the weight's shape, and scales of shape (out, 1, ...).
    """
    dtype = _DTYPES[precision]
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    exact = weight.detach().float()
    peak = exact.abs().amax(dim=tuple(range(1, exact.dim())), keepdim=True)
    scale = torch.where(peak > 0, peak / largest, 1.0)
    ratio = (exact / scale).clamp(-largest, largest)
    return (ratio.round() if dtype == torch.int8 else ratio).to(dtype), scale


def dequantise(stored: Tensor, scale: Float[Tensor, "out ..."], dtype: torch.dtype) -> Tensor:
    """The weight in a precision to compute in. Rounded once: the 8-bit numbers are exact in any of them."""
    return stored.to(dtype).mul_(scale)


class EightBitLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in 8 bits."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rounded weight in fp32, made anew each time: DoRA's norm reads it. Writing to it is lost."""
        return _weight_of(self)

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Linear`, with the rounded weight."""
        output: Tensor = _Linear.apply(_as_computed(input), self.stored, self.scale, self.bias)
        return output


class EightBitConv2d(nn.Conv2d):
    """A frozen convolution whose weight is kept in 8 bits."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rounded weight in fp32, made anew each time. Writing to it is lost."""
        return _weight_of(self)

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Conv2d`, with the rounded weight."""
        settings = (self.stride, self.padding, self.dilation, self.groups)
        output: Tensor = _Conv2d.apply(_as_computed(input), self.stored, self.scale, self.bias, settings)
        return output


_EIGHT_BIT: dict[type, type] = {nn.Linear: EightBitLinear, nn.Conv2d: EightBitConv2d}


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, *frozen: Any) -> Tensor:
        stored, scale, bias = frozen
        ctx.save_for_backward(stored, scale)
        return F.linear(input, dequantise(stored, scale, input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        stored, scale = ctx.saved_tensors
        return gradient @ dequantise(stored, scale, gradient.dtype), None, None, None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, *frozen: Any) -> Tensor:
        stored, scale, bias, settings = frozen
        ctx.save_for_backward(stored, scale)
        ctx.settings, ctx.input_shape = settings, input.shape
        return F.conv2d(input, dequantise(stored, scale, input.dtype), bias, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        stored, scale = ctx.saved_tensors
        weight = dequantise(stored, scale, gradient.dtype)
        to_input = conv2d_input(ctx.input_shape, weight, gradient, *ctx.settings)
        return to_input, None, None, None, None


def _convert(layer: nn.Module, precision: WeightPrecision) -> None:
    """Makes an ordinary layer one that keeps 8 bits. The object stays the same, as does who refers to it."""
    assert isinstance(layer.weight, Tensor)
    stored, scale = quantise(layer.weight, precision)
    del layer.weight
    layer.__class__ = _EIGHT_BIT[type(layer)]
    # Buffers: a change of precision of the model's parameters does not reach them.
    layer.register_buffer("stored", stored)
    layer.register_buffer("scale", scale)


def _weight_of(layer: Any) -> Tensor:
    return dequantise(layer.stored, layer.scale, torch.float32)


def _as_computed(input: Tensor) -> Tensor:
    """What autocast would make of a layer's input: inside a function of ours it is too late to cast."""
    kind = input.device.type
    return input.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else input
