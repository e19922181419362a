"""SIGTERM and Slurm's SIGUSR1 end a single run as Ctrl-C does, wherever the loop is not there to save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Terminated(KeyboardInterrupt):
    """The run was asked to end. No `except Exception` holds it.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)


@contextmanager
def single_run() -> Iterator[None]:
    """Around a run. While the loop trains its own handlers are in place.

    Raises:
        Terminated: at the first signal. Later ones would interrupt what closes files and trackers after it.
    """

    def handle(number: int, _: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
