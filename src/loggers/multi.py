"""Several loggers as one, none of which can stop, slow or break a run: trackers are guests."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from src.loggers.events import Event, EventLogger
from src.loggers.jsonl import JsonlLogger
from src.loggers.protocol import Logger, Status
from src.redact import redact

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_SLOWEST_UPLOAD = 1e6  # bytes a second; what is slower than this counts as hanging
_LONGEST_UPLOAD = 1800.0  # seconds
_COMPLAINTS = 3  # how many failures of one logger are told one by one


class MultiLogger(EventLogger):
    """Passes every call to each logger through a bounded queue and a thread of its own.

    From `start` to `close` it also passes on what the program logs, for the trackers' console pages.
    metrics.jsonl is always one of them, and holds everything. So a tracker that raises, hangs or cannot be
    opened loses nothing: `where` says what it did not take and that the run can be sent again from there.

    Args:
        loggers: the trackers by name.
        run_dir: the run folder, where metrics.jsonl goes.
        is_main: false in all processes but one: nothing is opened or logged there.
        start_timeout: seconds that training waits for the loggers to open, all together.
        close_timeout: seconds that the end of the run waits for them, all together; more where large files
            are still on their way.
        queue_size: calls that may wait for a slow logger before it is passed over.
    """

    def __init__(
        self,
        loggers: Mapping[str, Logger],
        *,
        run_dir: Path,
        is_main: bool = True,
        start_timeout: float = 15.0,
        close_timeout: float = 30.0,
        queue_size: int = 10_000,
    ) -> None:
        everything: dict[str, Logger] = {METRICS: JsonlLogger(run_dir=run_dir), **loggers}
        chosen = everything.items() if is_main else []
        self._guards = [_Guard(name, logger, queue_size=queue_size) for name, logger in chosen]
        self._start_timeout = start_timeout
        self._close_timeout = close_timeout
        self._closed = False
        self._console = _Console(self)

    def start(self) -> None:
        """Opens all loggers side by side; waits `start_timeout` at most, the slow ones open later."""
        deadline = time.monotonic() + self._start_timeout
        for guard in self._guards:
            guard.start()
        for guard in self._guards:
            if not guard.started.wait(max(0.0, deadline - time.monotonic())):
                log.warning("%s takes long to open; training goes on without waiting for it.", guard.name)
        logging.getLogger().addHandler(self._console)

    def handle(self, event: Event) -> None:
        """Queues one call for every logger; never raises and never waits."""
        if not self._closed:
            for guard in self._guards:
                guard.put(event)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Records the configuration without its secrets."""
        super().log_config(redact(config))

    def close(self, status: Status, message: str = "") -> None:
        """Closes all loggers side by side within `close_timeout`; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        logging.getLogger().removeHandler(self._console)
        num_bytes = max((guard.num_waiting_bytes() for guard in self._guards), default=0)
        wait = self._close_timeout + min(num_bytes / _SLOWEST_UPLOAD, _LONGEST_UPLOAD)
        deadline = time.monotonic() + wait
        for guard in self._guards:
            guard.ask_to_close(status, message)
        for guard in self._guards:
            guard.finish(deadline)

    def where(self) -> str:
        """One line for each logger, and one for each that did not take everything."""
        return "\n".join(line for guard in self._guards for line in guard.where())


class _Console(logging.Handler):
    """Passes the program's own log lines on as text."""

    def __init__(self, logger: MultiLogger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        # What loggers say about themselves would come round in circles.
        if not record.name.startswith("src.loggers."):
            self._logger.log_text(self.format(record))


class _Guard:
    """One logger, its queue and its thread. `put` is called by training, `_work` runs in the thread."""

    def __init__(self, name: str, logger: Logger, *, queue_size: int) -> None:
        self.name = name
        self.started = threading.Event()
        self._logger = logger
        self._queue: queue.Queue[Event | None] = queue.Queue(maxsize=queue_size)
        self._current: Event | None = None
        self._closing: tuple[Status, str] | None = None
        self._given_up = False
        self._num_unsent = 0
        self._num_failures = 0
        self._close_failed = False
        self._thread = threading.Thread(target=self._work, name=f"logger-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._num_unsent += 1
            if self._num_unsent == 1:
                log.warning("%s does not keep up and misses entries.", self.name)

    def num_waiting_bytes(self) -> int:
        """Size of the files that are still to be sent."""
        waiting = [self._current, *list(self._queue.queue)]
        return sum(event.num_bytes() for event in waiting if event is not None)

    def ask_to_close(self, status: Status, message: str) -> None:
        self._closing = (status, message)
        # Wakes a thread that waits for work; one that has a full queue finds `_closing` by itself.
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def finish(self, deadline: float) -> None:
        """Waits for the thread to empty the queue and close; after the deadline leaves it behind."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            return
        self._given_up = True
        self._close_failed = True
        self._num_unsent += sum(event is not None for event in list(self._queue.queue))
        try:
            self._logger.abandon()
        except Exception as error:
            log.warning("%s: %s", self.name, error)
        log.warning("%s did not close in time and was left behind.", self.name)

    def where(self) -> list[str]:
        lines = [] if self._given_up else [self._logger.where()]
        if self._num_unsent or self._close_failed:
            missing = f"{self._num_unsent} entries are" if self._num_unsent else "some entries may be"
            lines.append(
                f"{self.name}: {missing} missing there. All are in the run folder's metrics.jsonl; "
                "docs/clearml.md says how to send them to ClearML."
                if self.name != METRICS
                else f"{self.name}: {missing} missing. Is the disk full?"
            )
        return lines

    def _work(self) -> None:
        is_open = self._call(self._logger.start)
        self.started.set()
        while not self._given_up:
            try:
                event = self._queue.get(timeout=1.0)
            except queue.Empty:
                event = None
            if event is not None:
                self._current = event
                if not is_open or not self._call(event.apply, self._logger):
                    self._num_unsent += 1
                self._current = None
            elif self._closing is not None:
                break
        if is_open and not self._given_up and self._closing is not None:
            closed = self._call(self._logger.close, *self._closing)
            self._close_failed = self._close_failed or not closed

    def _call(self, function: Callable[..., None], *arguments: Any) -> bool:
        """Calls a guest. Anything it throws, an attempt to end the process included, stops here."""
        try:
            function(*arguments)
        except BaseException as error:
            self._num_failures += 1
            if self._num_failures <= _COMPLAINTS and not self._given_up:
                log.warning("%s failed, training goes on: %s: %s", self.name, type(error).__name__, error)
            return False
        return True
