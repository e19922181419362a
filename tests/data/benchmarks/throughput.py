"""Images prepared a second: python -m tests.data.benchmarks.throughput [--write] [--rounds N].

Makes 12-megapixel files: a photo of the demo set, enlarged to 4032x3024, with the noise of a sensor; as HEIC and
JPEG with a phone's colour profile (Display P3), and HEIC, JPEG and PNG without. It times, in turns and on one core,
what Darkroom does with a file (`load_in_own_colours`, `prepare_variant` to 512 pixels) and what Pillow or
pillow-heif alone does (decode, crop and resize with Lanczos, no colours converted); then Darkroom with a process on
each core at once. Times are of the processes and not of the clock, so that other work on the machine counts little.
`--write` puts the table into docs/data.md.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from src.data.data_manager import DataManager
from src.data.images import load_image, load_in_own_colours, prepare_variant
from tests.data.pictures import display_p3

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
START, END = "<!-- throughput -->", "<!-- end of throughput -->"
SIZE = (4032, 3024)
TARGET = 512
_NOISE = 4.0


def make_files(folder: Path) -> dict[str, Path]:
    """One file of each kind with the same content."""
    manager = DataManager()
    manager.ensure()
    photo = load_image(sorted(manager.path.glob("*.HEIC"))[0]).resize(SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0.0, _NOISE, (SIZE[1], SIZE[0], 3))
    image = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
    pillow_heif.register_heif_opener()
    profile = display_p3()
    files = {
        "HEIC, Display P3": ("p3.heic", {"quality": 60, "icc_profile": profile}),
        "HEIC": ("plain.heic", {"quality": 60}),
        "JPEG, Display P3": ("p3.jpg", {"quality": 90, "icc_profile": profile}),
        "JPEG": ("plain.jpg", {"quality": 90}),
        "PNG": ("plain.png", {"compress_level": 6}),
    }
    for name, settings in files.values():
        image.save(folder / name, **settings)
    return {kind: folder / name for kind, (name, _) in files.items()}


def ours(path: Path) -> None:
    """From file to the pixels that the VAE gets."""
    image = load_in_own_colours(path)
    prepare_variant(image, size=(TARGET, TARGET), crop="center", flip=False)


def plain(path: Path) -> None:
    """The same with the libraries alone."""
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        np.array(image.resize((TARGET, TARGET), Image.Resampling.LANCZOS, box=box))


def _seconds(work: Callable[[Path], None], path: Path) -> float:
    start = time.process_time()
    work(path)
    return time.process_time() - start


def _prepare_often(path: Path, number: int, seconds: "multiprocessing.SimpleQueue[float]") -> None:
    ours(path)
    seconds.put(sum(_seconds(ours, path) for _ in range(number)))


def at_once(path: Path, *, number: int, num_processes: int) -> float:
    """Images a second that so many processes prepare together, each by its own core's time."""
    context = multiprocessing.get_context("fork")
    seconds: multiprocessing.SimpleQueue[float] = context.SimpleQueue()
    workers = [
        context.Process(target=_prepare_often, args=(path, number, seconds)) for _ in range(num_processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(number / seconds.get() for _ in workers)


def measure(rounds: int) -> list[tuple[str, ...]]:
    """A row for each kind of file."""
    rows = []
    num_cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in make_files(Path(folder)).items():
            ours(path), plain(path)
            pairs = [(_seconds(ours, path), _seconds(plain, path)) for _ in range(rounds)]
            mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(theirs / mine for mine, theirs in pairs)
            number = max(3, rounds // 2)
            single = at_once(path, number=number, num_processes=1)
            several = at_once(path, number=number, num_processes=num_cores)
            figures = (f"{1 / mine:.2f}", f"{1 / theirs:.2f}", f"{ratio:.2f}", f"{several / single:.2f}")
            rows.append((kind, f"{path.stat().st_size / 1e6:.1f} MB", *figures))
            print(*rows[-1], sep=" | ", flush=True)
    return rows


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as Markdown."""
    head = (
        "12 megapixels",
        "size",
        "images/s a core",
        "libraries alone",
        "ratio",
        f"speed-up on {os.cpu_count()} cores",
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the table into docs/data.md")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    text = table(measure(arguments.rounds))
    print(f"\n{text}")
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(START)
        PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
