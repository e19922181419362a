"""Saving and resuming over several ranks: the main one writes, the others wait and hear whether it worked."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from src.errors import UserError
from src.training.accelerator import Agreement
from src.training.checkpoint import Checkpointer, load_checkpoint
from src.training.observers import describe
from src.training.optimizers import all_finite
from src.training.resume import resolve
from src.training.snapshot import Snapshot, Taken
from src.training.state import TrainState

_log = logging.getLogger(__name__)
# Weights and the two moments of an Adam: what a checkpoint takes before the optimiser has any state.
_NUM_COPIES = 3


def checkpoint_bytes(weights: Iterable[Tensor]) -> int:
    """About how large a checkpoint of these trained weights will be."""
    return _NUM_COPIES * sum(tensor.numel() * tensor.element_size() for tensor in weights)


class Saver:
    """A run's way to disk and back.

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
    ) -> None:
        self.saved_step: int | None = None
        self._checkpointer = checkpointer
        self._snapshot = snapshot
        self._is_main = accelerator.is_main_process
        self._agreement = agreement
        self._gathered: Taken | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is or would be."""
        return self._checkpointer.path(step)

    def begin(self, resume: str) -> TrainState:
        """Checks the disk, finds the checkpoint to start from and loads it. Every rank calls it.

        Raises:
            UserError: the disk is full or read-only, or there is nothing to resume from.
        """
        self._checkpointer.prepare(checkpoint_bytes(self._snapshot.trainable_state().values()))
        path = resolve(resume, folder=self._checkpointer.folder)
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
        return state

    def save(self, state: TrainState, *, num_reserved: int) -> None:
        """Writes a checkpoint. Every rank calls it, and none goes on before it is whole.

        Raises:
            UserError: it could not be written; on every rank.
        """
        # Shards are put together by all ranks.
        self._gathered = self._snapshot.take(state) if self._snapshot.is_sharded else None
        failure = None
        if self._is_main:
            try:
                self._write(state, num_reserved)
            except Exception as error:
                failure = error
        # Every rank learns the cause: the launcher ends the others with the first that fails, and the main
        # one may not come to print it.
        cause = self._agreement.from_main(None if failure is None else describe(failure))
        if cause is not None:
            raise failure or UserError(f"The main process could not write a checkpoint: {cause}")
        self.saved_step = state.step
        self._gathered = None

    def rescue(self, state: TrainState) -> None:
        """Writes a checkpoint after an error. No collectives: the other ranks may be anywhere."""
        if not self._is_main or state.step == self.saved_step:
            return
        if self._snapshot.is_sharded:
            _log.error("One process cannot save sharded weights: the last checkpoint stays the newest.")
            return
        if all_finite(self._snapshot.trainable_state().values()):
            self._write(state, num_reserved=1)
            _log.error(
                "Training failed; step %d is saved in %s. Continue with this run's run.name and "
                "trainer.resume=auto.",
                state.step,
                self._checkpointer.folder,
            )

    def _write(self, state: TrainState, num_reserved: int) -> None:
        tensors, documents = self._gathered or self._snapshot.take(state)
        self._checkpointer.save(
            step=state.step,
            tensors=tensors,
            documents=documents,
            best_step=None if state.best is None else state.best.step,
            num_reserved=num_reserved,
        )
