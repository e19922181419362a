"""Calls to a logger as lines of JSON: the form of metrics.jsonl."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.loggers.protocol import Logger, Number, Point, Status

_PATH_KINDS = {"image", "artifact", "model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call: `kind` is the method without `log_`, `arguments` are its keywords, `time` is in seconds."""

    kind: str
    arguments: dict[str, Any]
    time: float = field(default_factory=time.time)

    def apply(self, logger: Logger) -> None:
        """Makes the call."""
        getattr(logger, f"log_{self.kind}")(**self.arguments)

    def num_bytes(self) -> int:
        """Size of the file or folder that goes with the call."""
        if self.kind not in _PATH_KINDS:
            return 0
        path = Path(self.arguments["path"])
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())

    def to_line(self, folder: Path) -> str:
        """One line of JSON. Files inside `folder` are named relative to it, so that a run folder can move."""
        arguments = dict(self.arguments)
        if self.kind in _PATH_KINDS:
            path = Path(arguments["path"]).absolute()
            root = folder.absolute()
            arguments["path"] = str(path.relative_to(root) if path.is_relative_to(root) else path)
        line = {"kind": self.kind, "time": round(self.time, 3), **arguments}
        return json.dumps(_plain(line), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str, folder: Path) -> "Event":
        """The inverse of `to_line`."""
        values: dict[str, Any] = json.loads(line)
        kind, moment = values.pop("kind"), values.pop("time")
        if kind in _PATH_KINDS:
            values["path"] = folder / values["path"]
        if kind == "scalars":
            # JSON has no word for these; they are written as strings.
            values["scalars"] = {key: float(value) for key, value in values["scalars"].items()}
        return cls(kind=kind, arguments=values, time=moment)


def read_events(run_dir: Path) -> Iterator[Event]:
    """Reads a run's metrics.jsonl; a last line that a killed process left unfinished is passed over."""
    with (run_dir / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield Event.from_line(line, run_dir)


class EventLogger(Logger, ABC):
    """A logger that treats all calls alike."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Takes one call."""

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        """See `Logger`."""
        self.handle(Event(kind="scalars", arguments={"scalars": dict(scalars), "step": step}))

    def log_image(self, title: str, series: str, path: Path, step: int) -> None:
        """See `Logger`."""
        arguments = {"title": title, "series": series, "path": path, "step": step}
        self.handle(Event(kind="image", arguments=arguments))

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        """See `Logger`."""
        labels = {"x_label": x_label, "y_label": y_label}
        arguments = {"title": title, "series": series, "points": list(points), "step": step, **labels}
        self.handle(Event(kind="curve", arguments=arguments))

    def log_table(self, title: str, series: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """See `Logger`."""
        arguments = {"title": title, "series": series, "rows": [dict(row) for row in rows], "step": step}
        self.handle(Event(kind="table", arguments=arguments))

    def log_text(self, text: str) -> None:
        """See `Logger`."""
        self.handle(Event(kind="text", arguments={"text": text}))

    def log_config(self, config: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self.handle(Event(kind="config", arguments={"config": dict(config)}))

    def log_artifact(self, name: str, path: Path) -> None:
        """See `Logger`."""
        self.handle(Event(kind="artifact", arguments={"name": name, "path": path}))

    def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Logger`."""
        self.handle(Event(kind="model", arguments={"name": name, "path": path, "metadata": dict(metadata)}))

    @abstractmethod
    def close(self, status: Status, message: str = "") -> None:
        """See `Logger`."""


def _plain(value: Any) -> Any:
    """Values that JSON can hold: NaN and infinities become "nan", "inf", "-inf"; unknown types their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)
