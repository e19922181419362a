"""When a run ends and what is due at a step: pure arithmetic."""

from dataclasses import dataclass

from src.data.order import Position
from src.training.schedule import learning_rate_factor
from src.training.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The run's calendar.

    Attributes:
        num_micro_batches: in one pass over the data.
        max_steps: optimiser steps to end after, or None.
        num_epochs: passes over the data to end after, or None. With both the earlier end counts.
        gradient_accumulation_steps: micro-batches in one step, counted across passes.
        schedule: "constant", "cosine" or "linear".
        warmup_steps: of the learning rate.
        warmup_epochs: the same in passes over the data, whole or not; None where it is given in steps.
        min_lr_ratio: share of the learning rate at which linear and cosine end.
        log_every: steps between logs, and between checks for numbers that are not finite.
        validate_every: steps between validations; None validates at the end only.
        save_every: steps between checkpoints; None saves the best and the last only.
    """

    num_micro_batches: int
    max_steps: int | None
    num_epochs: int | None = None
    gradient_accumulation_steps: int = 1
    schedule: str = "constant"
    warmup_steps: int = 0
    warmup_epochs: float | None = None
    min_lr_ratio: float = 0.0
    log_every: int = 10
    validate_every: int | None = None
    save_every: int | None = None

    def __post_init__(self) -> None:
        assert self.max_steps is not None or self.num_epochs is not None, "a run without an end"

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run. The last one may be on a partial accumulation group."""
        ends = [self.max_steps]
        if self.num_epochs is not None:
            ends.append(-(-self.num_epochs * self.num_micro_batches // self.gradient_accumulation_steps))
        return min(end for end in ends if end is not None)

    @property
    def total_epochs(self) -> float:
        """Passes over the data in the whole run, as a fraction."""
        epochs = self.total_steps * self.gradient_accumulation_steps / self.num_micro_batches
        return epochs if self.num_epochs is None else min(epochs, float(self.num_epochs))

    @property
    def total_warmup_steps(self) -> int:
        """Optimiser steps of the warm-up; of passes to the nearest whole step."""
        if self.warmup_epochs is None:
            return self.warmup_steps
        return round(self.warmup_epochs * self.num_micro_batches / self.gradient_accumulation_steps)

    def ends_before(self, position: Position) -> bool:
        """Whether the run ends before a micro-batch, because its passes are over."""
        return self.num_epochs is not None and position.pass_number >= self.num_epochs

    def end_reason(self, state: TrainState) -> str | None:
        """Why the run is over, None while it is not."""
        if self.max_steps is not None and state.step >= self.max_steps:
            return "max_steps"
        return "num_epochs" if self.ends_before(state.position) else None

    def learning_rate_factor(self, step: int) -> float:
        """See `learning_rate_factor`."""
        return learning_rate_factor(
            step,
            schedule=self.schedule,
            warmup_steps=self.total_warmup_steps,
            max_steps=self.total_steps,
            min_ratio=self.min_lr_ratio,
        )


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step % every == 0
