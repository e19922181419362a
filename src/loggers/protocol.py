"""What every tracker can do. Calls come from one thread at a time: the guard's worker in `multi.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Status = Literal["completed", "failed", "aborted"]
# Whole numbers pass for floats in a type checker, not in one that looks while running.
Number = float | int
Point = tuple[Number, Number] | list[Number]


@runtime_checkable
class Logger(Protocol):
    """A place where a run's numbers, pictures and files go.

    Constructors are cheap and never talk to a server: they check their arguments and raise `UserError`. What
    may take time or fail happens in `start` and after. A constructor takes its settings, and what it needs of
    the run's own values: `run_dir`, `run_name`, `cache_dir`.
    """

    def start(self) -> None:
        """Opens the session. Called once, before anything is logged, in the main process only."""
        return None

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        """Logs numbers under "title/series" names at an optimiser step."""

    def log_image(self, title: str, series: str, path: Path, step: int) -> None:
        """Shows an image file. The file stays where it is and must not change afterwards."""

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        """Draws a line through (x, y) points."""

    def log_table(self, title: str, series: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Shows rows under the column names of the first one."""

    def log_text(self, text: str) -> None:
        """Adds lines to the run's console log."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Records the resolved configuration (nested plain values) as hyperparameters."""

    def log_artifact(self, name: str, path: Path) -> None:
        """Keeps a copy of a file or folder with the run."""

    def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """Hands over trained weights: a file or a folder. It stays where it is."""

    def close(self, status: Status, message: str = "") -> None:
        """Sends what is left and ends the session."""

    def abandon(self) -> None:
        """Called from another thread when `close` ran out of time.

        Returns at once and leaves nothing behind that could hold up the end of the process.
        """
        return None

    def where(self) -> str:
        """One line that says where to look at what was logged."""
        raise NotImplementedError


def split_key(key: str) -> tuple[str, str]:
    """Splits "title/series" at the first slash; a key without one is its own title and series.

    >>> split_key("loss/train")
    ('loss', 'train')
    """
    title, slash, series = key.partition("/")
    return (title, series) if slash and series else (key, key)
