"""Console and file logging of a run: short lines for the eye, all with times in the run's log file."""

import contextlib
import fcntl
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from src.errors import UserError

_NOISY = (
    "httpx",
    "httpx2",
    "httpcore",
    "urllib3",
    "PIL",
    "filelock",
    "fsspec",
    "git",
    "dvc",
    "dvc_data",
    "dvc_objects",
)
# `extra={FILE_ONLY: True}` keeps a line from the console, where it is shown in another way.
FILE_ONLY = "is_for_file_only"
# Seconds: a killed run's data workers, which hold its log open, notice within this time.
_PATIENCE = 10.0


@contextmanager
def run_log(path: Path, *, is_main: bool = True) -> Iterator[None]:
    """Sends log records to the console and to a file while a run lasts; restores what was there before.

    Args:
        path: the log file; appended to, so that a resumed run continues it.
        is_main: other processes write warnings to the console only.

    Raises:
        UserError: another process is writing this log: two runs would share a folder.
    """
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    console = _Console(sys.stdout)
    console.setFormatter(_ConsoleFormatter())
    console.setLevel(logging.INFO if is_main else logging.WARNING)
    # What libraries say of their own doings is for the file; their warnings are for the user.
    console.addFilter(lambda record: record.name.startswith("src.") or record.levelno >= logging.WARNING)
    console.addFilter(lambda record: not getattr(record, FILE_ONLY, False))
    handlers: list[logging.Handler] = [console]
    if is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(path, encoding="utf-8")
        file.claim()
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    root.handlers, root.level = handlers, logging.INFO
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # Deprecations inside the libraries are for their developers, not for our users' consoles.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        yield
    except BaseException as error:
        # The console gets one line from the main; the traceback belongs in the file. A command that was
        # refused before it said anything leaves an earlier run's log as it was.
        if is_main and not (isinstance(error, UserError) and not file.has_lines):
            file.emit(_failure(error))
        raise
    finally:
        logging.captureWarnings(False)
        # First of all: on a full disk closing fails, and a log that stayed would fail whatever runs next.
        root.handlers, root.level = before, level
        for handler in handlers:
            with contextlib.suppress(OSError):
                handler.close()


def _failure(error: BaseException) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "The run ended with an error", (), None)
    record.exc_info = (type(error), error, error.__traceback__)
    return record


class _LogFile(logging.FileHandler):
    """A log that one process writes at a time, and whose own failures do not flood the console.

    Attributes:
        has_lines: whether anything was logged here by this process.
    """

    def __init__(self, path: Path, *, encoding: str) -> None:
        super().__init__(path, encoding=encoding)
        self.has_lines = False
        self._has_failed = False

    def claim(self) -> None:
        """Locks the file until it is closed or the process ends.

        Raises:
            UserError: another process has it. Two runs that begin in one second get the same default name.
        """
        deadline = time.monotonic() + _PATIENCE
        folder = Path(self.baseFilename).parent
        while True:
            try:
                assert self.stream is not None
                fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    self.close()
                    raise UserError(
                        f"Another process is running in {folder}. Wait for it, or give another run.name."
                    ) from error
            except OSError:
                # Some network file systems have no locks; there the name alone keeps runs apart.
                return
            time.sleep(0.2)

    def close(self) -> None:
        """Gives the file back, also where a data worker still holds a copy of its descriptor."""
        if self.stream is not None and not self.stream.closed:
            with contextlib.suppress(OSError):
                fcntl.flock(self.stream, fcntl.LOCK_UN)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a record."""
        self.has_lines = True
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Says once that the log cannot be written, a full disk most likely; the run goes on."""
        if not self._has_failed:
            self._has_failed = True
            print(f"warning: cannot write {self.baseFilename} ({sys.exc_info()[1]}).", file=sys.stderr)


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


class _ConsoleFormatter(logging.Formatter):
    """The bare message; warnings and errors say so."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"
