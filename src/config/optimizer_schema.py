"""What can be configured of the optimiser; see `schema.py`."""

from dataclasses import dataclass
from typing import Any

from src.checks import require_choice
from src.config.checks import require_at_least, require_between, require_positive
from src.config.choices import SCHEDULES
from src.errors import UserError

_PRODIGY = "prodigyopt.Prodigy"
_SCHEDULE_FREE = "schedulefree.AdamWScheduleFree"
# Below this Prodigy's own estimate is scaled to nothing: a learning rate that was meant for AdamW.
_LEAST_PRODIGY_LR = 0.1
_RATES = ("lr_text_encoder", "lr_text_encoder_2", "lr_token_embedding")


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """The optimiser, its learning rates and their schedule."""

    algorithm: Any = None
    lr: float = 1e-4
    lr_text_encoder: float | None = None
    lr_text_encoder_2: float | None = None
    lr_token_embedding: float | None = None
    schedule: str = "constant"
    warmup_steps: int | None = 0
    warmup_epochs: float | None = None
    min_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", *_RATES):
            require_positive(f"optimizer.{name}", getattr(self, name))
        require_choice("optimizer.schedule", self.schedule, SCHEDULES)
        require_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        require_at_least("optimizer.warmup_epochs", self.warmup_epochs, 0)
        require_between("optimizer.min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise UserError(
                f"optimizer.warmup_steps={self.warmup_steps} and "
                f"optimizer.warmup_epochs={self.warmup_epochs} are both set. Set one of them to null."
            )
        if self.min_lr_ratio > 0 and self.schedule == "constant":
            raise UserError(
                f"optimizer.min_lr_ratio={self.min_lr_ratio} has no effect with optimizer.schedule=constant. "
                "Set optimizer.schedule=cosine or linear, or optimizer.min_lr_ratio=0."
            )
        if self._target() == _PRODIGY:
            self._check_prodigy()
        if self.averages_weights and self.schedule != "constant":
            raise UserError(
                f"optimizer.schedule={self.schedule}: schedule-free averages the weights in place of a "
                "schedule. Set optimizer.schedule=constant; optimizer.warmup_steps is good for it."
            )

    @property
    def averages_weights(self) -> bool:
        """Whether the algorithm keeps an average of the weights by itself."""
        return self._target() == _SCHEDULE_FREE

    @property
    def class_name(self) -> str:
        """The algorithm's name without its package."""
        return self._target().rpartition(".")[2]

    def _target(self) -> str:
        return self.algorithm.get("_target_", "") if isinstance(self.algorithm, dict) else ""

    def _check_prodigy(self) -> None:
        """Prodigy estimates one step size for all that is trained; its step refuses different rates."""
        if self.lr < _LEAST_PRODIGY_LR:
            raise UserError(
                f"optimizer.lr={self.lr}: Prodigy finds the learning rate by itself, and this is a factor of "
                "it. Set optimizer.lr=1, or choose another optimizer for a rate of your own."
            )
        for name in _RATES:
            if getattr(self, name) not in (None, self.lr):
                raise UserError(
                    f"optimizer.{name}={getattr(self, name)}: Prodigy has one learning rate for all that is "
                    f"trained. Set optimizer.{name}=null, or choose another optimizer."
                )
