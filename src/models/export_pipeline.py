"""A fully trained model as a whole pipeline of diffusers."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from src.files import fsync_folder, read_json, require_free_space, write_json_atomic
from src.models.base import DiffusionModel, is_own_weight
from src.models.eight_bit import is_eight_bit
from src.models.schedulers import saved_config


def save_pipeline(
    model: DiffusionModel, folder: Path, header: Mapping[str, str], full: Sequence[str]
) -> Path:
    """Writes a plain diffusers folder with the fully trained weights, without adapters and the new token.

    Args:
        model: what was trained.
        folder: replaced as a whole.
        header: of its files of weights.
        full: the components that are trained in full.
    """
    modules: dict[str, Any] = {"unet": model.unet, "vae": model.vae, **model.text_encoders}
    states = {
        name: base_state(module) if name in full else _frozen_state(model, name, module)
        for name, module in modules.items()
    }
    num_bytes = sum(tensor.nbytes for state in states.values() for tensor in state.values())
    require_free_space(folder.parent, num_bytes, "the fully trained model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        new.chmod(0o755)
        for name, module in modules.items():
            _save_component(module, states[name], new / name, header)
        for index, tokenizer in enumerate(model.base_tokenizers):
            tokenizer.save_pretrained(new / ("tokenizer" if index == 0 else f"tokenizer_{index + 1}"))
        write_json_atomic(new / "scheduler" / "scheduler_config.json", saved_config(model.scheduler_config))
        write_json_atomic(new / "model_index.json", _model_index(model))
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        fsync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder


def base_state(module: nn.Module) -> dict[str, Tensor]:
    """A component's own weights under their ordinary names, without any adapter's or new token's."""
    assert not is_eight_bit(module), "rounded weights are not saved as a component's own"
    plain = {}
    for name, tensor in module.state_dict().items():
        if is_own_weight(name):
            plain[name.replace(".base_layer.", ".").replace("token_embedding.table.", "token_embedding.")] = (
                tensor.cpu().contiguous()
            )
    return plain


def _frozen_state(model: DiffusionModel, name: str, module: Any) -> dict[str, Tensor]:
    """A frozen component in fp32, as its files have it: in memory it may be in the precision of training."""
    held = base_state(module)
    is_rounded = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in held.values())
    states = [load_file(file) for file in model.stored_weights(name)] if is_rounded else []
    return {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for state in states or [held]
        for key, tensor in state.items()
    }


def _save_component(module: Any, state: dict[str, Tensor], folder: Path, header: Mapping[str, str]) -> None:
    folder.mkdir()
    is_encoder = isinstance(module, PreTrainedModel)
    weights = folder / ("model.safetensors" if is_encoder else "diffusion_pytorch_model.safetensors")
    save_file(state, weights, metadata=dict(header))
    weights.chmod(0o644)
    if is_encoder:
        module.config.save_pretrained(folder)
        # diffusers loads in fp32 when not told otherwise, transformers in what this entry says.
        config = {**read_json(folder / "config.json"), "dtype": "float32"}
        config["architectures"] = [type(module).__name__]
        write_json_atomic(folder / "config.json", config)
    else:
        module.save_config(folder)


def _model_index(model: DiffusionModel) -> dict[str, Any]:
    pipeline = model.pipeline()
    index: dict[str, Any] = dict(pipeline.config)
    index.pop("_name_or_path", None)
    index = {key: list(value) if isinstance(value, tuple) else value for key, value in index.items()}
    index["scheduler"] = ["diffusers", saved_config(model.scheduler_config)["_class_name"]]
    return {"_class_name": type(pipeline).__name__, **index}
