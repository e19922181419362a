"""ClearML: the only door to its SDK (with `clearml_session.py`, which knows its traps)."""

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.interpreter import python
from src.loggers.clearml_offline import require_whole
from src.loggers.clearml_queue import let_agent_launch
from src.loggers.clearml_session import (
    Mode,
    choose_mode,
    end_task,
    is_on_agent,
    leave_behind,
    open_task,
    prepare_sdk,
)
from src.loggers.events import read_events
from src.loggers.protocol import Logger, Number, Point, Status, split_key
from src.redact import flatten

log = logging.getLogger(__name__)


def bind_hydra() -> None:
    """Imports clearml so that it sees Hydra's overrides. The first thing a main does; never fatal."""
    try:
        import clearml  # noqa: F401

        prepare_sdk()
        let_agent_launch()
    except Exception as error:
        print(f"Warning: ClearML cannot be used here: {type(error).__name__}: {error}", file=sys.stderr)


class ClearmlLogger(Logger):
    """One ClearML task a run, on a server or as an offline session that can be imported later.

    Args:
        run_dir: the run folder; an offline session goes to `clearml/` in it unless CLEARML_CACHE_DIR is set.
        run_name: the task's name.
        project: project name, with slashes for sub-projects.
        tags: labels of the task.
        output_uri: where models go: true for the server's own file store, or an address such as s3://bucket.
        offline: "auto" (offline without credentials or without an answer from the server), true or false.

    Raises:
        UserError: a setting is wrong.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        run_name: str,
        project: str = "darkroom",
        tags: Sequence[str] = (),
        output_uri: bool | str = True,
        offline: bool | str = "auto",
    ) -> None:
        if not (isinstance(offline, bool) or offline == "auto"):
            raise UserError(f"logger.clearml.offline={offline} is unknown. Use auto, true or false.")
        if len(project) < 3:
            raise UserError(
                f"logger.clearml.project={project} is too short: ClearML wants three letters or more."
            )
        self._folder = run_dir / "clearml"
        self._run_name = run_name
        self._project = project
        self._tags = tags
        self._output_uri = output_uri
        self._offline = offline
        self._mode = Mode(online=False, is_wanted=True)
        self._task: Any = None
        self._where = "ClearML: the task was not opened"
        self._archive: Path | None = None
        self._num_scalars = 0

    def start(self) -> None:
        """Opens the task; on a server that refuses, an offline session (unless `offline` is false)."""
        mode = choose_mode(self._offline)
        if mode.online:
            try:
                self._open(mode)
                return
            except Exception as error:
                leave_behind()
                if self._offline is False:
                    raise
                mode = Mode(online=False, reason=f"the server did not take the task ({error})")
        log.log(
            logging.INFO if mode.is_wanted else logging.WARNING, "ClearML works offline: %s.", mode.reason
        )
        self._open(mode)

    def _open(self, mode: Mode) -> None:
        self._task = open_task(
            project=self._project,
            task_name=self._run_name,
            tags=self._tags,
            output_uri=self._output_uri,
            mode=mode,
            folder=self._folder,
        )
        self._mode = mode
        if mode.online:
            self._where = f"ClearML: {self._task.get_output_log_web_page()}"
        else:
            archive = f"{self._task.get_offline_mode_folder()}.zip"
            self._archive = Path(archive)
            self._where = (
                f"ClearML (offline): {archive}\n"
                "  send it later, with credentials: "
                f"{python()} -c \"from clearml import Task; Task.import_offline_session('{archive}')\""
            )

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        """See `Logger`. NaN and infinities are told in the console: the SDK would draw them as 0."""
        reporter = self._task.get_logger()
        for key, value in scalars.items():
            title, series = split_key(key)
            if math.isfinite(value):
                reporter.report_scalar(title=title, series=series, value=float(value), iteration=step)
                self._num_scalars += 1
            else:
                self.log_text(f"step {step}: {key} is {value}")

    def log_image(self, title: str, series: str, path: Path, step: int) -> None:
        """See `Logger`. Shown under Debug Samples."""
        self._task.get_logger().report_image(
            title=title, series=series, iteration=step, local_path=str(path), delete_after_upload=False
        )

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        """See `Logger`. Shown under Plots."""
        self._task.get_logger().report_scatter2d(
            title=title,
            series=series,
            scatter=[[float(x), float(y)] for x, y in points],
            iteration=step,
            xaxis=x_label,
            yaxis=y_label,
            mode="lines+markers",
        )

    def log_table(self, title: str, series: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """See `Logger`. Shown under Plots."""
        columns = list(rows[0]) if rows else []
        cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
        self._task.get_logger().report_table(title=title, series=series, iteration=step, table_plot=cells)

    def log_text(self, text: str) -> None:
        """See `Logger`. Shown under Console."""
        self._task.get_logger().report_text(text, print_console=False)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """See `Logger`. Shown under Configuration: section General, and the whole as an object."""
        settings = {
            key: value if isinstance(value, (str, int, float, bool)) else json.dumps(value, default=str)
            for key, value in flatten(config).items()
        }
        if is_on_agent():
            # To connect would put the task's old values in the place of those that the agent runs with.
            self._task.update_parameters({f"General/{key}": value for key, value in settings.items()})
            self._task.set_configuration_object(name="config", config_dict=dict(config))
        else:
            self._task.connect(settings, name="General")
            self._task.connect_configuration(dict(config), name="config")

    def log_artifact(self, name: str, path: Path) -> None:
        """See `Logger`."""
        self._upload(name, path, {})

    def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """See `Logger`. An output model; offline an artifact, as the SDK cannot keep models offline."""
        if not self._mode.online:
            self._upload(name, path, metadata)
            return
        from clearml import OutputModel

        model = OutputModel(task=self._task, name=name, framework="PyTorch", config_dict=dict(metadata))
        # The SDK's default deletes the file, or all files of the folder, after sending.
        model.update_weights(
            weights_filename=str(path), auto_delete_file=False, async_enable=False, update_comment=False
        )

    def _upload(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        # A Path, as the SDK takes some strings for addresses and others for patterns.
        sent = self._task.upload_artifact(name, path, metadata=dict(metadata), wait_on_upload=True)
        if not sent:
            raise RuntimeError(f"the artifact {name} could not be sent")

    def close(self, status: Status, message: str = "") -> None:
        """Sends what is left and sets the status. An offline session becomes a zip file, and is looked at."""
        if message:
            self.log_text(message)
        end_task(self._task, status=status, message=message, online=self._mode.online)
        if self._archive is not None and self._num_scalars > 0:
            require_whole(self._archive, num_scalars=self._num_scalars)

    def abandon(self) -> None:
        """See `Logger`."""
        leave_behind()

    def where(self) -> str:
        """The task's page; or the offline session and how to import it."""
        return self._where


def send_run(run_dir: str, *, project: str = "darkroom") -> str:
    """Makes a new task from a run folder's metrics.jsonl, for what a server did not take during the run.

    Args:
        run_dir: the run folder.
        project: project of the new task.

    Returns:
        Where to look.

    Raises:
        UserError: there is no metrics.jsonl, or no server.
    """
    folder = Path(run_dir)
    if not (folder / "metrics.jsonl").exists():
        raise UserError(
            f"{folder} has no metrics.jsonl. Give a run folder, such as outputs/train/<run.name>."
        )
    mode = choose_mode("auto")
    if not mode.online:
        raise UserError(f"Nothing was sent: {mode.reason}.")
    logger = ClearmlLogger(
        run_dir=folder, run_name=folder.name, project=project, tags=["sent later"], offline=False
    )
    logger.start()
    for event in read_events(folder):
        event.apply(logger)
    logger.close("completed")
    return logger.where()
