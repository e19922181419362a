"""What a callback is: it observes, and may ask for the run to stop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.loggers.protocol import Logger
from src.training.accelerator import Agreement
from src.training.state import StopRequest, TrainResult, TrainState, ValidationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What a callback sees of a run. A new one for each call; nothing in it is to be changed.

    Attributes:
        state: step, position, best.
        start_step: the step this process began with: 0, or that of the checkpoint it resumed from.
        max_steps: planned steps in all.
        num_epochs: planned passes over the data in all, as a fraction.
        seed: the run's seed; draw sample images from addresses that begin with it.
        output_dir: the run folder.
        model: the diffusion model that is trained (`src.models.base.DiffusionModel`), adapters attached.
            Under the guard it has the weights that are handed over: maybe an average of those in training.
            Switch modes and adapters as needed, in context managers, so that an error leaves the adapters as
            they were.
        logger: where numbers and images go.
        ranks: for callbacks that are called on every rank.
    """

    state: TrainState
    start_step: int
    max_steps: int
    num_epochs: float
    seed: int
    output_dir: Path
    model: Any
    logger: Logger
    ranks: Agreement = field(default_factory=Agreement)


# Hooks in which other ranks are not at the same place, or not called at all.
ALONE = ("on_memory", "on_exception")


class Callback:
    """Base of all callbacks; every hook does nothing until it is overridden.

    Hooks run at step boundaries, in the main process only unless `on_every_rank` says otherwise. The trainer
    runs each inside its own forked random state and restores modules' train/eval modes, requires_grad flags
    and grad mode afterwards, so a callback may sample and evaluate freely and the losses stay the same, bit
    for bit. A hook that raises is logged, named in the run's result and skipped; training goes on. A hook may
    return a `StopRequest`.

    Attributes:
        on_every_rank: whether hooks are called on all ranks, to work in shares (`RunView.ranks`). What waits
            for the others must be reached by all of them whatever happens before, so it comes first in a
            hook; only the main rank writes and logs. Not so `on_exception`, where the others may be anywhere,
            and `on_memory`, which the main rank alone calls: nothing there may wait for others.
    """

    on_every_rank: bool = False

    def needs_guard(self, hook: str, step: int) -> bool:
        """Whether a hook may touch the model, random states or grad mode at this step.

        The guard takes time. Where this says False the hook runs without it, and must do none of that.
        """
        return True

    def results(self) -> dict[str, float]:
        """Figures for the run's result and a sweep's table by "title/series", read when it has ended."""
        return {}

    def on_fit_start(self, run: RunView) -> StopRequest | None:
        """Before the first step, after a checkpoint was loaded."""

    def on_step_end(self, run: RunView) -> StopRequest | None:
        """After each optimiser step. Must be quick and must not touch the device."""

    def on_log(self, run: RunView, scalars: dict[str, float]) -> StopRequest | None:
        """Every `log_every` steps, with means over those steps under "title/series" names."""

    def on_memory(self, run: RunView, scalars: dict[str, float]) -> StopRequest | None:
        """At the end of each phase (load, cache, train, validate, save): memory and disk space, in GiB.

        Never under the guard, so it must touch no model, random state or grad mode.
        """

    def on_validation_end(self, run: RunView, result: ValidationResult) -> StopRequest | None:
        """After each validation. `run.state.best` takes it into account."""

    def on_checkpoint(self, run: RunView, path: Path, is_best: bool) -> StopRequest | None:
        """After a checkpoint was written. Older ones, this one among them, are removed as new ones come."""

    def on_fit_end(self, run: RunView, result: TrainResult) -> None:
        """After the last checkpoint, also when a signal or a callback ended the run."""

    def on_exception(self, run: RunView, error: BaseException) -> None:
        """Instead of `on_fit_end` when training failed. The checkpoint of the last good state is written."""
