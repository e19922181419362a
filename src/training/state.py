"""Where a run is, why it should stop, and what it comes to: plain values that rooms pass to each other."""

import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.data.order import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The step with the lowest validation loss so far."""

    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Where a run is. All of its randomness is addressed, so this is all that resuming needs to know.

    Attributes:
        step: optimiser steps done.
        position: the next micro-batch.
        num_samples: samples trained on, over all ranks.
        best: the best validation so far.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    num_samples: int = 0
    best: Best | None = None

    @property
    def pass_number(self) -> int:
        """The pass over the data that the next micro-batch belongs to, from 0."""
        return self.position.pass_number

    def with_best(self, step: int, value: float) -> "TrainState":
        """The same state with another best step."""
        return replace(self, best=Best(step=step, value=value))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "step": self.step,
            "position": {"pass_number": self.position.pass_number, "index": self.position.index},
            "num_samples": self.num_samples,
            "best": None if self.best is None else {"step": self.best.step, "value": self.best.value},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainState":
        """The inverse of `to_json`."""
        return cls(
            step=value["step"],
            position=Position(**value["position"]),
            num_samples=value["num_samples"],
            best=None if value["best"] is None else Best(**value["best"]),
        )


@dataclass(frozen=True, slots=True)
class StopRequest:
    """What a callback returns to end the run. Only the loop acts on it, at a step boundary."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Plain mean squared errors at fixed timesteps and noise.

    Attributes:
        step: optimiser steps done when it was measured.
        loss: mean over held-out images and timesteps.
        curve: mean over held-out images at each timestep.
        train_loss: the same of a probe of training images, as many as were held out or fewer.
        train_curve: the same of the probe.
        num_images: held-out images measured.
        seconds: how long it took.
    """

    step: int
    loss: float
    curve: dict[int, float]
    train_loss: float
    train_curve: dict[int, float]
    num_images: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to.

    Attributes:
        step: optimiser steps done, those before a resume included.
        stop_reason: "max_steps", "num_epochs", "signal SIGTERM", or "callback <name>: <reason>".
        best: the step with the lowest validation loss, if there was a validation.
        best_checkpoint: its checkpoint.
        checkpoint: the checkpoint of the last step, None if no step was taken.
        losses: the last logged scalars whose title is "loss", and the last validation's.
        failures: callbacks and validations that failed and were skipped, one line each.
        changes: what was not the same when the run was resumed with `trainer.resume_changed=allow`.
        num_spikes: logs with a step whose loss or gradient was far above what was usual.
        received_signal: the signal that ended the run.
    """

    step: int
    stop_reason: str
    best: Best | None
    best_checkpoint: Path | None
    checkpoint: Path | None
    losses: dict[str, float]
    failures: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    num_spikes: int = 0
    received_signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What the process should exit with: 0, or 128 plus the signal (143, 130, 138)."""
        return 0 if self.received_signal is None else 128 + signal.Signals(self.received_signal)
