"""What was seen of files, remembered between runs by path, size and time of change."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from src.files import write_json_atomic

Seen = TypeVar("Seen")


def stamped(path: Path) -> str:
    """A file as it is now: a key under which to remember it. Never fails."""
    try:
        status = path.stat()
    except OSError:
        return f"{path}|absent"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def read_memo(
    memo_file: Path | None, *, version: object, build: Callable[[Mapping[str, Any]], Seen]
) -> dict[str, Seen]:
    """What is remembered, by key. A damaged or older memo is as good as none: all files are looked at.

    Args:
        memo_file: None remembers nothing.
        version: of how files are looked at.
        build: makes what was seen of its fields; it may fail on fields that it does not know.
    """
    if memo_file is None or not memo_file.is_file():
        return {}
    try:
        content = json.loads(memo_file.read_bytes())
        if content["version"] != version:
            return {}
        return {key: build(fields) for key, fields in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_memo(memo_file: Path, *, version: object, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Remembers the fields of what was seen, by key.

    Two jobs may write it at once: the last one wins, and what is lost is looked at again.
    """
    write_json_atomic(memo_file, {"version": version, "files": dict(files)})


def look_at(
    paths: Iterable[Path], look: Callable[[Path], Seen], *, num_threads: int, title: str, unit: str
) -> dict[Path, Seen]:
    """Looks at files in a small thread pool, with a bar where it takes long. Ctrl-C drops those that wait."""
    files = list(paths)
    pool = ThreadPoolExecutor(num_threads)
    try:
        looks = pool.map(look, files)
        # Minutes for a large set; a small one is done before the bar would show.
        bar = tqdm(looks, title, len(files), unit=unit, delay=3, leave=False, disable=None)
        return dict(zip(files, bar, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
