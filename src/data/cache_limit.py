"""A bound on the size of the caches: what was used longest ago goes first, never what a running job needs.

An entry's time of change says when it was last wanted: a job that starts dates all that it is going to read
(`TensorStore.claim`). While it runs it holds a lease, a locked file. What is younger than the oldest lease
stays; a lease whose process has died is not locked any more and counts for nothing.
"""

import fcntl
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError

_LEASES = "leases"
_SUFFIX = ".lease"
# File systems give space away in blocks, mostly of this size; small entries take a whole one.
_BLOCK = 4096


def on_disk(num_bytes: int) -> int:
    """The space that a file of so many bytes takes."""
    return -(-num_bytes // _BLOCK) * _BLOCK


@contextmanager
def lease(cache_dir: Path, *, is_needed: bool) -> Iterator[None]:
    """Keeps what this job claims from now on safe from eviction by any job, until it ends or dies.

    Args:
        cache_dir: The folder of all caches.
        is_needed: Whether to insist, on a file system that has no locks.

    Raises:
        UserError: there are no locks, and it is needed.
    """
    folder = cache_dir / _LEASES
    folder.mkdir(parents=True, exist_ok=True)
    # Locked before it gets the name by which others find it: an unlocked lease is a dead one.
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    path = Path(name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            path = path.rename(path.with_name(f"{path.name.removeprefix('.new-')}{_SUFFIX}"))
        except OSError as error:
            if is_needed:
                raise UserError(
                    f"paths.cache_limit_gb needs locks, which the file system of {cache_dir} does not have "
                    f"({error.strerror}). Set paths.cache_dir to another one, or paths.cache_limit_gb=null."
                ) from error
        yield
    finally:
        path.unlink(missing_ok=True)
        # Unlocked by word: a data worker may live a moment longer with a copy of the descriptor.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def oldest_lease(cache_dir: Path) -> int | None:
    """When the oldest of the running jobs began, in nanoseconds by the file system; None if none runs.

    The leases of dead jobs are removed.
    """
    times = []
    for path in (cache_dir / _LEASES).glob(f"*{_SUFFIX}"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                times.append(path.stat().st_mtime_ns)
            else:
                path.unlink()
    return min(times, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What was removed from the caches.

    Attributes:
        num_entries: Files.
        num_bytes: Their space on the disk.
    """

    num_entries: int
    num_bytes: int


class Inventory:
    """The entries of some stores: 16 bytes of memory for each, however many there are.

    Args:
        folders: The stores' folders, or folders of stores.

    Attributes:
        num_bytes: Their space on the disk.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        times, sizes = array("q"), array("q")
        for entry in _files(folders):
            with suppress(FileNotFoundError):
                status = entry.stat()
                times.append(status.st_mtime_ns)
                sizes.append(on_disk(status.st_size))
        self._times = np.frombuffer(times, dtype=np.int64) if times else np.zeros(0, np.int64)
        self._sizes = np.frombuffer(sizes, dtype=np.int64) if sizes else np.zeros(0, np.int64)
        self.num_bytes = int(self._sizes.sum())

    def evict(self, num_bytes: int, *, before_ns: int | None) -> Eviction:
        """Removes what was used longest ago until so many bytes are free, or nothing more may go.

        Args:
            num_bytes: How much to free.
            before_ns: Entries of this time and later stay; None if all may go.
        """
        may_go = np.ones_like(self._times, dtype=bool) if before_ns is None else self._times < before_ns
        order = np.argsort(self._times[may_go], kind="stable")
        if num_bytes <= 0 or not len(order):
            return Eviction(num_entries=0, num_bytes=0)
        freed = np.cumsum(self._sizes[may_go][order])
        last = min(int(np.searchsorted(freed, num_bytes)), len(order) - 1)
        return self._remove_until(int(self._times[may_go][order[last]]))

    def _remove_until(self, time_ns: int) -> Eviction:
        """Removes what is as old or older. Looked at again: a job may have claimed some since."""
        num_entries = num_bytes = 0
        for entry in _files(self._folders):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if status.st_mtime_ns <= time_ns:
                    Path(entry.path).unlink()
                    num_entries += 1
                    num_bytes += on_disk(status.st_size)
        return Eviction(num_entries=num_entries, num_bytes=num_bytes)


def _files(folders: Sequence[Path]) -> Iterator[os.DirEntry[str]]:
    """All files below; also the half-written ones that a killed job has left."""
    waiting = [str(folder) for folder in folders]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry
