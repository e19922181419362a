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
from jaxtyping import Bool

from src.errors import UserError
from src.files import FILE_MODE

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
        UserError: no file can be made and locked there, and it is needed.
    """
    taken = None
    try:
        taken = _take_lease(cache_dir / _LEASES)
    except OSError as error:
        if is_needed:
            raise UserError(
                f"paths.cache_limit_gb needs locks in {cache_dir / _LEASES}, and there are none to be had "
                f"({error.strerror}). Set paths.cache_dir to a folder that you may write to, on a file "
                "system with locks, or paths.cache_limit_gb=null."
            ) from error
    try:
        yield
    finally:
        if taken is not None:
            _give_up(*taken)


def _take_lease(folder: Path) -> tuple[Path, int]:
    """A locked file with a name of its own, and its descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    # Locked before it gets the name by which others find it: an unlocked lease is a dead one.
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    path = Path(name)
    try:
        # Other users of the folder look whether it is locked.
        os.fchmod(descriptor, FILE_MODE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path = path.rename(path.with_name(f"{path.name.removeprefix('.new-')}{_SUFFIX}"))
    except BaseException:
        _give_up(path, descriptor)
        raise
    return path, descriptor


def _give_up(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    # Unlocked by word: a data worker may live a moment longer with a copy of the descriptor.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def oldest_lease(cache_dir: Path) -> int | None:
    """When the oldest of the running jobs began, in nanoseconds by the file system; None if none runs.

    The leases of dead jobs are removed. One that cannot be looked at counts as a running job's; where not
    even their folder can be, a job may be as old as all entries.
    """
    folder = cache_dir / _LEASES
    try:
        paths = [path for path in folder.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return None
    except PermissionError:
        return 0
    times = []
    for path in paths:
        with suppress(FileNotFoundError):
            if _is_held(path):
                times.append(path.stat().st_mtime_ns)
            else:
                with suppress(PermissionError):
                    path.unlink()
    return min(times, default=None)


def _is_held(path: Path) -> bool:
    """Whether a lease is locked, or may be."""
    try:
        # To share it needs no right to write, also where locks are those of NFS.
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        raise
    except OSError:  # it is, or nobody can tell: of another user, or on a file system without locks
        return True
    return False


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

    def num_bytes_before(self, before_ns: int | None) -> int:
        """The space of what may go: entries from before this time, all if it is None."""
        return int(self._sizes[self._may_go(before_ns)].sum())

    def evict(self, num_bytes: int, *, before_ns: int | None) -> Eviction:
        """Removes what was used longest ago until so many bytes are free, or nothing more may go.

        Args:
            num_bytes: How much to free.
            before_ns: Entries of this time and later stay; None if all may go.
        """
        may_go = self._may_go(before_ns)
        order = np.argsort(self._times[may_go], kind="stable")
        if num_bytes <= 0 or not len(order):
            return Eviction(num_entries=0, num_bytes=0)
        freed = np.cumsum(self._sizes[may_go][order])
        last = min(int(np.searchsorted(freed, num_bytes)), len(order) - 1)
        return self._remove_until(int(self._times[may_go][order[last]]))

    def _may_go(self, before_ns: int | None) -> Bool[np.ndarray, " n"]:
        return np.ones_like(self._times, dtype=bool) if before_ns is None else self._times < before_ns

    def _remove_until(self, time_ns: int) -> Eviction:
        """Removes what is as old or older. Looked at again: a job may have claimed some since."""
        num_entries = num_bytes = 0
        for entry in _files(self._folders):
            # Gone already, or another user's, who does not let us.
            with suppress(FileNotFoundError, PermissionError):
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
        with suppress(FileNotFoundError, PermissionError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry
