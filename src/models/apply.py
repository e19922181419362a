"""Puts a saved adapter onto a base model, for inference, and says so when it does not belong there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from src.errors import UserError
from src.models.adapter_files import (
    FULL_UNET,
    LORA_FILE,
    OUR_PREFIX,
    AdapterFiles,
    adapter_architecture,
    find_adapter_files,
)
from src.models.adapter_strength import set_adapter_scale
from src.models.adapters import ADAPTER_NAME, adapter_layers
from src.models.base import DiffusionModel, is_adapter_weight
from src.models.detect import Architecture
from src.models.peft_folder import load_peft
from src.models.quiet import quiet_libraries
from src.models.safetensors_header import read_header
from src.models.token_embedding import add_placeholder

_MAGNITUDE = ".lora_magnitude_vector"
_KINDS = ("A.weight", "B.weight", "magnitude_vector", "magnitude_vector.weight")


def load_adapter(
    model: DiffusionModel, path: Path, *, scale: float = 1.0, with_token_embedding: bool = True
) -> None:
    """Applies an adapter: its layers, the learned embedding, and fully trained weights, whichever are there.

    LoRA and DoRA go in through diffusers' own loader, so kohya's files (lora_unet_...) load as well, and the
    result is the one that plain diffusers gives. LoHa and LoKr go in through peft.

    Args:
        model: the base model; it has no adapter yet.
        path: a folder that `save_adapter` wrote, or one adapter file.
        scale: strength. 0 without the token embedding is the base model exactly. With any other the model
            samples with the schedule that the adapter was trained to.
        with_token_embedding: whether to load the learned embedding.

    Raises:
        UserError: missing, for another architecture, not fitting, or without any effect.
    """
    assert not adapter_layers(model.denoiser), "one adapter at a time"
    check_architecture(model.architecture, path)
    files = find_adapter_files(path)
    if scale != 0:
        _use_schedule(model, files)
    if files.model is not None:
        _load_full(model, files.model, scale)
    has_more = files.model is not None or files.embedding is not None
    if files.lora is not None:
        _load_lora(model, files.lora, must_have_effect=not has_more)
    if files.peft is not None:
        load_peft(model, files.peft, must_have_effect=not has_more)
    set_adapter_scale(model, scale)
    if files.embedding is not None and with_token_embedding:
        _load_embedding(model, files.embedding)
    for name, parameter in model.denoiser.named_parameters():
        if is_adapter_weight(name):
            # Out of the file's memory: CPU kernels round by how memory is aligned.
            parameter.data = parameter.data.clone()
    model.denoiser.requires_grad_(False).eval()


def _use_schedule(model: DiffusionModel, files: AdapterFiles) -> None:
    """The schedule that an adapter was trained to, where that is not its base model's own."""
    for file in files.with_headers():
        said = read_header(file).metadata
        if kind := said.get(f"{OUR_PREFIX}prediction_type"):
            is_zero = said.get(f"{OUR_PREFIX}zero_terminal_snr") == "true"
            model.schedule.use(prediction_type=kind, zero_terminal_snr=is_zero)


def check_architecture(architecture: Architecture, path: Path) -> None:
    """Refuses an adapter that was trained for another architecture than a base model's.

    Args:
        architecture: the base model's.
        path: see `load_adapter`.

    Raises:
        UserError: the headers or shapes of its files say that it was trained for another one.
    """
    for file in find_adapter_files(path).with_headers():
        trained_for = adapter_architecture(read_header(file))
        if trained_for not in (None, architecture):
            assert trained_for is not None
            raise other_architecture(file, trained_for, architecture)


def other_architecture(path: Path, trained_for: str, architecture: Architecture) -> UserError:
    """The error for an adapter that was trained for another architecture than the base model's."""
    return UserError(
        f"The adapter {path} was trained for {trained_for}, the base model is {architecture}. "
        "Set model.path to a model of that architecture or choose another adapter (adapter.weights)."
    )


def _load_lora(model: DiffusionModel, file: Path, *, must_have_effect: bool) -> None:
    header = read_header(file)
    if any(name.endswith(".dora_scale") for name in header.shapes):
        # diffusers would leave them out and load what remains as a LoRA, which it is not.
        raise UserError(
            f"{file} is a DoRA in kohya's form, which is read by ComfyUI. Give the file in diffusers' form, "
            f"{LORA_FILE}; it lies beside it where Darkroom trained it."
        )
    pipeline = model.pipeline()
    with quiet_libraries(errors_only=True):
        try:
            state = pipeline.lora_state_dict(str(file), unet_config=model.unet.config)[0]
        except (ValueError, KeyError) as error:
            # diffusers adds the names of all tensors, hundreds of lines.
            reason = str(error).strip().splitlines()[0].rstrip(" :.")
            raise UserError(
                f"{file} is no LoRA that can be read: {reason}. Choose another adapter."
            ) from error
        matrices = _by_module(state)
        _check_fits(model, file, matrices)
        second = [matrix for name, matrix in matrices.items() if name.endswith("lora_B.weight")]
        has_effect = any(bool(matrix.any()) for matrix in second) or (
            # A DoRA may have learned lengths alone; its own header knows.
            any(_MAGNITUDE in name for name in matrices)
            and f"{OUR_PREFIX}nothing_learned" not in header.metadata
        )
        if must_have_effect and not has_effect:
            raise UserError(
                f"The adapter {file} has no effect: all its lora_B are zero, nothing was learned. Train for "
                "more steps or raise optimizer.lr."
            )
        pipeline.load_lora_weights(str(file), adapter_name=ADAPTER_NAME)
    num_loaded = len(adapter_layers(model.denoiser))
    if num_loaded != len(second):
        raise UserError(
            f"{file}: only {num_loaded} of {len(second)} LoRA layers could be loaded. Choose another adapter."
        )


def _by_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All matrices by component and module in peft's form: unet.<module>.lora_A.weight."""
    matrices: dict[str, Tensor] = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        prefix = f"{component}."
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if part and component == "unet" and not any("lora_A" in name for name in part):
            part = convert_unet_state_dict_to_peft(part)
        elif part and component != "unet":
            part = convert_state_dict_to_peft(convert_state_dict_to_diffusers(part))
        matrices |= {f"{component}.{name}": value for name, value in part.items()}
    return matrices


def _check_fits(model: DiffusionModel, file: Path, matrices: Mapping[str, Tensor]) -> None:
    for name, matrix in matrices.items():
        module_name, _, kind = name.rpartition(".lora_")
        module = _find(model, module_name)
        if not isinstance(module, nn.Linear | nn.Conv2d) or kind not in _KINDS:
            raise UserError(
                f"The adapter {file} does not fit the {model.architecture} base model, which has no place "
                f"for {name}. Use the base model that it was trained for (model.path)."
            )
        axis = 1 if kind == "A.weight" else 0
        # The magnitudes of a convolution have their rows second.
        size = matrix.numel() if kind.startswith("magnitude") else matrix.shape[axis]
        if size != module.weight.shape[axis]:
            raise UserError(
                f"The adapter {file} does not fit the {model.architecture} base model: {name} has size "
                f"{size}, the model {module.weight.shape[axis]}. Use the base model that it "
                "was trained for (model.path)."
            )


def _find(model: DiffusionModel, name: str) -> nn.Module | None:
    modules: dict[str, Any] = dict(model.denoiser.named_modules())
    # Published files name the first text encoder's modules with a prefix that newer transformers dropped.
    return modules.get(name) or modules.get(name.replace("text_encoder.text_model.", "text_encoder."))


def _load_embedding(model: DiffusionModel, file: Path) -> None:
    tensors = load_file(file)
    header = read_header(file)
    placeholder = header.metadata.get(f"{OUR_PREFIX}placeholder") or next(iter(tensors))
    rows = [tensors[key] for key in ("clip_l", "clip_g") if key in tensors] or list(tensors.values())
    widths = [encoder.config.hidden_size for encoder in model.text_encoders.values()]
    found = [tuple(row.shape) for row in rows]
    numbers = {shape[0] for shape in found if shape}
    if len(numbers) != 1 or found != [(*numbers, width) for width in widths]:
        raise UserError(
            f"The token embedding {file} has shapes {found}, the {model.architecture} base model needs rows "
            f"of width {widths}. Use the base model that it was trained for (model.path)."
        )
    add_placeholder(model, placeholder, rows=rows)


@torch.no_grad()
def _load_full(model: DiffusionModel, folder: Path, scale: float) -> None:
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    for name in read_header(folder / "unet" / FULL_UNET).metadata[f"{OUR_PREFIX}full"].split(","):
        weights = FULL_UNET if name == "unet" else "model.safetensors"
        state = load_file(folder / name / weights)
        own = components[name].state_dict()
        if {key: value.shape for key, value in own.items()} != {
            key: value.shape for key, value in state.items()
        }:
            raise UserError(
                f"{folder / name} does not fit the {name} of the {model.architecture} base model. Use the "
                "base model that it was trained from (model.path)."
            )
        for key, tensor in own.items():
            # Exact at both ends.
            trained = state[key].to(tensor.device)
            blended = trained if scale == 1 else tensor.float().lerp(trained.float(), scale)
            if scale != 0:
                tensor.copy_(blended)
