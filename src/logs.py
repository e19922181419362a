"""Console and file logging of a run: short lines for the eye, all with times in the run's log file."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOISY = (
    "httpx",
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


@contextmanager
def run_log(path: Path, *, is_main: bool = True) -> Iterator[None]:
    """Sends log records to the console and to a file while a run lasts; restores what was there before.

    Args:
        path: the log file; appended to, so that a resumed run continues it.
        is_main: other processes write warnings to the console only.
    """
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(_ConsoleFormatter())
    console.setLevel(logging.INFO if is_main else logging.WARNING)
    # What libraries say of their own doings is for the file; their warnings are for the user.
    console.addFilter(lambda record: record.name.startswith("src.") or record.levelno >= logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
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
        # The console gets one line from the main; the traceback belongs in the file.
        if is_main:
            file.emit(_failure(error))
        raise
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            handler.close()
        root.handlers, root.level = before, level


def _failure(error: BaseException) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "The run ended with an error", (), None)
    record.exc_info = (type(error), error, error.__traceback__)
    return record


class _ConsoleFormatter(logging.Formatter):
    """The bare message; warnings and errors say so."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"
