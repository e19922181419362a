"""`metadata.jsonl` and `metadata.csv` of Hugging Face's image folders: `file_name` and a caption column."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data.readers.captions import CaptionTable, shown
from src.data.readers.common import METADATA_FILES, read_text, text_of
from src.data.records import Problem

FILE_COLUMN = "file_name"
# What a caption column is called when nobody says which one it is.
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "description", "title")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    columns: list[str]
    rows: list[_Row]
    problems: list[Problem]


def tables_that_count(tables: Mapping[str, Path]) -> dict[str, Path]:
    """Of the metadata files of a folder and its subfolders those of the first kind that is there."""
    for kind in METADATA_FILES:
        chosen = {name: file for name, file in tables.items() if file.name.casefold() == kind}
        if chosen:
            return chosen
    return {}


def add_metadata(
    captions: CaptionTable, tables: Mapping[str, Path], *, caption_column: str | None, column_remedy: str
) -> None:
    """Reads metadata files into a table of captions; everything wrong becomes a problem of it.

    Args:
        captions: What is filled.
        tables: The files, by their path relative to the dataset's folder. Each speaks of images in its own
            folder and below.
        caption_column: The column; None takes the only one with a usual name (`CAPTION_COLUMNS`).
        column_remedy: What to do where the column cannot be told.
    """
    for name, file in tables.items():
        text, problems = read_text(file, name=name)
        if text is None:
            captions.skip_file(*problems)
            continue
        parse = _parse_csv if file.suffix.casefold() == ".csv" else _parse_lines
        table = parse(text, name)
        if not table.rows:
            captions.skip_file(*table.problems)
            continue
        captions.problems.extend(table.problems)
        column = choose_column(table.columns, caption_column, where=name, remedy=column_remedy)
        if isinstance(column, Problem):
            captions.skip_file(column)
            continue
        for row in table.rows:
            _add_row(captions, row, column, folder=name.rpartition("/")[0])


def read_rows(file: Path, *, name: str) -> list[Mapping[str, Any]]:
    """What a metadata file says of each image, as far as it can be read. See also `add_metadata`."""
    text, _ = read_text(file, name=name)
    parse = _parse_csv if file.suffix.casefold() == ".csv" else _parse_lines
    return [] if text is None else [row.values for row in parse(text, name).rows]


def _add_row(captions: CaptionTable, row: _Row, column: str, *, folder: str) -> None:
    name, caption = row.values.get(FILE_COLUMN), row.values.get(column)
    if not isinstance(name, str) or not name.strip():
        captions.refuse(row.where, f"has no {FILE_COLUMN}. Name the image there.")
        return
    if isinstance(caption, list):
        # Some sets give several captions an image, the best or the original one first.
        caption = caption[0] if caption else ""
    fault = None
    if caption is not None and not isinstance(caption, str):
        fault = f"is no text but {shown(json.dumps(caption))}. Write a text."
        caption = ""
    captions.add(where=row.where, name=name.strip(), caption=caption or "", folder=folder, fault=fault)


def choose_column(columns: Iterable[str], wanted: str | None, *, where: str, remedy: str) -> str | Problem:
    """The caption column of a table: the wanted one, or the only one with a usual name."""
    names = [name for name in columns if name != FILE_COLUMN]
    listed = ", ".join(shown(name) for name in names[:20]) or "none"
    if wanted is not None:
        if wanted in names:
            return wanted
        return Problem(file=where, message=f"has no column {wanted!r}. Its columns: {listed}. {remedy}")
    usual = [name for name in names if name.casefold() in CAPTION_COLUMNS]
    if len(usual) == 1:
        return usual[0]
    if usual:
        message = f"has several columns that may hold the captions: {', '.join(map(shown, usual))}. {remedy}"
    else:
        message = f"has no caption column ({', '.join(CAPTION_COLUMNS)}). Its columns: {listed}. {remedy}"
    return Problem(file=where, message=message)


def _parse_lines(text: str, name: str) -> _Table:
    rows: list[_Row] = []
    problems: list[Problem] = []
    # Not splitlines: a JSON text may hold other separators of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            message = f"{shown(line.strip())} is no valid JSON ({reason}). Mend or delete the line."
            problems.append(Problem(file=where, message=message, is_skippable=True))
            continue
        if not isinstance(values, dict):
            message = f'{shown(line.strip())} is no object. Write {{"{FILE_COLUMN}": ..., "text": ...}}.'
            problems.append(Problem(file=where, message=message, is_skippable=True))
            continue
        rows.append(_Row(where=where, values=values))
    columns = dict.fromkeys(key for row in rows for key in row.values)
    if not rows and not problems:
        problems.append(_empty(name))
    return _Table(columns=list(columns), rows=rows, problems=problems)


def _parse_csv(text: str, name: str) -> _Table:
    reader = csv.reader(io.StringIO(text, newline=""))
    columns: list[str] = []
    rows: list[_Row] = []
    problems: list[Problem] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [text_of(cell) for cell in cells]
                continue
            where = f"{name}:{reader.line_num}"
            if len(cells) > len(columns):
                message = (
                    f"has {len(cells)} cells for {len(columns)} columns. Put texts with commas in quotes."
                )
                problems.append(Problem(file=where, message=message, is_skippable=True))
                continue
            rows.append(_Row(where=where, values=dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        message = f"cannot be parsed further ({error}). Mend the line; is a quote missing?"
        problems.append(Problem(file=f"{name}:{reader.line_num}", message=message))
    if columns and FILE_COLUMN not in columns:
        message = f"has no column {FILE_COLUMN}. Its columns: {', '.join(map(shown, columns[:20]))}."
        problems.append(Problem(file=name, message=message))
        rows = []
    if not rows and not problems:
        problems.append(_empty(name))
    return _Table(columns=columns, rows=rows, problems=problems)


def _empty(name: str) -> Problem:
    message = f"lists no images. Write a line for each, with {FILE_COLUMN} and a caption, or delete it."
    return Problem(file=name, message=message)
