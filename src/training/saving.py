"""Saving and resuming over several ranks: the main one writes, the others wait and hear whether it worked."""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from src.errors import FullDiskError, UserError
from src.training.accelerator import Agreement
from src.training.checkpoint import WEIGHTS, Checkpointer, load_checkpoint
from src.training.evaluation_weights import TrainingWeights
from src.training.observers import describe
from src.training.optimizers import all_finite
from src.training.resume import resolve
from src.training.signals import StopSignals
from src.training.snapshot import Snapshot, Taken
from src.training.state import TrainState

_log = logging.getLogger(__name__)
# What optimisers keep, in sizes of the weights: the two moments of an Adam, more or less of others. Needed
# before there is any state.
_NUM_KEPT = {"AdamW8bit": 0.5, "Adafactor": 1.0, "Prodigy": 4.0}
_NUM_KEPT_OF_ADAM = 2.0
# Between two looks at a full disk, and between two lines that say so. Signals are looked at more often.
_RETRY_SECONDS = 10.0
_REMINDER_SECONDS = 600.0
_GLANCE_SECONDS = 0.5


def checkpoint_bytes(weights: Iterable[Tensor], *, optimizer: str, has_average: bool) -> int:
    """About how large a checkpoint of these trained weights will be.

    Args:
        weights: what is trained.
        optimizer: the name of the optimiser's class.
        has_average: whether an average of the weights is saved beside them.
    """
    num_copies = 1.0 + _NUM_KEPT.get(optimizer, _NUM_KEPT_OF_ADAM) + float(has_average)
    return int(num_copies * sum(tensor.numel() * tensor.element_size() for tensor in weights))


class Saver:
    """A run's way to disk and back.

    Args:
        checkpointer: writes and removes.
        snapshot: what is written.
        accelerator: says which process writes.
        agreement: tells the others.
        signals: one that arrives ends the wait for space.
        every_minutes: minutes between checkpoints, by the main process's clock; None for no such rule.
        wait_for_space: on a full disk wait until there is space; else that is an error.

    Attributes:
        saved_step: the step of the newest checkpoint that this process wrote or started from.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        snapshot: Snapshot,
        *,
        accelerator: Accelerator,
        agreement: Agreement,
        signals: StopSignals,
        every_minutes: float | None = None,
        wait_for_space: bool = False,
    ) -> None:
        self.saved_step: int | None = None
        self._checkpointer = checkpointer
        self._snapshot = snapshot
        self._is_main = accelerator.is_main_process
        self._agreement = agreement
        self._signals = signals
        self._every_minutes = every_minutes
        self._waits_for_space = wait_for_space
        self._saved_at = time.monotonic()
        # What all ranks put together for the save at hand, and its step.
        self._gathered: tuple[int, Taken] | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is or would be."""
        return self._checkpointer.path(step)

    def begin(self, resume: str) -> TrainState:
        """Checks the disk, finds the checkpoint to start from and loads it. Every rank calls it.

        Raises:
            UserError: the disk is full or read-only, or there is nothing to resume from.
        """
        self._checkpointer.prepare(
            checkpoint_bytes(
                self._snapshot.trainable_state().values(),
                optimizer=type(self._snapshot.optimizer).__name__,
                has_average=not isinstance(self._snapshot.evaluation, TrainingWeights),
            )
        )
        path = self._agreed_checkpoint(resume)
        if path is None:
            return TrainState()
        state = self._snapshot.restore(load_checkpoint(path))
        if path.resolve().parent == self._checkpointer.folder.resolve():
            self.saved_step = state.step
        if state.best is not None and not self.path(state.best.step).exists():
            _log.info(
                "The best checkpoint so far is not in this run folder; the run looks for a new best one."
            )
            state = replace(state, best=None)
        _log.info("Resuming from %s.", path)
        self._saved_at = time.monotonic()
        return state

    def _agreed_checkpoint(self, resume: str) -> Path | None:
        """The checkpoint to start from: on all ranks the same, or an error on all."""
        path, failure = None, None
        try:
            path = resolve(resume, folder=self._checkpointer.folder)
        except UserError as error:
            failure = error
        self._agreement.raise_for_all(failure)
        mine = "no checkpoint" if path is None else path.name
        theirs = self._agreement.from_main(mine)
        if theirs != mine:
            failure = UserError(
                f"Rank {self._agreement.rank} finds {mine} in {self._checkpointer.folder}, the main process "
                f"{theirs}. All machines must see the same disk: compare paths.output_dir. Where they do, it "
                "may lag behind: start again."
            )
        self._agreement.raise_for_all(failure)
        return path

    def is_time(self) -> bool:
        """Whether the minutes since the last checkpoint are over. Every rank calls it, at the same place."""
        if self._every_minutes is None:
            return False
        # One clock decides: those of other machines would say yes a step earlier or later.
        is_over = self._is_main and time.monotonic() - self._saved_at >= 60 * self._every_minutes
        return self._agreement.largest(int(is_over)) > 0

    def save(self, state: TrainState, *, num_reserved: int) -> None:
        """Writes a checkpoint. Every rank calls it, and none goes on before it is whole.

        Raises:
            UserError: it could not be written; on every rank.
        """
        # Shards are put together by all ranks.
        self._gathered = None
        if self._snapshot.is_sharded:
            self._gathered = (state.step, self._snapshot.take(state))
        failure = None
        if self._is_main:
            try:
                self._write_or_wait(state, num_reserved)
            except Exception as error:
                failure = error
        # Every rank learns the cause: the launcher ends the others with the first that fails, and the main
        # one may not come to print it.
        cause = self._agreement.from_main(None if failure is None else describe(failure))
        if cause is not None:
            raise failure or UserError(f"The main process could not write a checkpoint: {cause}")
        self.saved_step = state.step
        self._saved_at = time.monotonic()
        self._gathered = None

    def rescue(self, state: TrainState) -> None:
        """Writes a checkpoint after an error. No collectives: the other ranks may be anywhere."""
        if not self._is_main or state.step == self.saved_step:
            return
        try:
            # What a save put together that then failed is whole.
            is_gathered = self._gathered is not None and self._gathered[0] == state.step
            if self._snapshot.is_sharded and not is_gathered:
                _log.error("One process cannot save sharded weights: the last checkpoint stays the newest.")
                return
            if not all_finite(self._weights()):
                _log.error("The weights are not finite any more: the last checkpoint stays the newest.")
            else:
                self._write(state, num_reserved=1)
                self.saved_step = state.step
                _log.error(
                    "Training failed; step %d is saved in %s. Continue with this run's run.name and "
                    "trainer.resume=auto.",
                    state.step,
                    self._checkpointer.folder,
                )
        finally:
            self._gathered = None

    def tell_what_is_lost(self, state: TrainState, *, start_step: int) -> None:
        """Says after an error which steps are in no checkpoint, and how to go on."""
        kept = start_step if self.saved_step is None else self.saved_step
        if self._is_main and state.step > kept:
            newest = f"The newest checkpoint is that of step {kept}: continue" if kept else "Start again"
            values = (kept + 1, state.step, newest)
            _log.error("Lost: steps %d to %d. %s with this run's run.name and trainer.resume=auto.", *values)

    def _weights(self) -> Iterable[Tensor]:
        """The trained weights, as they would be written."""
        if self._gathered is None:
            return self._snapshot.trainable_state().values()
        tensors, _ = self._gathered[1]
        return tensors[WEIGHTS].values()

    def _write_or_wait(self, state: TrainState, num_reserved: int) -> None:
        """Writes; on a full disk again and again, if that is wanted, until it succeeds or a signal comes."""
        started = told = None
        while True:
            try:
                self._write(state, num_reserved)
            except FullDiskError as error:
                if not self._waits_for_space:
                    raise
                if self._signals.received is not None:
                    # The end of the run needs room for one checkpoint only.
                    self._write(state, num_reserved=1)
                    return
                now = time.monotonic()
                started = now if started is None else started
                if told is None or now - told >= _REMINDER_SECONDS:
                    told = now
                    _log.warning(
                        "%s Training waits at step %d until there is space (trainer.on_full_disk=wait); a "
                        "signal ends it.",
                        error,
                        state.step,
                    )
                self._pause()
            else:
                if started is not None:
                    _log.info("There is space again; waited %.0f s.", time.monotonic() - started)
                return

    def _pause(self) -> None:
        until = time.monotonic() + _RETRY_SECONDS
        while time.monotonic() < until and self._signals.received is None:
            time.sleep(_GLANCE_SECONDS)

    def _write(self, state: TrainState, num_reserved: int) -> None:
        tensors, documents = self._snapshot.take(state) if self._gathered is None else self._gathered[1]
        self._checkpointer.save(
            step=state.step,
            tensors=tensors,
            documents=documents,
            best_step=None if state.best is None else state.best.step,
            num_reserved=num_reserved,
        )
