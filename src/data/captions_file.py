"""`metadata.jsonl` as a captioner writes it: only ever longer, and whole whatever interrupts the writing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from src.data.readers.common import METADATA_FILES, outside_problem
from src.data.readers.known import CAPTIONER_COLUMN
from src.data.readers.metadata import FILE_COLUMN
from src.errors import UserError
from src.files import require_writable, write_bytes_atomic

_START = json.dumps({FILE_COLUMN: ""})[:-3]  # how each line of ours begins

log = logging.getLogger(__name__)


class CaptionsFile:
    """Adds lines to a folder's `metadata.jsonl` and changes none that is there. See `open_captions_file`."""

    def __init__(self, folder: Path) -> None:
        kind = METADATA_FILES[0]
        found = [file for file in sorted(folder.iterdir()) if file.name.casefold() == kind]
        self.path = found[0] if found else folder / kind
        problem = outside_problem(self.path, name=str(self.path), inside=[folder.resolve()])
        if problem is not None:
            raise UserError(str(problem))
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{self.path} is no file (a folder or pipe). Remove it.")

    def add(self, captions: Mapping[str, str], *, column: str, captioner: str | None) -> None:
        """Adds a line for each image; on the disk when this returns, and not at all when it raises.

        Args:
            captions: By the image's path relative to the folder.
            column: The column of the captions.
            captioner: Who wrote them; None for a person.
        """
        author = {} if captioner is None else {CAPTIONER_COLUMN: captioner}
        # The author before the caption: a line that a crash has cut off says whose it is; see `_mend_end`.
        lines = [{FILE_COLUMN: name, **author, column: caption} for name, caption in captions.items()]
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        if self.path.exists() and self.path.stat().st_size and not self._ends_line():
            data = b"\n" + data
        if captioner is None or not self.path.exists():
            # Half a line of a person's could not be told from one that the person wrote so.
            before = self.path.read_bytes() if self.path.exists() else b""
            write_bytes_atomic(self.path, before + data)
            return
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    def _ends_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def mend_end(self) -> None:
        """Removes a last line that a killed captioner has left half written, and nothing else.

        What a person wrote stays, also if it is no JSON; the reader then says so.
        """
        if not self.path.is_file() or not self.path.stat().st_size or self._ends_line():
            return
        data = self.path.read_bytes()
        keep = data.rfind(b"\n") + 1
        tail = data[keep:].decode(errors="replace")
        # Cut off before the author, a line of ours holds a file name at most, and no caption.
        is_name_only = _START.startswith(tail) or (tail.startswith(_START) and tail.count('": ') == 1)
        is_ours = is_name_only or f'"{CAPTIONER_COLUMN}": ' in tail
        if is_ours and not _is_json(tail):
            log.warning("%s ended in half a line, which was removed: %s", self.path, tail)
            os.truncate(self.path, keep)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@contextmanager
def open_captions_file(folder: Path) -> Iterator[CaptionsFile]:
    """A folder's `metadata.jsonl`, for one process at a time.

    Raises:
        UserError: another process is writing there, the folder cannot be written, or the file is a link that
            leads out of it.
    """
    require_writable(folder)
    # The folder itself is the lock: it is there, and a file would have to be left behind in it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is writing captions in {folder}. Wait for it.") from error
        except OSError:
            # Some network file systems have no such locks.
            log.warning("%s cannot be locked: start no other captioner there meanwhile.", folder)
        file = CaptionsFile(folder)
        file.mend_end()
        yield file
    finally:
        os.close(descriptor)
