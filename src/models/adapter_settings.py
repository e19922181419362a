"""What is trained and by which method, and how peft is told."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer

from src.errors import UserError
from src.models.adapter_targets import TEXT_TARGETS, UNET_TARGETS, LayerSizes

Mode = Literal["lora", "full", "frozen"]
Method = Literal["lora", "dora", "loha", "lokr"]
ADAPTER_NAME = "default"
# peft's value for two factors that are as near as can be.
_SQUARE = -1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which components are trained, and how.

    Attributes:
        unet: lora (the adapter of `method`), full or frozen; so are text_encoder and text_encoder_2 (SDXL
            only).
        token_embedding: whether the placeholder gets a trained embedding.
        method: lora (arXiv 2106.09685), dora (arXiv 2402.09353), loha (arXiv 2108.06098) or lokr (arXiv
            2309.14859).
        rank: of the adapter's matrices.
        alpha: their product is scaled by alpha / rank,
        rslora: or by alpha / sqrt(rank) (arXiv 2312.03732); of lora and dora.
        rank_pattern: ranks of single layers, by what their names match (see `layer_sizes`).
        alpha_pattern: alphas of single layers. Where only the rank differs, alpha is in proportion, and with
            rsLoRA, which scales by the rank itself, the same.
        dropout: on the adapter's input, while training; of lora and dora.
        rank_dropout: share of the output rows of the adapter's matrix that are left out in a step; of loha
            and lokr.
        lokr_factor: size of LoKr's small factor; None makes both as near as can be.
        target_modules: which of the UNet's layers get an adapter (see `resolve_targets`).
        text_target_modules: the same for text encoders.
        placeholder: the word that marks the subject, for token_embedding="train".
        initializer_word: whose embedding the placeholder starts from.
        num_token_vectors: how many embeddings the placeholder stands for.
    """

    unet: Mode = "lora"
    text_encoder: Mode = "frozen"
    text_encoder_2: Mode = "frozen"
    token_embedding: Literal["train", "frozen"] = "frozen"
    method: Method = "lora"
    rank: int = 16
    alpha: float = 16.0
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    dropout: float = 0.0
    rank_dropout: float = 0.0
    lokr_factor: int | None = None
    target_modules: tuple[str, ...] = UNET_TARGETS
    text_target_modules: tuple[str, ...] = TEXT_TARGETS
    placeholder: str | None = None
    initializer_word: str | None = None
    num_token_vectors: int = 1

    @property
    def modes(self) -> dict[str, Mode]:
        """How each component is trained."""
        return {
            "unet": self.unet,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot be trained with."""
        if self.rank < 1:
            raise UserError(f"adapter.rank={self.rank}: a rank is at least 1.")
        if self.alpha <= 0:
            raise UserError(
                f"adapter.alpha={self.alpha}: alpha is above 0, or the adapter could have no effect."
            )
        for name in ("dropout", "rank_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"adapter.{name}={getattr(self, name)}: dropout is at least 0 and below 1.")
        if self.num_token_vectors < 1:
            raise UserError(f"adapter.num_token_vectors={self.num_token_vectors}: at least 1.")
        if self.token_embedding == "train" and not self.placeholder:
            raise UserError("adapter.token_embedding=train needs a word to train: set dataset.placeholder.")


def peft_config(
    settings: AdapterSettings, targets: list[str], sizes: Mapping[str, LayerSizes] | None = None
) -> PeftConfig:
    """The adapter of one component.

    Args:
        settings: see there.
        targets: from `resolve_targets`.
        sizes: from `layer_sizes`: the layers that have others than the settings'.
    """
    sizes = sizes or {}
    patterns: dict[str, Any] = {
        "rank_pattern": peft_pattern({path: size.rank for path, size in sizes.items()}),
        "alpha_pattern": peft_pattern({path: size.alpha for path, size in sizes.items()}),
    }
    # peft's alpha and dropout are typed as whole numbers here and there; it divides, any number will do.
    alpha: Any = settings.alpha
    if settings.method == "loha":
        return LoHaConfig(
            r=settings.rank,
            alpha=alpha,
            rank_dropout=settings.rank_dropout,
            target_modules=targets,
            **patterns,
        )
    if settings.method == "lokr":
        return LoKrConfig(
            r=settings.rank,
            alpha=alpha,
            rank_dropout=settings.rank_dropout,
            decompose_factor=settings.lokr_factor or _SQUARE,
            target_modules=targets,
            # The large factor starts at zero, as in LyCORIS; peft would start with the small one.
            init_weights="lycoris",
            **patterns,
        )
    return LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_dora=settings.method == "dora",
        use_rslora=settings.rslora,
        **patterns,
    )


def peft_pattern(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by layer as peft takes them, by regular expression: one for all layers of a value.

    peft tries each of a pattern's keys on each layer, so a key for every layer takes minutes on SDXL.

    Args:
        values: by a layer's whole name in its component.
    """
    paths: dict[Any, list[str]] = {}
    for path, value in values.items():
        # Other versions of transformers have the prefix; peft looks at the end of a name.
        paths.setdefault(value, []).append(path.removeprefix("text_model."))
    return {"|".join(alike): value for value, alike in paths.items()}


def method_of(config: PeftConfig) -> Method:
    """The method that peft's configuration of a component stands for."""
    if isinstance(config, LoraConfig):
        return "dora" if config.use_dora else "lora"
    return "loha" if isinstance(config, LoHaConfig) else "lokr"


def plain_alpha(config: PeftConfig, layer: Any = None) -> float:
    """The alpha for which alpha / rank is the scale, also of rsLoRA, whose scale is alpha / sqrt(rank).

    Args:
        config: of the component.
        layer: one of its layers, which may have its own; None for what most have.
    """
    if not isinstance(config, LoraConfig):
        assert isinstance(config, LoHaConfig | LoKrConfig)
        return float(config.alpha if layer is None else only(layer.alpha))
    rank, alpha = config.r, config.lora_alpha
    if layer is not None:
        assert isinstance(layer, LoraLayer)
        rank, alpha = only(layer.r), only(layer.lora_alpha)
    return float(alpha) * math.sqrt(rank) if config.use_rslora else float(alpha)


def only(by_adapter: Mapping[str, Any]) -> Any:
    """The value of the one adapter that a layer has."""
    (value,) = by_adapter.values()
    return value
