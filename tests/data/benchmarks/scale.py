"""What a set of COCO's size costs: python -m tests.data.benchmarks.scale [--num-images N] [--folder F].

Makes a set like COCO's, with tiny images, and takes it the whole way: reader, preflight, split, filling the
caches, order, batches with and without workers, records of the run. Prints, for each stage, the seconds, the
memory that this process has grown by, and its peak. The encoders are a convolution and a table, so that the rest
is what is measured.
"""

import argparse
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil
import torch

from src.data.buckets import bucket_counts
from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache
from src.data.loader import step_batches
from src.data.order import Position, num_micro_batches, pass_order
from src.data.preflight import check_dataset
from src.data.readers.coco import read_coco
from src.data.records import Record
from src.data.split import split_records
from src.data.text_cache import TextCache
from src.files import write_json_atomic
from src.lineage import collect_lineage
from tests.data.pictures import TinyEncoders

COCO_TRAIN = 118_287
_MIB = 2**20
_SIDE = 16
_CAPTIONS_PER_IMAGE = 5
_NUM_STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage cost.

    Attributes:
        name: of the stage.
        seconds: of the clock.
        grown: MiB more resident memory than at the very beginning, after the stage.
        peak: the same at its highest within the stage.
        workers: MiB that worker processes have for themselves.
    """

    name: str
    seconds: float
    grown: float
    peak: float
    workers: float = 0.0


class Meter:
    """Notes the stages of one way."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._process = psutil.Process()
        self._start = self._process.memory_info().rss

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around a stage."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.stages.append(
            Stage(
                name=name,
                seconds=seconds,
                grown=(self._process.memory_info().rss - self._start) / _MIB,
                peak=(_peak_rss() - self._start) / _MIB,
                workers=sum(_private(child) for child in self._process.children(recursive=True)) / _MIB,
            )
        )
        shown = self.stages[-1]
        workers = f", workers {shown.workers:6.0f} MiB" if shown.workers else ""
        print(
            f"{name:<44} {seconds:8.2f} s   +{shown.grown:6.0f} MiB   peak +{shown.peak:6.0f} MiB{workers}",
            flush=True,
        )


def _peak_rss() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _private(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


def make_set(folder: Path, num_images: int) -> None:
    """A folder like COCO's val2017 with so many different PNG files, unless it is there."""
    images = folder / "val2017"
    if images.is_dir() and sum(1 for _ in images.iterdir()) == num_images:
        return
    images.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    names = [f"{number:012d}.png" for number in range(num_images)]
    for number, name in enumerate(names):
        (images / name).write_bytes(tiny_png(number))
    content = {
        "images": [
            {"id": n, "file_name": name, "width": _SIDE, "height": _SIDE} for n, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n // _CAPTIONS_PER_IMAGE,
                "caption": f"A man with {n} red umbrellas on a street.",
            }
            for n in range(num_images * _CAPTIONS_PER_IMAGE)
        ],
    }
    (folder / "annotations/captions_val2017.json").write_text(json.dumps(content))


def tiny_png(number: int, side: int = _SIDE) -> bytes:
    """An RGB image whose first pixels are the number."""
    rows = bytearray()
    for row in range(side):
        rows += b"\0" + (number * (row + 1) % 2**32).to_bytes(4, "little") * (side * 3 // 4)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(bytes(rows), 1)),
            chunk(b"IEND", b""),
        ]
    )


def whole_way(folder: Path, num_images: int, *, num_workers: int = 2) -> list[Stage]:
    """Makes the set and takes it from the reader to the records of a run."""
    torch.set_num_threads(1)
    source, cache = folder / f"set_{num_images}", folder / f"cache_{num_images}"
    make_set(source, num_images)
    TinyEncoders().images(torch.zeros(1, 3, 8, 8))  # what torch takes for its first operation is not ours
    meter = Meter()
    with meter.stage("reader"):
        result = read_coco(path=source, split="val2017")
    for label in ("first", "again"):
        with meter.stage(f"preflight, {label}"):
            report = check_dataset(result, resolution=(8, 8), memo_file=cache / "inspection.json")
    for label in ("first", "again"):
        with meter.stage(f"split, {label}"):
            split = split_records(
                result.records,
                report.hashes,
                split_seed=0,
                validation_fraction=0.2,
                split_file=cache / "split.json",
                group_keys=report.group_keys,
            )

    encoders = TinyEncoders()

    def side(records: list[Record], *, train: bool) -> EncodedDataset:
        return EncodedDataset(
            records,
            hashes=report.hashes,
            sizes=report.training_sizes,
            seed=0,
            flip=train,
            num_variants=2 if train else 1,
            encode_images=encoders.images,
            encode_text=encoders.text,
            latent_cache=LatentCache(cache / "latents", vae_hash="tiny"),
            text_cache=TextCache(cache / "texts", text_hash="tiny"),
        )

    with meter.stage("datasets of both sides"):
        train, probe = side(split.train, train=True), side(split.train, train=False)
        held_out = side(split.validation, train=False)
    for label in ("first", "again"):
        with meter.stage(f"what the caches lack, {label}"):
            missing = [part.num_missing() for part in (train, held_out)]
        with meter.stage(f"filling, {label} {missing}"):
            for part in (train, held_out):
                part.fill()
    with meter.stage("micro-batches of a pass"):
        num_micro_batches(train.ids, global_batch_size=4)
    with meter.stage("order of a pass"):
        pass_order(train.ids, seed=0, pass_number=1)
    for workers in dict.fromkeys((0, num_workers)):
        batches = step_batches(train, seed=0, batch_size=16, start=Position(), num_workers=workers)
        with meter.stage(f"first batch of 16, {workers} workers"):
            next(batches)
        with meter.stage(f"{_NUM_STEPS} batches of 16, {workers} workers"):
            for _ in islice(batches, _NUM_STEPS):
                pass
        batches.close()
    with meter.stage("records of the run"):
        lineage = collect_lineage(
            root=Path.cwd(),
            config={"model": {"path": ""}, "dataset": {"name": ""}, "trainer": {"seed": 0}}
            | {"dataset": {"name": "", "split_seed": 0}},
            content_hashes=report.hashes,
            captions={record.id: record.caption for record in result.records},
            attribution=None,
            split={"train": train.ids, "validation": held_out.ids},
            held_out_files={str(r.path.resolve()): report.hashes[r.id] for r in split.validation},
            class_images={},
            class_captions={},
            base_hash="",
            architecture="",
            resolution=(8, 8),
            buckets=bucket_counts(report.training_sizes),
        )
        write_json_atomic(cache / "lineage.json", lineage)
    assert probe.ids == train.ids
    return meter.stages


def main() -> None:
    """Prints the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=COCO_TRAIN)
    parser.add_argument("--folder", type=Path, help="kept and used again; by default a temporary one")
    arguments = parser.parse_args()
    print(f"{arguments.num_images:,} images, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if arguments.folder is not None:
        whole_way(arguments.folder, arguments.num_images)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole_way(Path(folder), arguments.num_images)


if __name__ == "__main__":
    main()
