"""Addressed randomness: every draw is a function of what it is for, never of what was drawn before.

A draw is named by its address, for example (seed, "noise", pass number, sample id, draw number). Nothing is
consumed, so resuming needs only a position, and validation, sampling, workers, batch size and world size
cannot shift anybody's numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SEED_BITS = 63


def address_seed(*parts: int | str) -> int:
    """Hashes an address to a seed in [0, 2**63).

    Parts are length-prefixed and typed before hashing, so ("ab", "c"), ("a", "bc") and (1, "1") differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        _add(digest, part)
    return _seed_of(digest)


def address_seeds(*parts: int | str, each: Sequence[str]) -> list[int]:
    """The seeds of addresses that differ in their last part only, faster than one after the other."""
    common = hashlib.blake2b(digest_size=8)
    for part in parts:
        _add(common, part)
    seeds = []
    for part in each:
        digest = common.copy()
        _add(digest, part)
        seeds.append(_seed_of(digest))
    return seeds


def _add(digest: hashlib.blake2b, part: int | str) -> None:
    data = f"{type(part).__name__}:{part}".encode()
    digest.update(len(data).to_bytes(8, "little") + data)


def _seed_of(digest: hashlib.blake2b) -> int:
    return int.from_bytes(digest.digest(), "little") >> (64 - _SEED_BITS)


def generator(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator for an address. CPU, so that the numbers do not depend on the device."""
    import torch

    return torch.Generator(device="cpu").manual_seed(address_seed(*parts))


@contextmanager
def forked_rng(*parts: int | str) -> Iterator[None]:
    """Seeds all global generators (random, numpy, torch on every device) inside, restores them afterwards."""
    import numpy
    import torch

    seed = address_seed(*parts)
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    # MPS keeps a generator of its own that fork_rng handles only when told.
    device_type = "mps" if torch.backends.mps.is_available() else "cuda"
    devices = list(range(torch.cuda.device_count())) if device_type == "cuda" else [0]
    with torch.random.fork_rng(devices=devices, device_type=device_type):
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
