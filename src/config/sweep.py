"""A sweep's jobs and their table: one row a job, written by each job into its folder, collected at the end.

Files, because jobs may run in other processes (joblib, submitit); the table stands also when some failed.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer, ValueType
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.files import read_json, write_json_atomic, write_text_atomic
from src.redact import redact_value

JOB_FILE = "job.json"
TABLE_FILE = "results.md"
RUNNING, COMPLETED, FAILED, STOPPED = "running", "completed", "failed", "stopped"
OBJECTIVE = "best_validation_loss"
# Swept keys that are these or below them change which photos are held out, the model that is asked, or how
# the loss is measured.
_OTHER_LOSS = (
    *("dataset", "model", "experiment"),
    *("trainer.num_validation_timesteps", "trainer.max_validation_images"),
)
_MAX_CHECKED = 16  # values of one key; each takes a tenth of a second
_KILLED = "its process ended without a word: killed, or out of memory"

Row = dict[str, Any]


def one_at_a_time(overrides: Sequence[str]) -> list[list[str]]:
    """Command lines of single runs that together hold each swept value once, the first of each key together.

    Many fewer than the sweep's jobs, and what one value cannot be composed with the others cannot be at all.
    """
    fixed: list[str] = []
    swept: list[list[str]] = []
    for override in _parse(overrides):
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
        elif values := _values(override):
            swept.append([f"{override.get_key_element()}={value}" for value in values])
    first = [values[0] for values in swept]
    others = [
        [*first[:index], value, *first[index + 1 :]]
        for index, values in enumerate(swept)
        for value in values[1:]
    ]
    return [[*fixed, *choice] for choice in [first, *others]]


def fixed_keys(overrides: Sequence[str]) -> set[str]:
    """The keys to which a command line gives one value for all jobs."""
    return {o.get_key_element().lstrip("+~") for o in _parse(overrides) if not o.is_sweep_override()}


def _parse(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _values(override: Override) -> list[str]:
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        return [str(interval.start)]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return []  # glob(...): Hydra itself looks for the options
    return [str(v) for v in islice(override.sweep_iterator(transformer=Transformer.encode), _MAX_CHECKED)]


def write_row(
    run_dir: Path,
    swept: Mapping[str, str],
    status: str,
    *,
    results: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Leaves a job's row in its folder.

    Args:
        run_dir: the job's folder.
        swept: the values that this job has of what was swept, by key.
        status: `RUNNING` before it begins, so that one that is killed has a row as well.
        results: its figures, in the order of the table's columns.
        notes: why it failed, or what else has to be said of it; one line each.
    """
    # Lists, as the file's keys are sorted and the order is to stay.
    row = {
        "swept": [[key, str(redact_value(key, value))] for key, value in swept.items()],
        "status": status,
        "results": [list(item) for item in (results or {}).items()],
        "notes": list(notes),
    }
    write_json_atomic(run_dir / JOB_FILE, row)


def has_results(folder: Path) -> bool:
    """Whether a sweep has left rows in a folder."""
    return any(folder.glob(f"*/{JOB_FILE}"))


class SweepTable(Callback):
    """Hydra's own callback: where the sweep of this process is. Hydra makes only warnings of its errors."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remembers the sweep's folder."""
        SweepTable.folder = Path(config.hydra.sweep.dir)


def read_rows() -> list[tuple[str, Row]]:
    """The rows of the jobs that began, in their order."""
    folder = SweepTable.folder
    if folder is None:
        return []
    rows = [(file.parent.name, _read_row(file)) for file in folder.glob(f"*/{JOB_FILE}")]
    rows.sort(key=lambda row: (not row[0].isdigit(), int(row[0]) if row[0].isdigit() else 0, row[0]))
    return rows


def _read_row(file: Path) -> Row:
    row: Row = read_json(file)
    row |= {"swept": dict(row["swept"]), "results": dict(row["results"])}
    if row["status"] == RUNNING:
        row |= {"status": FAILED, "notes": [_KILLED]}
    return row


def write_table(rows: Sequence[tuple[str, Row]]) -> None:
    """Prints the table and writes it into the sweep's folder."""
    assert SweepTable.folder is not None
    path, table = SweepTable.folder / TABLE_FILE, format_table(rows)
    write_text_atomic(path, table)
    print(f"\n{table}\nTable: {path}", flush=True)


def format_table(rows: Sequence[tuple[str, Row]]) -> str:
    """A Markdown table: job, what was swept, status, each result; below it, what is no column.

    That is the best job, the figures that are the same in all jobs, and why jobs failed.
    """
    swept = _names(rows, "swept")
    texts = [{name: f"{value:.5g}" for name, value in row["results"].items()} for _, row in rows]
    completed = [text for text, (_, row) in zip(texts, rows, strict=True) if row["status"] == COMPLETED]
    results = _names(rows, "results")
    same = [
        name
        for name in results
        if len(completed) > 1 and name != OBJECTIVE and len({text.get(name) for text in completed}) == 1
    ]
    columns = [name for name in results if name not in same]
    body = [
        [
            name,
            *(_short(row["swept"].get(key, "")) for key in swept),
            row["status"],
            *(text.get(c, "") for c in columns),
        ]
        for (name, row), text in zip(rows, texts, strict=True)
    ]
    lines = [_grid([["job", *swept, "status", *columns], *body])]
    if best := _best(rows, swept):
        lines.append(best)
    if same:
        lines.append(f"Same in all jobs: {', '.join(f'{name} {completed[0][name]}' for name in same)}")
    if notes := _notes(rows):
        lines.append(notes)
    return "\n\n".join(lines) + "\n"


def _best(rows: Sequence[tuple[str, Row]], swept: Sequence[str]) -> str | None:
    """The job with the lowest validation loss, where all losses are of the same photos and base model."""
    compared = [row for row in rows if OBJECTIVE in row[1]["results"]]
    if not compared:
        return None
    if apart := [key for key in swept if _changes_losses(key.lstrip("+"))]:
        return f"No job is called the best: with another {' and '.join(apart)}, losses do not compare."
    name, row = min(compared, key=lambda row: float(row[1]["results"][OBJECTIVE]))
    values = " ".join(f"{key}={_short(value)}" for key, value in row["swept"].items())
    return f"Lowest validation loss: {row['results'][OBJECTIVE]:.5g}, job {name} ({values})"


def _changes_losses(key: str) -> bool:
    return any(f"{key}.".startswith(f"{other}.") for other in _OTHER_LOSS)


def _short(value: str) -> str:
    """Sampled numbers have seventeen digits; the full ones stand in the job's folder."""
    try:
        return value if len(value) <= 10 or value.isdecimal() else f"{float(value):.5g}"
    except ValueError:
        return value


def _names(rows: Sequence[tuple[str, Row]], part: str) -> list[str]:
    return list(dict.fromkeys(name for _, row in rows for name in row[part]))


def _grid(cells: Sequence[Sequence[str]]) -> str:
    escaped = [[re.sub(r"\|", r"\\|", cell) for cell in line] for line in cells]
    widths = [max(len(line[i]) for line in escaped) for i in range(len(escaped[0]))]
    rule = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def _notes(rows: Sequence[tuple[str, Row]]) -> str:
    """One line for each reason, with all jobs that it stands for."""
    jobs: dict[str, list[str]] = {}
    for name, row in rows:
        for note in row["notes"]:
            jobs.setdefault(note, []).append(name)
    return "\n".join(
        f"- job{'s' if len(names) > 1 else ''} {', '.join(names)}: {note}" for note, names in jobs.items()
    )
