"""Renders many scenes of the pocket world into an array on disk, in parallel; goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
_NUM_PROBED = 8


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
    made = _made(path)
    if made is None:
        raise ValueError(f"{path} is not rendered, or not to its end. Render it.")
    if made != _recipe(num=made["num"], size=made["size"], seed=seed, kind=kind):
        raise ValueError(f"{path} was rendered with {made}, or by other code. Render it again.")
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
    recipe = _recipe(num=num, size=size, seed=seed, kind=kind)
    if _made(path) == recipe:
        return
    # Shards of other code, or of another size or seed, have another name.
    shards = path.parent / f"{path.stem}_{size}_{seed}_{recipe['probe'][:12]}"
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
    done_file = path.with_suffix(".json")
    done_file.unlink(missing_ok=True)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num, size, size, 3))
    for first, last in spans:
        pixels[first:last] = np.load(shards / _name((first, last)))
    pixels.flush()
    write_text_atomic(done_file, json.dumps(recipe) + "\n")
    for span in spans:
        (shards / _name(span)).unlink()
    shards.rmdir()


def _made(path: Path) -> dict[str, Any] | None:
    """How a set was rendered, None if it is not complete."""
    done_file = path.with_suffix(".json")
    if not done_file.exists():
        return None
    made: dict[str, Any] = json.loads(done_file.read_text(encoding="utf-8"))
    return made


def _recipe(*, num: int, size: int, seed: int, kind: Kind) -> dict[str, Any]:
    """What a set is made of: with a digest of some scenes as the code draws them today, so that pictures of
    an older world are never paired with captions of a newer one."""
    digest = hashlib.sha256()
    for index in range(0, num, -(-num // _NUM_PROBED)):
        scene = scene_at(index, seed=seed, kind=kind)
        digest.update(scene.caption.encode())
        digest.update(draw(scene, size=size).tobytes())
    return {"num": num, "size": size, "seed": seed, "kind": kind, "probe": digest.hexdigest()}


def _name(span: tuple[int, int]) -> str:
    return f"{span[0]:07d}-{span[1]:07d}.npy"


def _render_shard(folder: Path, span: tuple[int, int], size: int, seed: int, kind: Kind) -> int:
    pixels = np.stack([draw(scene_at(index, seed=seed, kind=kind), size=size) for index in range(*span)])
    # Renamed when it is whole: a shard that is there is complete.
    partial = folder / f".{_name(span)}.{os.getpid()}.npy"
    np.save(partial, pixels)
    partial.replace(folder / _name(span))
    return len(pixels)
