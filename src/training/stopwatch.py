"""Time spent training, without what validation, checkpoints and callbacks take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Counts seconds, images and steps since it was last read."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._excluded = 0.0
        self._num_samples = 0
        self._num_steps = 0

    def add(self, num_samples: int) -> None:
        """Counts a step."""
        self._num_samples += num_samples
        self._num_steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time inside. Not to be nested."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._excluded += time.monotonic() - started

    def read(self) -> dict[str, float]:
        """Throughput since the last reading."""
        seconds = max(time.monotonic() - self._started - self._excluded, 1e-9)
        values = {
            "throughput/images_per_second": self._num_samples / seconds,
            "throughput/seconds_per_step": seconds / max(self._num_steps, 1),
        }
        self.__init__()  # type: ignore[misc]
        return values
