"""One look at every image file: content hash, size, and whether it is whole. Remembered between runs."""

import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from src.data.images import load_image, may_turn_late, read_header
from src.data.memo import look_at, read_memo, stamped, write_memo
from src.data.near_duplicates import FINGERPRINT_VERSION, fingerprint
from src.errors import UserError
from src.files import sha256_file

# Sets up to this size are decoded in full before training; larger ones while they are encoded, or where what
# is damaged is to be left out.
FULL_DECODE_LIMIT = 2000
_NUM_THREADS = min(8, os.cpu_count() or 1)
_TAIL = 1 << 16
_MEMO_VERSION = [3, FINGERPRINT_VERSION]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is known of one image file.

    Attributes:
        sha256: Hash of the content; empty if the file cannot be read at all.
        width: Upright width in pixels, 0 if the file is no image.
        height: Upright height.
        format: Pillow's name of the format of the content, such as HEIF.
        is_decoded: Whether all pixels were decoded and not only the header read.
        problem: What is wrong with the file, if something is.
        fingerprint: What the image looks like (`near_duplicates.fingerprint`); empty if that was not asked.
    """

    sha256: str
    width: int = 0
    height: int = 0
    format: str = ""
    is_decoded: bool = False
    problem: str | None = None
    fingerprint: str = ""


def inspect_files(
    paths: Iterable[Path],
    *,
    memo_file: Path | None = None,
    decode: bool | None = None,
    with_fingerprints: bool = False,
) -> dict[Path, Inspection]:
    """Inspects files in a small thread pool (decoders and hashing release the interpreter's lock).

    Args:
        paths: Image files; repeated ones are looked at once.
        memo_file: Where the sound files of this dataset are remembered (`memo.py`).
        decode: Whether to decode in full; by default for up to `FULL_DECODE_LIMIT` files.
        with_fingerprints: Whether to take the fingerprints of the files that are decoded.
    """
    unique = list(dict.fromkeys(paths))
    decode = is_decoded_in_full(len(unique)) if decode is None else decode
    memo = read_memo(memo_file, version=_MEMO_VERSION, build=lambda fields: Inspection(**fields))
    found: dict[Path, Inspection] = {}
    keys = {path: stamped(path) for path in unique}
    for path in unique:
        known = memo.get(keys[path])
        if known is not None and _suffices(known, decode=decode, with_fingerprints=with_fingerprints):
            found[path] = known
    missing = [path for path in unique if path not in found]

    def look(path: Path) -> Inspection:
        return _inspect(path, decode=decode, with_fingerprint=decode and with_fingerprints)

    found |= look_at(missing, look, num_threads=_NUM_THREADS, title="Looking at", unit="image")
    if memo_file is not None and missing:
        sound = {keys[path]: asdict(seen) for path, seen in found.items() if seen.problem is None}
        write_memo(memo_file, version=_MEMO_VERSION, files=sound)
    return {path: found[path] for path in unique}


def is_decoded_in_full(num_files: int) -> bool:
    """Whether so many files are decoded in full where nothing else is asked for."""
    return num_files <= FULL_DECODE_LIMIT


def _suffices(known: Inspection, *, decode: bool, with_fingerprints: bool) -> bool:
    return not decode or (known.is_decoded and (bool(known.fingerprint) or not with_fingerprints))


def _inspect(path: Path, *, decode: bool, with_fingerprint: bool) -> Inspection:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Reading a pipe or a device may never end.
            return Inspection(sha256="", problem="is no file (a pipe, device or folder). Remove it.")
        if status.st_size == 0:
            return Inspection(sha256="", problem="is empty. Replace or remove it.")
        sha256 = sha256_file(path)
    except OSError as error:
        return Inspection(
            sha256="", problem=f"cannot be read ({error.strerror}). Restore it or its permissions."
        )
    try:
        header = read_header(path)
        # A large set is not decoded twice, but a file whose end looks wrong must prove itself.
        decode = decode or not _ends_well(path, header.format)
        image = load_image(path) if decode else None
    except UserError as error:
        return Inspection(sha256=sha256, problem=str(error).removeprefix(f"{path} "))
    width, height = (header.width, header.height) if image is None else image.size
    return Inspection(
        sha256=sha256,
        width=width,
        height=height,
        format=header.format,
        is_decoded=decode,
        fingerprint=fingerprint(image) if image is not None and with_fingerprint else "",
    )


def _ends_well(path: Path, image_format: str) -> bool:
    """Whether the file's end shows that nothing was cut off; False only means that it does not show."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if image_format in ("JPEG", "MPO"):
        return b"\xff\xd9" in tail
    if image_format == "PNG":
        return b"IEND" in tail and not may_turn_late(path, image_format)
    if image_format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return image_format in ("HEIF", "AVIF") and _holds_its_boxes(path, size)


def _holds_its_boxes(path: Path, size: int) -> bool:
    """Whether the boxes of an ISO base media file (ISO/IEC 14496-12, 4.2) lie within it."""
    position = 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length == 0:  # up to the end of the file
                return True
            if len(header) < 8 or length < 8:
                return False
            position += length
    return position == size
