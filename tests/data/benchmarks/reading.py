"""How fast the caches are read: python -m tests.data.benchmarks.reading [--num-images N].

Writes entries of the size that Stable Diffusion 1.5 at 512 pixels and SDXL at 1024 have, in fp32 and fp16, and reads
batches of 8 of them, text embeddings included, without and with worker processes. The files were just written, so
they come from the page cache: what is measured is opening, checking and copying, not the disk.
"""

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache, LatentEntry
from src.data.loader import step_batches
from src.data.order import Position
from src.data.records import Record
from src.data.text_cache import TextCache, TextEntry

# (pixels, tokens' width, pooled width) of each architecture.
_SHAPES = {"SD1.5": (512, 768, None), "SDXL": (1024, 2048, 1280)}
_NUM_TOKENS = 77
_BATCH_SIZE = 8


def _never(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("everything is cached")


def make(folder: Path, *, name: str, precision: str, num_images: int) -> tuple[EncodedDataset, int]:
    """A dataset whose caches are full, and the bytes of one image with its text."""
    pixels, width, pooled = _SHAPES[name]
    records = [Record(path=Path(f"{n}.png"), caption=f"caption {n}", id=f"{n}") for n in range(num_images)]
    latents = LatentCache(folder / "latents", vae_hash=name, precision=precision)
    texts = TextCache(folder / "texts", text_hash=name, precision=precision)
    dataset = EncodedDataset(
        records,
        hashes={record.id: record.id for record in records},
        sizes={record.id: (pixels, pixels) for record in records},
        seed=0,
        encode_images=_never,
        encode_text=_never,
        latent_cache=latents,
        text_cache=texts,
    )
    entry = LatentEntry(
        moments=torch.randn(2, 4, pixels // 8, pixels // 8), original_size=(0, 0), crop_top_left=(0, 0)
    )
    text = TextEntry(
        hidden=torch.randn(_NUM_TOKENS, width), pooled=None if pooled is None else torch.randn(pooled)
    )
    num_bytes = 0
    for record in records:
        num_bytes = latents.put(dataset.reader.latent_key(record.id, 0), entry)
        num_bytes += texts.put(record.caption, text)
    return dataset, num_bytes


def images_per_second(dataset: EncodedDataset, *, num_workers: int, num_batches: int) -> float:
    """Of one pass, after the workers have started."""
    batches = step_batches(dataset, seed=0, batch_size=_BATCH_SIZE, start=Position(), num_workers=num_workers)
    for _ in islice(batches, 2 * max(1, num_workers)):
        pass
    start = time.perf_counter()
    for _ in islice(batches, num_batches):
        pass
    seconds = time.perf_counter() - start
    batches.close()
    return num_batches * _BATCH_SIZE / seconds


def main() -> None:
    """Prints a line for each kind of entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=1000)
    num_images = parser.parse_args().num_images
    torch.set_num_threads(1)
    print(f"{num_images} images, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in _SHAPES:
        for precision in ("fp32", "fp16"):
            with tempfile.TemporaryDirectory() as folder:
                dataset, num_bytes = make(Path(folder), name=name, precision=precision, num_images=num_images)
                rates = [
                    images_per_second(dataset, num_workers=workers, num_batches=num_images // _BATCH_SIZE)
                    for workers in (0, 2)
                ]
            shown = ", ".join(f"{rate:,.0f}/s" for rate in rates)
            print(
                f"{name} {precision} ({num_bytes / 1e3:.0f} kB each): {shown} with 0, 2 workers", flush=True
            )


if __name__ == "__main__":
    main()
