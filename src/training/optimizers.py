"""The optimiser: parameter groups with their own learning rates, and its state as safetensors can hold it."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from src.errors import UserError

# What optimisers change in their parameter groups: Prodigy its estimate of the step size, schedule-free the
# weight of its average so far. A test looks for others in all that the configuration allows.
GROUP_STATE = (
    *("k", "d", "d_max", "d_numerator", "d_denom", "d_hat"),
    *("weight_sum", "lr_max", "scheduled_lr"),
)


@runtime_checkable
class ParameterGroup(Protocol):
    """What is trained together, such as `src.models.adapters.TrainableGroup`."""

    @property
    def name(self) -> str:
        """The component: "unet_lora", "text_encoder", "token_embedding", ..."""

    @property
    def parameters(self) -> list[tuple[str, Parameter]]:
        """Parameters with names that are unique over all groups."""


def make_optimizer(
    groups: Sequence[ParameterGroup],
    *,
    algorithm: Callable[..., Optimizer],
    lr: float,
    lr_text_encoder: float | None = None,
    lr_text_encoder_2: float | None = None,
    lr_token_embedding: float | None = None,
) -> Optimizer:
    """Makes the optimiser with one parameter group for each trained component.

    One that averages its weights (schedule-free) is left in training mode.

    Args:
        groups: what is trained.
        algorithm: a torch optimiser class, its settings bound by `functools.partial`.
        lr: learning rate of the UNet, and of the others where theirs is None.
        lr_text_encoder: learning rate of the text encoders.
        lr_text_encoder_2: learning rate of the second one, where it is to have another.
        lr_token_embedding: learning rate of the placeholder's embedding.
    """

    def base_rate(name: str) -> float:
        # In this order: the name of the second text encoder begins with that of the first.
        special = {
            "text_encoder_2": lr_text_encoder if lr_text_encoder_2 is None else lr_text_encoder_2,
            "text_encoder": lr_text_encoder,
            "token_embedding": lr_token_embedding,
        }
        rate = next((rate for prefix, rate in special.items() if name.startswith(prefix)), None)
        return lr if rate is None else rate

    param_groups = [
        {
            "params": [parameter for _, parameter in group.parameters],
            "name": group.name,
            "base_lr": base_rate(group.name),
        }
        for group in groups
    ]
    # Fused kernels are the quickest, and they alone can mask a step without asking the host.
    fused = {"fused": True} if "fused" in inspect.signature(algorithm).parameters else {}
    optimizer = call_quietly(algorithm, param_groups, lr=lr, **fused)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def call_quietly(algorithm: Callable[..., Optimizer], *arguments: Any, **settings: Any) -> Optimizer:
    """Makes an optimiser without what some print while they are made."""
    with redirect_stdout(StringIO()):
        return algorithm(*arguments, **settings)


def set_learning_rates(optimizer: Optimizer, factor: float) -> dict[str, float]:
    """Sets each group's rate to its base rate times a factor; returns the rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def estimated_rates(optimizer: Optimizer) -> dict[str, float]:
    """What an optimiser finds out about its own step size, for the log; empty for most.

    Prodigy's d: its learning rate is d times that of the schedule, the same for all groups.
    """
    first = optimizer.param_groups[0]
    return {"prodigy/d": float(first["d"])} if "d" in first and "d0" in first else {}


def parameter_names(groups: Iterable[ParameterGroup]) -> list[str]:
    """Names in the order in which the optimiser counts its parameters."""
    names = [name for group in groups for name, _ in group.parameters]
    assert len(set(names)) == len(names), "parameter names of trainable groups must be unique"
    return names


def export_state(optimizer: Optimizer, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state by parameter name: tensors as "name/key", and the rest as plain values.

    Options of the groups (betas, weight decay, ...) are not state: they come from the configuration. What is
    state there, `export_group_state` gives.
    """
    # Not by `state_dict`: bitsandbytes wraps its quantised state in there.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    storages = set[int]()
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                scalars[f"{name}/{key}"] = value
                continue
            # Parameters share bitsandbytes' tables, and a safetensors file holds nothing twice. Shards are
            # their own, and have no address to tell.
            has_address = value.numel() > 0 and not isinstance(value, DTensor)
            is_shared = has_address and value.data_ptr() in storages
            if has_address:
                storages.add(value.data_ptr())
            tensors[f"{name}/{key}"] = value.clone() if is_shared else value
    return tensors, scalars


def export_group_state(optimizer: Optimizer) -> dict[str, dict[str, float]]:
    """What of an optimiser's state is in its parameter groups, by the groups' names; empty for most."""
    states = {
        group["name"]: {key: _plain(group[key]) for key in GROUP_STATE if key in group}
        for group in optimizer.param_groups
    }
    return {name: state for name, state in states.items() if state}


def import_group_state(optimizer: Optimizer, states: Mapping[str, Mapping[str, float]]) -> None:
    """The inverse of `export_group_state`."""
    for group in optimizer.param_groups:
        group.update(states.get(group["name"], {}))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def import_state(
    optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """The inverse of `export_state`. Shapes are the business of whoever loads the weights.

    Raises:
        UserError: the state belongs to other parameters.
    """
    indices = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for full_name, value in {**tensors, **scalars}.items():
        name, _, key = full_name.rpartition("/")
        if name not in indices:
            raise UserError(
                f"The checkpoint has optimiser state for {name}, which this run does not train. "
                "Resume with the adapter settings of the checkpoint's run, or start anew under another "
                "run.name."
            )
        state.setdefault(indices[name], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite. Asks the device, so not for use in the step."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())
