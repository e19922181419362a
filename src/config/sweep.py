"""The table of a sweep: one row a job, written by each job into its folder, collected at the end.

Files, because jobs may run in other processes (joblib, submitit); the table stands also when some failed.
"""

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.errors import UserError
from src.files import read_json, write_json_atomic, write_text_atomic

JOB_FILE = "job.json"
_log = logging.getLogger(__name__)
_failed_jobs: list[str] = []


def record(run_dir: Path, overrides: Sequence[str], results: dict[str, float], *, failed: bool) -> None:
    """Leaves a job's row in its folder."""
    row = {"overrides": list(overrides), "results": results, "status": "failed" if failed else "completed"}
    write_json_atomic(run_dir / JOB_FILE, row)


def record_failure(run_dir: Path, overrides: Sequence[str], error: Exception) -> None:
    """Leaves a failed job's row and says why, so that the other jobs can go on."""
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    _log.error("%s: %s", " ".join(overrides), message)
    if not isinstance(error, UserError):
        _log.error("%s", "".join(traceback.format_exception(error)))
    row = {"overrides": list(overrides), "results": {}, "status": "failed", "error": message.split("\n")[0]}
    write_json_atomic(run_dir / JOB_FILE, row)


def exit_code() -> int:
    """1 if a job of the sweep that ran in this process's command failed, else 0."""
    return 1 if _failed_jobs else 0


class SweepTable(Callback):
    """Hydra's own callback: prints and writes the table when all jobs are done."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collects the rows of all jobs below the sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        rows = [(file.parent.name, read_json(file)) for file in folder.glob(f"*/{JOB_FILE}")]
        rows.sort(key=lambda row: (not row[0].isdigit(), int(row[0]) if row[0].isdigit() else 0, row[0]))
        if not rows:
            return
        _failed_jobs.extend(name for name, row in rows if row["status"] == "failed")
        table = format_table(rows)
        write_text_atomic(folder / "results.md", table)
        print(f"\n{table}\nTable: {folder / 'results.md'}")


def format_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A Markdown table: job, what was swept, status, each result."""
    keys = list(dict.fromkeys(o.split("=", 1)[0] for _, row in rows for o in row["overrides"]))
    given = [dict(o.split("=", 1) for o in row["overrides"] if "=" in o) for _, row in rows]
    # A key with the same value in all rows was not swept; with a single row everything is shown.
    swept = [k for k in keys if len(rows) == 1 or len({values.get(k) for values in given}) > 1]
    results = list(dict.fromkeys(name for _, row in rows for name in row["results"]))
    body = [
        [
            name,
            *(v.get(k, "") for k in swept),
            row["status"],
            *(_number(row["results"].get(r)) for r in results),
        ]
        for (name, row), v in zip(rows, given, strict=True)
    ]
    header = ["job", *swept, "status", *results]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [header, *body]
    ]
    rule = ["-" * width for width in widths]
    text = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]) + "\n"
    errors = [f"- job {name}: {row['error']}" for name, row in rows if row.get("error")]
    return text + ("\n" + "\n".join(errors) + "\n" if errors else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
