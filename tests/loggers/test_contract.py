"""Every logger takes every call, and what was logged can be read back from disk."""

import json
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.loggers.clearml import ClearmlLogger
from src.loggers.events import read_events
from src.loggers.jsonl import JsonlLogger
from src.loggers.protocol import Logger
from src.loggers.tensorboard import TensorboardLogger
from src.loggers.wandb import WandbLogger
from tests.loggers.calls import log_everything

# What a reader returns: scalars by key as (step, value), and the names of pictures and plots.
Found = tuple[dict[str, list[tuple[int, float]]], set[str]]


def _read_jsonl(run_dir: Path) -> Found:
    scalars: dict[str, list[tuple[int, float]]] = {}
    shown = set()
    for event in read_events(run_dir):
        values = event.arguments
        if event.kind == "scalars":
            for key, value in values["scalars"].items():
                scalars.setdefault(key, []).append((values["step"], value))
        elif event.kind in ("image", "curve", "table"):
            shown.add(f"{values['title']}/{values['series']}")
    return scalars, shown


def _read_tensorboard(run_dir: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    scalars = {key: [(item.step, item.value) for item in events.Scalars(key)] for key in tags["scalars"]}
    return scalars, {*tags["images"], *(tag.removesuffix("/text_summary") for tag in tags["tensors"])}


def _read_clearml(run_dir: Path) -> Found:
    (archive,) = (run_dir / "clearml" / "offline").glob("*.zip")
    with zipfile.ZipFile(archive) as session:
        lines = session.read("metrics.jsonl").decode().splitlines()
    scalars: dict[str, list[tuple[int, float]]] = {}
    shown = set()
    for event in (event for line in lines for event in json.loads(line)):
        key = f"{event['metric']}/{event['variant']}"
        if event["type"] == "training_stats_scalar":
            scalars.setdefault(key, []).append((event["iter"], event["value"]))
        else:
            shown.add(key)
    return scalars, shown


def _wandb_records(path: Path) -> Iterator[bytes]:
    """A .wandb file is a LevelDB log after 7 bytes: blocks of 32 KiB, pieces with a header of 7 bytes."""
    content, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield whole
            whole = b""


def _finished_wandb_records(path: Path) -> list[Any]:
    """All records, once the last one, the run's exit, is on disk: W&B's own process writes them."""
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + 30
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in _wandb_records(path)]
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, "the run's end is not in the file"
        time.sleep(0.1)


def _read_wandb(run_dir: Path) -> Found:
    (path,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    scalars: dict[str, list[tuple[int, float]]] = {}
    shown = set()
    for record in _finished_wandb_records(path):
        parts = {tuple(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        shown |= {key[0].removesuffix("_table") for key in parts if len(key) > 1}
        for key, value in parts.items():
            if len(key) == 1 and not key[0].startswith(("_", "trainer/")):
                scalars.setdefault(key[0], []).append((parts["trainer/step",], value))
    return scalars, shown


CASES: dict[str, tuple[Callable[[Path, Path], Logger], Callable[[Path], Found]]] = {
    "jsonl": (lambda run_dir, _: JsonlLogger(run_dir=run_dir), _read_jsonl),
    "tensorboard": (lambda run_dir, _: TensorboardLogger(run_dir=run_dir), _read_tensorboard),
    "clearml": (lambda run_dir, _: ClearmlLogger(run_dir=run_dir, run_name="a run"), _read_clearml),
    "wandb": (
        lambda run_dir, cache: WandbLogger(run_dir=run_dir, run_name="a run", cache_dir=cache),
        _read_wandb,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_logged_can_be_read_back(name: str, run_dir: Path, files: Path, tmp_path: Path) -> None:
    make, read = CASES[name]
    logger = make(run_dir, tmp_path / "cache")
    logger.start()
    log_everything(logger, files)
    logger.close("completed")

    scalars, shown = read(run_dir)
    assert scalars["loss/train"] == [(1, 0.5), (2, 0.25)]
    assert scalars["throughput/images_per_second"] == [(1, 3)]
    assert {"samples/a toy", "loss by timestep/validation", "results/all"} <= shown
    assert str(run_dir) in logger.where()
    assert (files / "toy.png").exists()
    assert (files / "adapter.safetensors").exists()


@pytest.mark.parametrize("name", CASES)
def test_constructors_touch_nothing(name: str, run_dir: Path, tmp_path: Path) -> None:
    CASES[name][0](run_dir, tmp_path / "cache")
    assert not run_dir.exists()
