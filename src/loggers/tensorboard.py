"""TensorBoard event files in the run folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.interpreter import python
from src.loggers.protocol import Logger, Number, Point, Status
from src.redact import flatten

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorboardLogger(Logger):
    """Writes to `<run_dir>/tensorboard`. Curves and tables appear under Text, files by their path.

    Args:
        run_dir: the run folder.
        flush_seconds: how long values may wait in memory.
    """

    def __init__(self, *, run_dir: Path, flush_seconds: int = 10) -> None:
        self._folder = run_dir / "tensorboard"
        self._flush_seconds = flush_seconds
        self._writer: SummaryWriter | None = None

    @contextmanager
    def _open_writer(self) -> Iterator["SummaryWriter"]:
        """The writer. On a full disk its thread ends: then a new one takes its place, with another file."""
        if self._writer is None:
            self.start()
        assert self._writer is not None
        try:
            yield self._writer
        except OSError:
            broken, self._writer = self._writer, None
            with suppress(OSError):
                broken.close()
            raise

    def start(self) -> None:
        """Opens a new event file; a resumed run adds one to those of its predecessor."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), flush_secs=self._flush_seconds)

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        """See `Logger`."""
        with self._open_writer() as writer:
            for key, value in scalars.items():
                writer.add_scalar(key, value, step)

    def log_image(self, title: str, series: str, path: Path, step: int) -> None:
        """See `Logger`."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        with self._open_writer() as writer:
            writer.add_image(f"{title}/{series}", pixels, step, dataformats="HWC")

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        """See `Logger`."""
        rows = [{x_label or "x": x, y_label or "y": y} for x, y in points]
        self.log_table(title, series, rows, step)

    def log_table(self, title: str, series: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """See `Logger`."""
        self._add_text(f"{title}/{series}", _markdown(rows), step)

    def _add_text(self, tag: str, text: str, step: int | None = None) -> None:
        with self._open_writer() as writer:
            writer.add_text(tag, text, step)

    def log_text(self, text: str) -> None:
        """See `Logger`."""
        self._add_text("console", text)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """See `Logger`."""
        rows = [
            {"setting": key, "value": json.dumps(value, default=str)}
            for key, value in flatten(config).items()
        ]
        self._add_text("config", _markdown(rows))

    def log_artifact(self, name: str, path: Path) -> None:
        """See `Logger`."""
        self._add_text(f"artifact/{name}", str(path))

    def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Logger`."""
        rows = [{"": key, name: value} for key, value in {"path": str(path), **metadata}.items()]
        self._add_text(f"model/{name}", _markdown(rows))

    def close(self, status: Status, message: str = "") -> None:
        """See `Logger`."""
        with self._open_writer() as writer:
            writer.add_text("status", f"{status} {message}".strip())
            writer.close()

    def where(self) -> str:
        """The command that shows it."""
        return f"TensorBoard: {python()} -m tensorboard.main --logdir {self._folder}"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the table that TensorBoard's text page draws."""
    columns = list(rows[0]) if rows else []
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
