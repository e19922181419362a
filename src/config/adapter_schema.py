"""What can be configured of what is trained; see `schema.py`."""

import math
from dataclasses import dataclass
from typing import Any

from src.checks import require_choice
from src.config.checks import require_at_least, require_between, require_positive
from src.config.choices import ADAPTER_METHODS, COMPONENT_MODES
from src.errors import UserError

_OF_LORA = ("lora", "dora")
_OF_LYCORIS = ("loha", "lokr")
# A prompt of one chunk has room for 75 tokens.
_MAX_VECTORS = 32


@dataclass(slots=True, kw_only=True)
class AdapterConfig:
    """What is trained."""

    unet: str = "lora"
    text_encoder: str = "frozen"
    text_encoder_2: str = "frozen"
    token_embedding: str = "frozen"
    method: str = "lora"
    rank: int = 16
    alpha: float = 16.0
    rslora: bool = False
    # Mappings. OmegaConf gives a typed one that is null no value by an override.
    rank_pattern: Any = None
    alpha_pattern: Any = None
    dropout: float = 0.0
    rank_dropout: float = 0.0
    lokr_factor: int | None = None
    # One text or a list of them.
    target_modules: Any = None
    text_target_modules: Any = None
    initializer_word: str = "object"
    num_token_vectors: int = 1

    def __post_init__(self) -> None:
        for name in ("unet", "text_encoder", "text_encoder_2"):
            require_choice(f"adapter.{name}", getattr(self, name), COMPONENT_MODES)
        require_choice("adapter.token_embedding", self.token_embedding, ("train", "frozen"))
        require_choice("adapter.method", self.method, ADAPTER_METHODS)
        require_at_least("adapter.rank", self.rank, 1)
        require_positive("adapter.alpha", self.alpha)
        self.rank_pattern = _numbers("adapter.rank_pattern", self.rank_pattern, int, "a whole number from 1")
        self.alpha_pattern = _numbers("adapter.alpha_pattern", self.alpha_pattern, float, "a number above 0")
        require_between("adapter.dropout", self.dropout, 0.0, 0.99)
        require_between("adapter.rank_dropout", self.rank_dropout, 0.0, 0.99)
        require_at_least("adapter.lokr_factor", self.lokr_factor, 2)
        require_between("adapter.num_token_vectors", self.num_token_vectors, 1, _MAX_VECTORS)
        for name in ("target_modules", "text_target_modules"):
            setattr(self, name, _texts(f"adapter.{name}", getattr(self, name)))
        modes = (self.unet, self.text_encoder, self.text_encoder_2)
        if all(mode == "frozen" for mode in modes) and self.token_embedding == "frozen":
            raise UserError(
                "Everything is frozen, so there is nothing to train. Set adapter.unet=lora, for example."
            )
        self._refuse_what_does_nothing(has_adapter="lora" in modes)

    def _refuse_what_does_nothing(self, *, has_adapter: bool) -> None:
        given = {
            "adapter.method": (self.method, "lora", ADAPTER_METHODS),
            "adapter.rslora": (self.rslora, False, _OF_LORA),
            "adapter.rank_pattern": (self.rank_pattern, {}, ADAPTER_METHODS),
            "adapter.alpha_pattern": (self.alpha_pattern, {}, ADAPTER_METHODS),
            "adapter.dropout": (self.dropout, 0.0, _OF_LORA),
            "adapter.rank_dropout": (self.rank_dropout, 0.0, _OF_LYCORIS),
            "adapter.lokr_factor": (self.lokr_factor, None, ("lokr",)),
        }
        for key, (value, default, methods) in given.items():
            if value == default:
                continue
            if not has_adapter:
                raise UserError(
                    f"{key}={value} does nothing: no component has an adapter. Set adapter.unet=lora (the "
                    "adapter of adapter.method), or take the key away."
                )
            if self.method not in methods:
                raise UserError(
                    f"{key}={value} is for adapter.method={' or '.join(methods)}, not {self.method}. Take it "
                    "away" + (", or set adapter.rank_dropout." if key == "adapter.dropout" else ".")
                )
        if self.num_token_vectors > 1 and self.token_embedding == "frozen":
            raise UserError(
                f"adapter.num_token_vectors={self.num_token_vectors} does nothing without "
                "adapter.token_embedding=train."
            )


def _texts(key: str, value: Any) -> list[str]:
    """One text as a list of one; nothing as an empty list.

    Raises:
        UserError: something else, or nothing in it.
    """
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) and text for text in values):
        raise UserError(
            f"{key}={value} must be names of layers: endings, patterns with * or a set (diffusers, kohya); "
            f"for example {key}=kohya or '{key}=[to_q,to_k]'."
        )
    return values


def _numbers(key: str, value: Any, kind: type[int] | type[float], what: str) -> dict[str, Any]:
    """Numbers by the layers they are for; nothing as an empty mapping.

    Raises:
        UserError: something else.
    """
    numbers = {} if value is None else value
    example = f"for example '{key}={{mid_block.*:32,to_k:4}}'"
    if not isinstance(numbers, dict) or not all(isinstance(layers, str) for layers in numbers):
        raise UserError(f"{key}={value} must name layers and {what} for each; {example}.")
    for layers, number in numbers.items():
        is_number = isinstance(number, int) or (kind is float and isinstance(number, float))
        if isinstance(number, bool) or not is_number or not 0 < number < math.inf:
            raise UserError(f"{key}.{layers}={number} must be {what}; {example}.")
    return numbers
