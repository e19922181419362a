"""Names of layers as kohya's scripts write them, which ComfyUI and A1111 read.

SD1.5: the diffusers name with underscores (`lora_unet_down_blocks_0_...`, `lora_te_...`). SDXL: kohya's
scripts train the original UNet, so its names are those of the original checkpoint
(`lora_unet_input_blocks_4_1_...`), and the text encoders are `lora_te1_` and `lora_te2_`.
"""

import re
from collections.abc import Sequence

from src.models.detect import Architecture

_TEXT = {
    "sd15": {"text_encoder": "lora_te"},
    "sdxl": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def kohya_name(
    component: str,
    layer: str,
    *,
    architecture: Architecture,
    layers_per_block: int,
    up_block_types: Sequence[str],
) -> str:
    """The prefix of a layer's tensors, such as `lora_unet_mid_block_attentions_0_proj_in`.

    Args:
        component: unet, text_encoder or text_encoder_2.
        layer: its name in diffusers or transformers.
        architecture: of the model.
        layers_per_block: of the UNet's configuration,
        up_block_types: as well.
    """
    if component == "unet":
        if architecture == "sdxl":
            layer = _original_name(layer, layers_per_block, up_block_types)
        return f"lora_unet_{layer.replace('.', '_')}"
    if not layer.startswith(("text_model.", "text_projection")):
        # Newer transformers have dropped the prefix.
        layer = f"text_model.{layer}"
    return f"{_TEXT[architecture][component]}_{layer.replace('.', '_')}"


def _original_name(layer: str, layers_per_block: int, up_block_types: Sequence[str]) -> str:
    if layer in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[layer]
    if found := _MIDDLE.fullmatch(layer):
        kind, number, rest = found.groups()
        # Two residual blocks with the transformer between them.
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    found = _BLOCK.fullmatch(layer)
    assert found is not None, f"no layer of SDXL's UNet: {layer}"
    side, block, kind, number, rest = found.groups()
    first = int(block) * (layers_per_block + 1)
    place = 1 if kind == "attentions" else 0
    if side == "down_blocks":
        # The first input block is the first convolution; a block ends with its downsampler.
        index = first + 1 + (layers_per_block if kind == "downsamplers" else int(number))
        rest = "op" if kind == "downsamplers" else _inside(kind, rest)
        return f"input_blocks.{index}.{place}.{rest}"
    if kind == "upsamplers":
        place = 2 if "Attn" in up_block_types[int(block)] else 1
        return f"output_blocks.{first + layers_per_block}.{place}.{rest}"
    return f"output_blocks.{first + int(number)}.{place}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _IN_RESNET[rest] if kind == "resnets" else rest
