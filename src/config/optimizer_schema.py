"""What can be configured of the optimiser; see `schema.py`."""

from dataclasses import dataclass
from typing import Any

from src.checks import require_choice
from src.config.checks import require_at_least, require_positive
from src.config.choices import SCHEDULES


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """The optimiser, its learning rates and their schedule."""

    algorithm: Any = None
    lr: float = 1e-4
    lr_text_encoder: float | None = None
    lr_token_embedding: float | None = None
    schedule: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "lr_text_encoder", "lr_token_embedding"):
            require_positive(f"optimizer.{name}", getattr(self, name))
        require_choice("optimizer.schedule", self.schedule, SCHEDULES)
        require_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
