"""What can be configured of what is trained; see `schema.py`."""

from dataclasses import dataclass, field

from src.checks import require_choice
from src.config.checks import require_at_least, require_between, require_positive
from src.config.choices import COMPONENT_MODES
from src.errors import UserError


@dataclass(slots=True, kw_only=True)
class AdapterConfig:
    """What is trained."""

    unet: str = "lora"
    text_encoder: str = "frozen"
    text_encoder_2: str = "frozen"
    token_embedding: str = "frozen"
    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=list)
    text_target_modules: list[str] = field(default_factory=list)
    initializer_word: str = "object"

    def __post_init__(self) -> None:
        for name in ("unet", "text_encoder", "text_encoder_2"):
            require_choice(f"adapter.{name}", getattr(self, name), COMPONENT_MODES)
        require_choice("adapter.token_embedding", self.token_embedding, ("train", "frozen"))
        require_at_least("adapter.rank", self.rank, 1)
        require_positive("adapter.alpha", self.alpha)
        require_between("adapter.dropout", self.dropout, 0.0, 0.99)
        modes = (self.unet, self.text_encoder, self.text_encoder_2)
        if all(mode == "frozen" for mode in modes) and self.token_embedding == "frozen":
            raise UserError(
                "Everything is frozen, so there is nothing to train. Set adapter.unet=lora, for example."
            )
