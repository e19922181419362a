"""Ctrl-C, SIGTERM and Slurm's SIGUSR1 end a sweep, not only the job that happens to run.

State of a process, as signals are: joblib's jobs run in processes of their own.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """The sweep was asked to end. No `except Exception` of a launcher or sweeper holds it."""


class _SweepSignals:
    """Which signal asked for the end, if one did.

    While the loop trains, its own handlers are in place: it saves and returns the signal in its exit code,
    and the caller says so by `note`.

    Attributes:
        received: the first of them.
        owns_sweep: whether this process runs the sweep; else it is a launcher's worker.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.owns_sweep = False
        self._in_job = False
        self._launchers: dict[signal.Signals, Any] = {}

    @contextmanager
    def sweep(self) -> Iterator[None]:
        """Around a whole sweep, in the process that runs it."""
        self.owns_sweep = True
        before = self._install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def job(self) -> Iterator[None]:
        """Around one job.

        Raises:
            Stopped: there was a signal before it, or there is one while the loop does not train.
        """
        if not self.owns_sweep:
            before = self._install()
            # A worker of joblib's gets several jobs: then these are our own already.
            self._launchers |= {n: handler for n, handler in before.items() if handler != self._handle}
        if self.received is not None:
            raise Stopped
        self._in_job = True
        try:
            yield
        finally:
            self._in_job = False

    def hand_on(self) -> None:
        """Gives submitit its turn after the job has saved: it queues the job again and exits."""
        handler = None if self.received is None else self._launchers.get(self.received)
        if self.received == signal.SIGUSR1 and callable(handler):
            handler(self.received, None)

    def note(self, number: int) -> None:
        """Remembers a signal that the training loop received."""
        self.received = signal.Signals(number)

    def _install(self) -> dict[signal.Signals, Any]:
        return {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, _: FrameType | None) -> None:
        is_first = self.received is None
        self.received = self.received or signal.Signals(number)
        if self._in_job:
            # Once: a second one would interrupt what closes the trackers after the first.
            if is_first:
                raise Stopped
        elif self.owns_sweep:
            if not is_first:
                raise Stopped
            # The jobs are in a launcher's workers. They save, end, and begin no other job; killing them, as
            # an exception here would do, loses the steps since their last checkpoints.
            os.write(2, b"Stopping: waiting for the jobs that run. Once more ends them at once.\n")
            for child in psutil.Process().children():
                child.terminate()


SIGNALS = _SweepSignals()
