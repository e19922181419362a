"""Writes single-file checkpoints of full shape with random weights, under the original repositories' names."""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from src.files import read_json
from src.models.load import CONFIGS

Shapes = dict[str, tuple[int, ...]]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, *, has_attention: list[bool]) -> str:
    """diffusers' name to the original one."""
    for theirs, original in _UNET_ENDS.items():
        if name.startswith(f"{theirs}."):
            return name.replace(theirs, original)
    side, *rest = (
        re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
        if "_blocks" in name[:12]
        else ("mid",)
    )
    if side == "mid":
        kind, index, tail = re.match(r"mid_block\.(\w+)\.(\d+)\.(.*)", name).groups()
        place = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(index)}"
    else:
        block, kind, index, tail = int(rest[0]), rest[1], int(rest[2]), rest[3]
        sides = {"down": "input_blocks", "up": "output_blocks"}
        first = 3 * block + index + (1 if side == "down" else 0)
        if kind == "downsamplers":
            return f"input_blocks.{3 * (block + 1)}.0.op.{tail.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{2 if has_attention[block] else 1}.{tail}"
        place = f"{sides[side]}.{first}.{1 if kind == 'attentions' else 0}"
    if kind == "resnets":
        head, _, end = tail.partition(".")
        tail = f"{_RESNET[head]}.{end}"
    return f"{place}.{tail}"


def vae_name(name: str) -> str:
    """diffusers' name to the original one."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
    if "mid.attn_1." in name:
        for theirs, original in _VAE_ATTENTION.items():
            name = name.replace(f"{theirs}.", f"{original}.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def vae_shapes(architecture: str) -> Shapes:
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(read_json(CONFIGS / architecture / "vae" / "config.json"))
    shapes = {}
    for name, tensor in vae.state_dict().items():
        is_matrix = ".attentions." in name and tensor.ndim == 2
        shapes[vae_name(name)] = (*tensor.shape, 1, 1) if is_matrix else tuple(tensor.shape)
    return shapes


def _encoder_shapes(folder: Path, encoder_class: type) -> Shapes:
    with torch.device("meta"):
        encoder = encoder_class(CLIPTextConfig(**read_json(folder / "config.json")))
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in encoder.state_dict().items()}


def _open_clip_shapes(shapes: Shapes) -> Shapes:
    width, num_layers = shapes["final_layer_norm.weight"][0], 32
    found = {
        "positional_embedding": (77, width),
        "token_embedding.weight": (49408, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for layer in range(num_layers):
        place = f"transformer.resblocks.{layer}."
        found |= {f"{place}ln_{i}.{end}": (width,) for i in (1, 2) for end in ("weight", "bias")}
        found[f"{place}attn.in_proj_weight"], found[f"{place}attn.in_proj_bias"] = (
            (3 * width, width),
            (3 * width,),
        )
        found[f"{place}attn.out_proj.weight"], found[f"{place}attn.out_proj.bias"] = (width, width), (width,)
        found[f"{place}mlp.c_fc.weight"], found[f"{place}mlp.c_fc.bias"] = (4 * width, width), (4 * width,)
        found[f"{place}mlp.c_proj.weight"], found[f"{place}mlp.c_proj.bias"] = (width, 4 * width), (width,)
    return found


def checkpoint_shapes(architecture: str) -> Shapes:
    """All tensors of a single-file checkpoint."""
    configs = CONFIGS / architecture
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(read_json(configs / "unet" / "config.json"))
    has_attention = ["CrossAttn" in name for name in unet.config.up_block_types]
    shapes = {
        f"model.diffusion_model.{unet_name(name, has_attention=has_attention)}": tuple(tensor.shape)
        for name, tensor in unet.state_dict().items()
    }
    shapes |= {f"first_stage_model.{name}": shape for name, shape in vae_shapes(architecture).items()}
    first = _encoder_shapes(configs / "text_encoder", CLIPTextModel)
    place = "conditioner.embedders.0" if architecture == "sdxl" else "cond_stage_model"
    shapes |= {f"{place}.transformer.text_model.{name}": shape for name, shape in first.items()}
    if architecture == "sdxl":
        second = _encoder_shapes(configs / "text_encoder_2", CLIPTextModelWithProjection)
        shapes |= {
            f"conditioner.embedders.1.model.{name}": shape
            for name, shape in _open_clip_shapes(second).items()
        }
    return shapes


def write_checkpoint(path: Path, shapes: Shapes, *, random: bool = True) -> Path:
    """Writes fp16 tensors; without `random` a sparse file of zeros, for what reads headers only."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if not random:
            file.truncate(8 + len(text) + offset)
            return path
        # One random block over and over; its odd length makes neighbouring tensors differ.
        block = (np.random.default_rng(0).standard_normal(4_000_037) * 0.02).astype(np.float16).tobytes()
        for start in range(0, offset, len(block)):
            file.write(block[: offset - start])
    return path
