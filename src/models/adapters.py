"""What is trained: an adapter or all weights of each component, and the new token's rows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from src.errors import UserError
from src.models.adapter_checks import check_layers
from src.models.adapter_settings import ADAPTER_NAME, AdapterSettings, Mode, peft_config
from src.models.adapter_targets import TEXT_TARGETS, UNET_TARGETS
from src.models.base import DiffusionModel, is_adapter_weight, is_own_weight
from src.models.dora import start_lengths
from src.models.token_embedding import add_placeholder
from src.randomness import forked_rng

__all__ = ["ADAPTER_NAME", "TEXT_TARGETS", "UNET_TARGETS", "AdapterSettings"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: unet_lora, unet, text_encoder_lora, text_encoder, text_encoder_2_lora, text_encoder_2 or
            token_embedding.
        parameters: (name in the denoiser, parameter), in a fixed order.
        kind: what they are.
    """

    name: str
    parameters: list[tuple[str, nn.Parameter]]
    kind: Literal["lora", "full", "embedding"]


def attach(model: DiffusionModel, settings: AdapterSettings, *, seed: int) -> list[TrainableGroup]:
    """Adds what is trained to a frozen model. Trained parameters are fp32 whatever the base's precision.

    A new adapter changes nothing: one of its factors starts at zero, DoRA's magnitudes at those of the base.

    Args:
        model: as loaded.
        settings: what to train.
        seed: of the adapter's random start.

    Raises:
        UserError: see `check_layers`, or nothing to train.
    """
    targets, sizes = check_layers(model, settings)
    modes = settings.modes
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    if settings.token_embedding == "train":
        assert settings.placeholder is not None
        # Before LoRA, so that the row's start does not depend on it.
        add_placeholder(
            model,
            settings.placeholder,
            initializer_word=settings.initializer_word,
            num_vectors=settings.num_token_vectors,
        )
    for name, component in components.items():
        if modes[name] == "lora":
            config = peft_config(settings, targets[name], sizes[name])
            with forked_rng(seed, "adapter", name):
                component.add_adapter(config, adapter_name=ADAPTER_NAME)
            start_lengths(component)
    groups = _collect(model, modes)
    if not groups:
        raise UserError("Everything is frozen, nothing to train. Set adapter.unet=lora (the default).")
    for name, component in components.items():
        if modes[name] == "full":
            for parameter in component.parameters():
                parameter.data = parameter.data.float()
    for group in groups:
        for _, parameter in group.parameters:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return groups


def _collect(model: DiffusionModel, modes: Mapping[str, Mode]) -> list[TrainableGroup]:
    model.denoiser.requires_grad_(False)
    groups: dict[str, TrainableGroup] = {}
    for name, parameter in model.denoiser.named_parameters():
        component = name.split(".", 1)[0]
        if not model.denoiser.is_used(name):
            continue
        kind: Literal["lora", "full", "embedding"]
        if is_adapter_weight(name):
            key, kind = f"{component}_lora", "lora"
        elif not is_own_weight(name):
            key, kind = "token_embedding", "embedding"
        elif modes[component] == "full":
            key, kind = component, "full"
        else:
            continue
        groups.setdefault(key, TrainableGroup(name=key, parameters=[], kind=kind))
        groups[key].parameters.append((name, parameter))
    return list(groups.values())


def trainable_state(model: DiffusionModel) -> dict[str, Tensor]:
    """All trained tensors by their name in the denoiser; not copied."""
    named = model.denoiser.named_parameters()
    return {name: parameter.detach() for name, parameter in named if parameter.requires_grad}


@torch.no_grad()
def load_trainable_state(model: DiffusionModel, state: Mapping[str, Tensor]) -> None:
    """Puts trained tensors back, all of them or none.

    Raises:
        UserError: other names or shapes than this model trains.
    """
    own = {
        name: parameter for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad
    }
    different = sorted(own.keys() ^ state.keys())
    different += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if different:
        raise UserError(
            f"The saved state does not fit what is trained now: {len(different)} tensors differ, such as "
            f"{different[0]}. Use the adapter and model settings that it was saved with."
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])


def adapter_layers(module: nn.Module) -> list[Any]:
    """All layers that carry an adapter: peft's, of whatever method."""
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def adapter_disabled(model: DiffusionModel) -> Iterator[None]:
    """The base model inside, exactly: adapters off and the placeholder an ordinary word.

    Weights that are trained in full stay as they are: their base is gone, sample it before training. Make
    pipelines inside, they take the tokenizers of the moment.
    """
    layers = adapter_layers(model.denoiser)
    trained = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.denoiser.parameters() if not parameter.requires_grad]
    tokenizers, model.tokenizers = model.tokenizers, model.base_tokenizers
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        model.tokenizers = tokenizers
        for layer in layers:
            layer.enable_adapters(True)
        # peft's switch takes and gives requires_grad as it likes.
        for parameter in trained:
            parameter.requires_grad_(True)
        for parameter in frozen:
            parameter.requires_grad_(False)
