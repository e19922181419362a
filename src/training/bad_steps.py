"""What is kept of a step to name the cause if its numbers were not finite."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError
from src.training.state import TrainState


class NonFiniteError(UserError):
    """A loss or gradient was not finite. The weights are those before that step.

    Attributes:
        last_good: where the run was before it; None if that is where it is now.
    """

    def __init__(self, message: str, *, last_good: TrainState | None) -> None:
        self.last_good = last_good
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What it takes to name the cause of a bad step afterwards."""

    before: TrainState
    ids: tuple[tuple[str, ...], ...]
    timesteps: tuple[Int[Tensor, " _"], ...]
    losses: tuple[Float[Tensor, " _"], ...]


def describe_bad(record: StepRecord) -> list[str]:
    """Names the samples whose own loss is not finite, or all of them where only a gradient was not."""
    samples = [
        (sample_id, timestep, loss)
        for ids, timesteps, losses in zip(record.ids, record.timesteps, record.losses, strict=True)
        for sample_id, timestep, loss in zip(ids, timesteps.tolist(), losses.isfinite().tolist(), strict=True)
    ]
    bad = [sample for sample in samples if not sample[2]]
    return [f"{sample_id} (timestep {timestep})" for sample_id, timestep, _ in bad or samples]


def describe_largest(record: StepRecord, *, num_samples: int = 4) -> list[str]:
    """Names the samples with the largest losses of a step, the largest first."""
    samples = [
        (loss, sample_id, timestep)
        for ids, timesteps, losses in zip(record.ids, record.timesteps, record.losses, strict=True)
        for sample_id, timestep, loss in zip(ids, timesteps.tolist(), losses.tolist(), strict=True)
    ]
    largest = sorted(samples, reverse=True)[:num_samples]
    return [f"{sample_id} (timestep {timestep}, loss {loss:.4g})" for loss, sample_id, timestep in largest]
