"""Signals ask the loop to stop; they never interrupt it."""

import os
import signal
import threading
from types import FrameType
from typing import Any

# SIGUSR1 is what Slurm sends ahead of the time limit (--signal=USR1@60).
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag while it is entered; restores the handlers afterwards.

    The first signal counts. Later ones change nothing, so an impatient second Ctrl-C cannot damage the
    checkpoint that is being written.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python allows handlers in the main thread only; a trainer in another one (a test, a notebook) has
        # none.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received = signal.Signals(number)
            message = f"{name}: stopping after this step, with a checkpoint.\n"
        else:
            message = f"{name}: already stopping, please wait for the checkpoint.\n"
        # Not through logging: its lock may be held by the code that the signal interrupts.
        # On a terminal a progress bar may stand in the line.
        os.write(2, ("\n" * os.isatty(2) + message).encode())
