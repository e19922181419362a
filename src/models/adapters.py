"""What is trained: LoRA (arXiv 2106.09685) or all weights of each component, and the new token's row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from src.errors import UserError
from src.models.base import DiffusionModel, is_own_weight
from src.models.token_embedding import add_placeholder
from src.randomness import forked_rng

Mode = Literal["lora", "full", "frozen"]
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
ADAPTER_NAME = "default"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which components are trained, and how.

    Attributes:
        unet: lora, full or frozen; so are text_encoder and text_encoder_2 (SDXL only).
        token_embedding: whether the placeholder gets a trained embedding.
        rank: of the LoRA matrices.
        alpha: their product is scaled by alpha / rank.
        dropout: on the LoRA input, while training.
        target_modules: endings of the UNet's module names that get LoRA.
        text_target_modules: the same for text encoders.
        placeholder: the word that marks the subject, for token_embedding="train".
        initializer_word: whose embedding the placeholder starts from.
    """

    unet: Mode = "lora"
    text_encoder: Mode = "frozen"
    text_encoder_2: Mode = "frozen"
    token_embedding: Literal["train", "frozen"] = "frozen"
    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = UNET_TARGETS
    text_target_modules: tuple[str, ...] = TEXT_TARGETS
    placeholder: str | None = None
    initializer_word: str | None = None

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot be trained with."""
        if self.rank < 1:
            raise UserError(f"adapter.rank={self.rank}: a rank is at least 1.")
        if self.alpha <= 0:
            raise UserError(
                f"adapter.alpha={self.alpha}: alpha is above 0, or the adapter could have no effect."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"adapter.dropout={self.dropout}: dropout is at least 0 and below 1.")
        if self.token_embedding == "train" and not self.placeholder:
            raise UserError("adapter.token_embedding=train needs a word to train: set dataset.placeholder.")


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

    A new LoRA changes nothing: its second matrix starts at zero.

    Args:
        model: as loaded.
        settings: what to train.
        seed: of the LoRA matrices' random start.

    Raises:
        UserError: a component the model lacks, target modules that match nothing, or nothing to train.
    """
    modes: dict[str, Mode] = {
        "unet": settings.unet,
        "text_encoder": settings.text_encoder,
        "text_encoder_2": settings.text_encoder_2,
    }
    components: dict[str, Any] = {"unet": model.unet, **model.text_encoders}
    for name, mode in modes.items():
        if mode != "frozen" and name not in components:
            raise UserError(
                f"adapter.{name}={mode}, but {model.architecture} has no {name}. Set adapter.{name}=frozen."
            )
    if settings.token_embedding == "train":
        assert settings.placeholder is not None
        # Before LoRA, so that the row's start does not depend on it.
        add_placeholder(model, settings.placeholder, initializer_word=settings.initializer_word)
    for name, component in components.items():
        if modes[name] == "lora":
            targets = settings.target_modules if name == "unet" else settings.text_target_modules
            _check_targets(name, component, targets)
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides, any number will do
                lora_dropout=settings.dropout,
                target_modules=list(targets),
            )
            with forked_rng(seed, "adapter", name):
                component.add_adapter(config, adapter_name=ADAPTER_NAME)
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
        if ".lora_" in name:
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


def _check_targets(name: str, component: nn.Module, targets: tuple[str, ...]) -> None:
    names = [path for path, module in component.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in names):
            raise UserError(
                f"adapter target module {target} matches nothing in the {name}. Use endings of its layers' "
                f"names, such as {', '.join(UNET_TARGETS if name == 'unet' else TEXT_TARGETS)}."
            )


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


def lora_layers(module: nn.Module) -> list[LoraLayer]:
    """All layers that carry an adapter."""
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


@contextmanager
def adapter_disabled(model: DiffusionModel) -> Iterator[None]:
    """The base model inside, exactly: LoRA off and the placeholder an ordinary word.

    Weights that are trained in full stay as they are: their base is gone, sample it before training. Make
    pipelines inside, they take the tokenizers of the moment.
    """
    layers = lora_layers(model.denoiser)
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
