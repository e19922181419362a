"""Weights & Biases, an optional package."""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.loggers.protocol import Logger, Number, Point, Status

_INSTALL = (
    "It is optional: install it with `DARKROOM_EXTRAS=1 sh train_run.sh ...`, or leave out logger=wandb."
)


class WandbLogger(Logger):
    """Logs to a wandb run; `offline` keeps it in `<run_dir>/wandb` for `wandb sync`.

    Args:
        run_dir: the run folder.
        run_name: the run's name.
        cache_dir: wandb's own cache goes to a folder in it.
        project: the project.
        entity: user or team, or wandb's default.
        tags: labels of the run.
        mode: "online" or "offline".

    Raises:
        UserError: wandb is not installed, or the mode is unknown.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        run_name: str,
        cache_dir: Path,
        project: str = "darkroom",
        entity: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "offline",
    ) -> None:
        if mode not in ("online", "offline"):
            raise UserError(f"logger.wandb.mode={mode} is unknown. Use online or offline.")
        if importlib.util.find_spec("wandb") is None:
            raise UserError(f"The package wandb is not installed (logger=wandb). {_INSTALL}")
        self._run_dir = run_dir
        self._run_name = run_name
        self._cache_dir = cache_dir
        self._project = project
        self._entity = entity
        self._tags = list(tags)
        self._mode = mode
        self._run: Any = None
        self._wandb: Any = None

    def start(self) -> None:
        """Opens the run."""
        # Left alone wandb fills folders in HOME.
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(variable, str(self._cache_dir / "wandb"))
        self._wandb = importlib.import_module("wandb")
        self._run_dir.mkdir(parents=True, exist_ok=True)
        settings = self._wandb.Settings(
            console="off",  # the run's log file is an artifact, its lines come through log_text
            silent=True,
            save_code=False,
            x_disable_meta=True,  # it would record the command line, secrets included
            x_disable_stats=True,  # machine load comes from our own callback under stable names
        )
        self._run = self._wandb.init(
            project=self._project,
            entity=self._entity,
            name=self._run_name,
            tags=self._tags,
            dir=str(self._run_dir),
            mode=self._mode,
            reinit="create_new",
            settings=settings,
        )
        # wandb's own step must only grow; validation and samples may come later than the next training step.
        self._run.define_metric("*", step_metric="trainer/step")

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._run.log({**values, "trainer/step": step})

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        """See `Logger`."""
        self._log(dict(scalars), step)

    def log_image(self, title: str, series: str, path: Path, step: int) -> None:
        """See `Logger`."""
        self._log({f"{title}/{series}": self._wandb.Image(str(path))}, step)

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        """See `Logger`."""
        table = self._wandb.Table(columns=[x_label, y_label], data=[list(point) for point in points])
        chart = self._wandb.plot.line(table, x_label, y_label, title=f"{title}, {series}")
        self._log({f"{title}/{series}": chart}, step)

    def log_table(self, title: str, series: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """See `Logger`."""
        columns = list(rows[0]) if rows else []
        data = [[_cell(row.get(column)) for column in columns] for row in rows]
        self._log({f"{title}/{series}": self._wandb.Table(columns=columns, data=data)}, step)

    def log_text(self, text: str) -> None:
        """See `Logger`."""
        self._run.write_logs(text)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._run.config.update(dict(config), allow_val_change=True)

    def log_artifact(self, name: str, path: Path) -> None:
        """See `Logger`."""
        self._upload(name, path, kind="artifact", metadata={})

    def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Logger`."""
        self._upload(name, path, kind="model", metadata=dict(metadata))

    def _upload(self, name: str, path: Path, *, kind: str, metadata: dict[str, str]) -> None:
        artifact = self._wandb.Artifact(_artifact_name(name), type=kind, metadata=metadata)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: Status, message: str = "") -> None:
        """See `Logger`."""
        self._run.summary["status"] = status
        if message:
            self._run.summary["status_message"] = message
        self._run.finish(exit_code=0 if status == "completed" else 1)

    def where(self) -> str:
        """The page, or how to send what was kept."""
        if self._run is None:
            return "wandb: the run was not opened"
        if self._mode == "offline":
            return f"wandb: wandb sync {Path(self._run.dir).parent}"
        return f"wandb: {self._run.url}"


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else json.dumps(value, default=str)


def _artifact_name(name: str) -> str:
    """wandb allows letters, digits, dots, dashes and underscores."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
