"""LoHa and LoKr as peft keeps them: a folder a component. diffusers' own loader takes no such files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, PeftConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from src.errors import UserError
from src.files import read_json, write_json_atomic
from src.models.adapter_files import PEFT_CONFIG, PEFT_WEIGHTS
from src.models.adapters import ADAPTER_NAME, adapter_layers
from src.models.base import DiffusionModel, is_adapter_weight
from src.models.write_tensors import write_tensors

# peft's own model classes wrap the model twice.
_PREFIX = "base_model.model."


def save_peft(folder: Path, adapted: Mapping[str, Any], header: Mapping[str, str]) -> None:
    """Writes `<component>/adapter_config.json` and `adapter_model.safetensors` for each component."""
    for name, component in adapted.items():
        config = component.peft_config[ADAPTER_NAME].to_dict()
        values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        # As peft saves it: nothing is trained on after loading, and the path of this machine helps nobody.
        values |= {"inference_mode": True, "base_model_name_or_path": header.get("darkroom.base_model")}
        state = {f"{_PREFIX}{key}": value for key, value in get_peft_model_state_dict(component).items()}
        write_tensors(folder / name / PEFT_WEIGHTS, state, header)
        write_json_atomic(folder / name / PEFT_CONFIG, values)


@torch.no_grad()
def load_peft(model: DiffusionModel, folder: Path, *, must_have_effect: bool) -> None:
    """Puts a folder's adapters onto the model.

    Args:
        model: without adapters.
        folder: that `save_peft` wrote.
        must_have_effect: refuse adapters that change nothing.

    Raises:
        UserError: not LoHa nor LoKr, not fitting, or without effect.
    """
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    for path in sorted(folder.iterdir()):
        if not (path / PEFT_CONFIG).is_file():
            continue
        if path.name not in components:
            raise UserError(
                f"The adapter {path} is for a {path.name}, which the {model.architecture} base model lacks. "
                "Use the base model that it was trained for (model.path)."
            )
        component = components[path.name]
        try:
            component.add_adapter(_read_config(path), adapter_name=ADAPTER_NAME)
        except ValueError as error:
            # peft names all modules it looked for, hundreds of lines.
            raise _does_not_fit(path, model, str(error).splitlines()[0][:200]) from error
        _copy_weights(component, path, model)
    if must_have_effect and not has_learned(model.denoiser):
        raise UserError(
            f"The adapter {folder} has no effect: it is as it was before training. Train for more steps or "
            "raise optimizer.lr."
        )


def has_learned(module: torch.nn.Module) -> bool:
    """Whether any LoHa or LoKr of a component changes its layer's weight."""
    layers: list[Any] = list(adapter_layers(module))
    return any(bool(layer.get_delta_weight(ADAPTER_NAME).any()) for layer in layers)


def _read_config(path: Path) -> PeftConfig:
    kind = read_json(path / PEFT_CONFIG).get("peft_type")
    if kind not in ("LOHA", "LOKR"):
        raise UserError(
            f"{path} holds an adapter of type {kind}; LOHA and LOKR are read from peft's folders. Give a "
            "LoRA as a file in diffusers' or kohya's form."
        )
    config = PeftConfig.from_pretrained(str(path))
    assert isinstance(config, LoHaConfig | LoKrConfig)
    return config


def _copy_weights(component: Any, path: Path, model: DiffusionModel) -> None:
    own: dict[str, Tensor] = {
        f"{_PREFIX}{name.removesuffix(f'.{ADAPTER_NAME}')}": parameter
        for name, parameter in component.named_parameters()
        if is_adapter_weight(name)
    }
    state = load_file(path / PEFT_WEIGHTS)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if wrong:
        raise _does_not_fit(path, model, f"{wrong[0]} differs")
    for name, parameter in own.items():
        parameter.data = state[name].to(parameter.device, torch.float32)


def _does_not_fit(path: Path, model: DiffusionModel, reason: str) -> UserError:
    return UserError(
        f"The adapter {path} does not fit the {model.architecture} base model ({reason}). Use the base model "
        "that it was trained for (model.path)."
    )
