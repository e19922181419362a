"""The record that is always kept: metrics.jsonl in the run folder."""

from pathlib import Path
from typing import TextIO

from src.loggers.events import Event, EventLogger
from src.loggers.protocol import Status


class JsonlLogger(EventLogger):
    """Writes one JSON object a line; images and other files stay where they are and are named.

    Each line has `kind` (scalars, image, curve, table, text, config, artifact, model) and `time` (seconds
    since 1970), the rest are the arguments of the `Logger` method. A line is flushed as it is written, so a
    killed run keeps what it logged. A resumed run appends.
    """

    def __init__(self, *, run_dir: Path) -> None:
        self._folder = run_dir
        self._path = run_dir / "metrics.jsonl"
        self._file: TextIO | None = None

    def start(self) -> None:
        """Opens the file for appending, after dropping a line that a killed run left unfinished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            _cut_unfinished_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def handle(self, event: Event) -> None:
        """Appends one line."""
        assert self._file is not None, "start() comes first"
        self._file.write(event.to_line(self._folder))
        self._file.flush()

    def close(self, status: Status, message: str = "") -> None:
        """Closes the file. How the run ended is in result.json."""
        if self._file is not None:
            self._file.close()

    def where(self) -> str:
        """The file."""
        return f"Metrics: {self._path}"


def _cut_unfinished_line(path: Path) -> None:
    """Drops what follows the last newline: a line that a killed run began."""
    with path.open("rb+") as file:
        size = file.seek(0, 2)
        end = size
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
