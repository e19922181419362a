"""Files that are whole or absent, and checks of the folders they go to."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import FullDiskError, UserError

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# Read once: it can only be read by setting it, which another thread's new files would notice.
_UMASK = _read_umask()
# mkstemp makes private files; what a run leaves behind is meant to be read by the group, too.
FILE_MODE = 0o666 & ~_UMASK


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    return _hash_file(path, hashlib.sha256())


def md5_file(path: Path) -> str:
    """The MD5 of a file's bytes, in hexadecimal: against damage, not against malice."""
    return _hash_file(path, hashlib.md5(usedforsecurity=False))


def _hash_file(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def fsync_folder(folder: Path) -> None:
    """Makes renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes beside the target, syncs, and renames into place: readers see the old file or the new one.

    Without `durable` nothing is synced, for files that can be made again and are checked when read: a power
    cut may leave them damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).chmod(FILE_MODE)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def require_free_space(folder: Path, num_bytes: int, what: str) -> None:
    """Refuses before writing when the disk cannot hold what is about to be written.

    Raises:
        FullDiskError: less than `num_bytes` are free where `folder` is.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise FullDiskError(
            f"Not enough disk space for {what}: {num_bytes / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB "
            f"free at {folder}. Free some space or choose another folder (paths.output_dir, paths.cache_dir, "
            "dataset.path)."
        )


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full. Libraries in Rust say it in words alone.

    >>> is_full_disk(OSError(28, "No space left on device")), is_full_disk(OSError(13, "Permission denied"))
    (True, False)
    """
    numbers = (errno.ENOSPC, errno.EDQUOT)
    in_words = any(f"(os error {number})" in str(error) for number in numbers)
    return in_words or (isinstance(error, OSError) and error.errno in numbers)


def require_writable(folder: Path) -> None:
    """Makes the folder and proves that a file can be written there.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot write to the folder {folder} ({error.strerror}). "
            "Choose another one (paths.output_dir, paths.cache_dir) or change its permissions."
        ) from error


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Waits until no other process is in here with this lock file, which is left behind.

    Some network file systems have no such locks; then a warning asks the user to see to it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            _log.warning("%s cannot be locked: start no other run that writes there.", lock.parent)
        yield
