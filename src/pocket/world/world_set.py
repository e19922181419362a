"""Renders many scenes of the pocket world into one array on disk, in parallel, and goes on where it stopped.

python -m src.pocket.world.world_set --out .cache/pocket/train.npy --num 40000
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from src.files import write_text_atomic
from src.pocket.world.sampling import Scene, draw, elsewhere, sample_scene, sample_toy_scene

TRAIN_SEED, TEST_SEED = 0, 1
# What a model may see; what training never sees; index by index, the first kind's objects elsewhere; and toys
# of random parts.
Kind = Literal["seen", "held_out", "elsewhere", "toys"]
_SHARD = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSet:
    """Pictures and what is on them, by index; the pictures stay on disk."""

    pixels: UInt8[np.ndarray, "n s s 3"]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def scene_at(index: int, *, seed: int, kind: Kind = "seen") -> Scene:
    """One scene of a set; no picture is drawn."""
    if kind == "toys":
        return sample_toy_scene(seed, index)
    scene = sample_scene(seed, index, held_out=kind == "held_out")
    return elsewhere(scene, seed=seed, index=index) if kind == "elsewhere" else scene


def open_set(path: Path, *, seed: int, kind: Kind = "seen") -> WorldSet:
    """Opens a rendered set.

    Args:
        path: the .npy file.
        seed: that it was rendered with.
        kind: of scenes.

    Raises:
        ValueError: it was rendered otherwise, or not to its end.
    """
    made = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if made != {**made, "seed": seed, "kind": kind}:
        raise ValueError(f"{path} was rendered with {made}. Render it again.")
    pixels = np.load(path, mmap_mode="r")
    captions = [scene_at(index, seed=seed, kind=kind).caption for index in range(len(pixels))]
    return WorldSet(pixels=pixels, captions=captions)


def joined(*sets: WorldSet) -> WorldSet:
    """Several sets as one, in memory."""
    return WorldSet(
        pixels=np.concatenate([each.pixels for each in sets]),
        captions=[caption for each in sets for caption in each.captions],
    )


def render_set(path: Path, *, num: int, size: int, seed: int, kind: Kind = "seen") -> None:
    """Renders `num` scenes at `size` pixels a side into `path` (.npy, uint8); finished shards are kept.

    A set that is complete and was made in the same way is left alone.
    """
    made = {"num": num, "size": size, "seed": seed, "kind": kind}
    done_file = path.with_suffix(".json")
    if done_file.exists() and json.loads(done_file.read_text(encoding="utf-8")) == made:
        return
    shards = path.parent / f"{path.stem}_{size}_{seed}_{kind}"
    shards.mkdir(parents=True, exist_ok=True)
    spans = [(start, min(start + _SHARD, num)) for start in range(0, num, _SHARD)]
    missing = [span for span in spans if not (shards / _name(span)).exists()]
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=num, initial=num - sum(b - a for a, b in missing), desc=f"rendering {path.stem}") as bar,
    ):
        jobs = [pool.submit(_render_shard, shards, span, size, seed, kind) for span in missing]
        for job in jobs:
            bar.update(job.result())
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num, size, size, 3))
    for first, last in spans:
        pixels[first:last] = np.load(shards / _name((first, last)))
    pixels.flush()
    write_text_atomic(done_file, json.dumps(made) + "\n")
    for span in spans:
        (shards / _name(span)).unlink()
    shards.rmdir()


def _name(span: tuple[int, int]) -> str:
    return f"{span[0]:07d}-{span[1]:07d}.npy"


def _render_shard(folder: Path, span: tuple[int, int], size: int, seed: int, kind: Kind) -> int:
    pixels = np.stack([draw(scene_at(index, seed=seed, kind=kind), size=size) for index in range(*span)])
    # Renamed when it is whole: a shard that is there is complete.
    partial = folder / f".{_name(span)}.{os.getpid()}.npy"
    np.save(partial, pixels)
    partial.replace(folder / _name(span))
    return len(pixels)


def main() -> None:
    """Command line: renders one set."""
    parser = argparse.ArgumentParser(description="Render a set of the pocket world.")
    parser.add_argument("--out", type=Path, required=True, help=".npy file")
    parser.add_argument("--num", type=int, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    parser.add_argument("--kind", choices=get_args(Kind), default="seen")
    arguments = parser.parse_args()
    render_set(
        arguments.out,
        num=arguments.num,
        size=arguments.size,
        seed=arguments.seed,
        kind=arguments.kind,
    )


if __name__ == "__main__":
    main()
