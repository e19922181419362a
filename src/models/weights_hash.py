"""Hashes of a model's files, for lineage and for the names of cached latents and embeddings."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from src.files import sha256_file


def weights_hash(files: Mapping[str, Sequence[Path]], components: Sequence[str]) -> str:
    """One hash over the contents of some components' files; their paths do not matter, only their names.

    Args:
        files: component name to its files (weights and configuration).
        components: which of them, in this order.
    """
    digest = hashlib.sha256()
    for component in components:
        for path in sorted(files[component], key=lambda path: path.name):
            digest.update(f"{component}/{path.name}:{_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    stat = path.stat()
    return _remembered(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _remembered(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)
