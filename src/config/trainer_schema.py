"""What can be configured of the loop; see `schema.py`."""

import math
from dataclasses import dataclass

from src.checks import require_choice
from src.config.checks import require_at_least, require_between, require_positive
from src.config.choices import (
    BASE_PRECISIONS,
    DEVICES,
    FULL_DISK,
    LOSS_WEIGHTINGS,
    PRECISIONS,
    PREDICTION_TYPES,
    RESUME_CHANGED,
    TIMESTEP_SAMPLINGS,
)
from src.errors import UserError

NUM_TIMESTEPS = 1000  # of the noise schedules of both architectures
MIN_SNR_GAMMA = 5.0
UNMASKED_WEIGHT = 0.1


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
    base_precision: str = "auto"
    device: str = "auto"
    gradient_checkpointing: bool = False
    memory_preflight: bool = False
    memory_limit_gb: float | None = None
    max_grad_norm: float | None = 1.0
    loss_weighting: str = "min_snr"
    min_snr_gamma: float | None = MIN_SNR_GAMMA
    noise_offset: float = 0.0
    prediction_type: str = "auto"
    zero_terminal_snr: bool = False
    timestep_sampling: str = "uniform"
    logit_normal_mean: float = 0.0
    logit_normal_std: float = 1.0
    min_timestep: int = 0
    max_timestep: int = NUM_TIMESTEPS
    unmasked_weight: float = UNMASKED_WEIGHT
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
        require_positive("trainer.memory_limit_gb", self.memory_limit_gb)
        require_positive("trainer.max_grad_norm", self.max_grad_norm)
        self._check_objective()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(
                f"trainer.ema_decay={self.ema_decay} must lie between 0 and 1, such as 0.999; null for none."
            )
        require_between("trainer.caption_dropout", self.caption_dropout, 0.0, 1.0)
        require_between("trainer.num_validation_timesteps", self.num_validation_timesteps, 1, NUM_TIMESTEPS)
        require_choice("trainer.mixed_precision", self.mixed_precision, PRECISIONS)
        require_choice("trainer.base_precision", self.base_precision, BASE_PRECISIONS)
        require_choice("trainer.device", self.device, DEVICES)
        require_choice("trainer.resume_changed", self.resume_changed, RESUME_CHANGED)
        require_choice("trainer.on_full_disk", self.on_full_disk, FULL_DISK)
        require_positive("trainer.save_every_minutes", self.save_every_minutes)
        if self.memory_limit_gb is not None and not self.memory_preflight:
            raise UserError(
                f"trainer.memory_limit_gb={self.memory_limit_gb} is for the memory preflight, which is off. "
                "Set trainer.memory_preflight=true, or take the limit away."
            )
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise UserError(
                f"trainer.spike_factor={self.spike_factor} must be above 1, or null to report no spikes."
            )

    @property
    def min_snr_cap(self) -> float | None:
        """The cap of the min-SNR weights, None where these are not used."""
        return self.min_snr_gamma if self.loss_weighting == "min_snr" else None

    def _check_objective(self) -> None:
        require_choice("trainer.loss_weighting", self.loss_weighting, LOSS_WEIGHTINGS)
        require_positive("trainer.min_snr_gamma", self.min_snr_gamma)
        if self.loss_weighting != "min_snr" and self.min_snr_gamma not in (None, MIN_SNR_GAMMA):
            raise UserError(
                f"trainer.min_snr_gamma={self.min_snr_gamma} is not used with trainer.loss_weighting="
                f"{self.loss_weighting}. Take it away, or set trainer.loss_weighting=min_snr."
            )
        require_between("trainer.noise_offset", self.noise_offset, 0.0, 1.0)
        require_choice("trainer.prediction_type", self.prediction_type, PREDICTION_TYPES)
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise UserError(
                "trainer.zero_terminal_snr=true needs trainer.prediction_type=v_prediction: where no signal "
                "is left the model is given the noise itself, and to predict that teaches nothing."
            )
        if self.zero_terminal_snr and (self.min_snr_cap is not None or self.loss_weighting == "debiased"):
            raise UserError(
                "trainer.zero_terminal_snr=true is for the last timestep, where sampling begins, and "
                f"trainer.loss_weighting={self.loss_weighting} gives it weight 0: the SNR is 0 there. Set "
                "trainer.loss_weighting=none."
            )
        require_between("trainer.unmasked_weight", self.unmasked_weight, 0.0, 1.0)
        self._check_timesteps()

    def _check_timesteps(self) -> None:
        require_choice("trainer.timestep_sampling", self.timestep_sampling, TIMESTEP_SAMPLINGS)
        require_positive("trainer.logit_normal_std", self.logit_normal_std)
        if not math.isfinite(self.logit_normal_mean):
            raise UserError(f"trainer.logit_normal_mean={self.logit_normal_mean} must be a number.")
        is_set = (self.logit_normal_mean, self.logit_normal_std) != (0.0, 1.0)
        if self.timestep_sampling != "logit_normal" and is_set:
            raise UserError(
                f"trainer.logit_normal_mean and trainer.logit_normal_std are not used with "
                f"trainer.timestep_sampling={self.timestep_sampling}. Take them away, or set logit_normal."
            )
        require_between("trainer.min_timestep", self.min_timestep, 0, NUM_TIMESTEPS - 1)
        require_between("trainer.max_timestep", self.max_timestep, 1, NUM_TIMESTEPS)
        if self.min_timestep >= self.max_timestep:
            raise UserError(
                f"trainer.min_timestep={self.min_timestep} and trainer.max_timestep={self.max_timestep} "
                "leave no timestep. The first is trained, the second is the one after the last."
            )
