"""Which layers get an adapter, and what cannot be trained, found as soon as a model is loaded."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from src.errors import UserError
from src.models.adapter_settings import AdapterSettings
from src.models.adapter_targets import LayerSizes, layer_sizes, matched_layers, resolve_targets
from src.models.base import DiffusionModel
from src.models.dora import row_norms

# How likely a LoHa may leave out all rows of a layer in one step.
_RARE = 1e-11


def check_layers(
    model: DiffusionModel, settings: AdapterSettings
) -> tuple[dict[str, list[str]], dict[str, dict[str, LayerSizes]]]:
    """Which layers get an adapter, and which of them another rank or alpha than most; changes nothing.

    Args:
        model: as loaded.
        settings: what to train.

    Returns:
        By component: targets as `resolve_targets` gives them, and sizes as `layer_sizes` does.

    Raises:
        UserError: a component the model lacks, names that match nothing, or layers that the method cannot
            train.
    """
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    targets: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    for name, mode in settings.modes.items():
        if mode != "frozen" and name not in components:
            raise UserError(
                f"adapter.{name}={mode}, but {model.architecture} has no {name}. Set adapter.{name}=frozen."
            )
        if mode == "lora":
            entries = settings.target_modules if name == "unet" else settings.text_target_modules
            targets[name] = resolve_targets(name, components[name], entries)
            layers[name] = matched_layers(components[name], targets[name])
            _check_method(name, components[name], layers[name], settings)
    sizes = layer_sizes(
        layers,
        rank=settings.rank,
        alpha=settings.alpha,
        rank_pattern=settings.rank_pattern,
        alpha_pattern=settings.alpha_pattern,
        keeps_alpha=settings.rslora,
    )
    return targets, sizes


def _check_method(name: str, component: nn.Module, paths: Sequence[str], settings: AdapterSettings) -> None:
    key = "adapter.target_modules" if name == "unet" else "adapter.text_target_modules"
    for path in paths:
        layer: Any = component.get_submodule(path)
        if settings.method == "dora":
            _check_dora(f"{name}.{path}", layer, dropout=settings.dropout, key=key)
        if settings.method == "loha" and settings.rank_dropout ** len(layer.weight) > _RARE:
            # peft divides by the share of rows that stay.
            raise UserError(
                f"adapter.method=loha with adapter.rank_dropout={settings.rank_dropout} cannot train "
                f"{name}.{path}: it has {len(layer.weight)} output rows, and a step that leaves out all of "
                f"them is lost. Lower adapter.rank_dropout, take the layer out of {key}, or use "
                "adapter.method=lokr."
            )


def _check_dora(name: str, layer: Any, *, dropout: float, key: str) -> None:
    if dropout > 0 and isinstance(layer, nn.Conv2d):
        # peft then computes the convolution anew, and fails where the base is in half precision.
        raise UserError(
            f"adapter.method=dora with adapter.dropout={dropout} cannot train convolutions, such as {name}. "
            f"Set adapter.dropout=0, or take them out of {key}."
        )
    if not row_norms(layer.weight.detach()).all():
        raise UserError(
            f"adapter.method=dora cannot train {name}: a row of its weights is zero and has no direction. "
            f"Take it out of {key}, or use adapter.method=lora."
        )
