"""One pace for all threads that ask the same servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class StoppedError(Exception):
    """The work is being stopped; a waiting thread ends."""


class Pace:
    """Hands out moments at which a request may start, evenly apart.

    Args:
        per_second: requests a second, of all threads together.
        clock: the time in seconds; another one for tests.
        sleep: waits so many seconds and says whether it was stopped; another one for tests.
    """

    def __init__(
        self,
        *,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], bool] | None = None,
    ) -> None:
        self._interval = 1.0 / per_second
        self._clock = clock
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._lock = threading.Lock()
        self._next = clock()
        self._num_holds = 0

    def wait(self) -> None:
        """Returns when it is this caller's turn.

        Raises:
            StoppedError: after `stop`.
        """
        while True:
            with self._lock:
                turn = max(self._clock(), self._next)
                self._next = turn + self._interval
                num_holds = self._num_holds
            self.sleep(turn - self._clock())
            if num_holds == self._num_holds:
                return
            # All were told to hold meanwhile: queue again, behind the pause.

    def hold(self, seconds: float) -> None:
        """No turn for anybody in the next seconds: a server asked for it."""
        if seconds > 0:
            with self._lock:
                self._next = max(self._next, self._clock() + seconds)
                self._num_holds += 1

    def sleep(self, seconds: float) -> None:
        """Waits, and no longer than until `stop`.

        Raises:
            StoppedError: after `stop`.
        """
        if self._stopped.is_set() or (seconds > 0 and self._sleep(seconds)):
            raise StoppedError

    def stop(self) -> None:
        """Wakes all that wait and lets nobody start again."""
        self._stopped.set()
