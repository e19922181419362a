"""What can be configured of the loop; see `schema.py`."""

from dataclasses import dataclass

from src.checks import require_choice
from src.config.checks import require_at_least, require_between, require_positive
from src.config.choices import DEVICES, FULL_DISK, PRECISIONS, RESUME_CHANGED
from src.errors import UserError

NUM_TIMESTEPS = 1000  # of the noise schedules of both architectures


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    """The loop."""

    max_steps: int | None = None
    num_epochs: int | None = None
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    seed: int = 0
    resume: str = "never"
    resume_changed: str = "refuse"
    mixed_precision: str = "auto"
    device: str = "auto"
    gradient_checkpointing: bool = False
    max_grad_norm: float | None = 1.0
    min_snr_gamma: float | None = 5.0
    prior_loss_weight: float | None = None
    ema_decay: float | None = None
    caption_dropout: float = 0.0
    num_workers: int = 0
    deterministic: bool = False
    log_every: int = 10
    spike_factor: float | None = 10.0
    save_every: int | None = 100
    save_every_minutes: float | None = None
    keep_checkpoints: int = 2
    on_full_disk: str = "stop"
    validate_every: int | None = 100
    num_validation_timesteps: int = 8
    max_validation_images: int = 64

    def __post_init__(self) -> None:
        if self.max_steps is None and self.num_epochs is None:
            raise UserError("Neither trainer.max_steps nor trainer.num_epochs is set. Set one of them.")
        for name in (
            "max_steps",
            "num_epochs",
            "batch_size",
            "gradient_accumulation_steps",
            "log_every",
            "save_every",
            "keep_checkpoints",
            "validate_every",
            "num_validation_timesteps",
            "max_validation_images",
        ):
            require_at_least(f"trainer.{name}", getattr(self, name), 1)
        require_at_least("trainer.seed", self.seed, 0)
        require_at_least("trainer.num_workers", self.num_workers, 0)
        require_at_least("trainer.prior_loss_weight", self.prior_loss_weight, 0)
        require_positive("trainer.max_grad_norm", self.max_grad_norm)
        require_positive("trainer.min_snr_gamma", self.min_snr_gamma)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(
                f"trainer.ema_decay={self.ema_decay} must lie between 0 and 1, such as 0.999; null for none."
            )
        require_between("trainer.caption_dropout", self.caption_dropout, 0.0, 1.0)
        require_between("trainer.num_validation_timesteps", self.num_validation_timesteps, 1, NUM_TIMESTEPS)
        require_choice("trainer.mixed_precision", self.mixed_precision, PRECISIONS)
        require_choice("trainer.device", self.device, DEVICES)
        require_choice("trainer.resume_changed", self.resume_changed, RESUME_CHANGED)
        require_choice("trainer.on_full_disk", self.on_full_disk, FULL_DISK)
        require_positive("trainer.save_every_minutes", self.save_every_minutes)
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise UserError(
                f"trainer.spike_factor={self.spike_factor} must be above 1, or null to report no spikes."
            )
