"""The header of a safetensors file, read without torch and without its weights.

Form: eight bytes with the header's length (little-endian), then JSON, then the data
(https://github.com/huggingface/safetensors#format).
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16}
_BITS |= {"I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """What a file says about itself.

    Attributes:
        shapes: tensor name to shape.
        metadata: the free text entries.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> SafetensorsHeader:
    """Reads and checks a header, the file's length included, so that a broken download is seen at once.

    Raises:
        UserError: the file is missing, no safetensors file, damaged or truncated.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            if len(start) < _LENGTH_BYTES:
                raise _damaged(path, f"it holds only {size} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > min(size - _LENGTH_BYTES, _MAX_HEADER):
                raise _damaged(path, "its header is longer than the file")
            text = file.read(length)
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror}). Check the path and its permissions."
        ) from error
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            bits = math.prod(shapes[name]) * _BITS.get(entry["dtype"], 0)
            if bits and bits != 8 * (last - first):
                raise _damaged(path, f"tensor {name} has another size than its shape says")
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path, "its header cannot be read") from error
    if size - _LENGTH_BYTES - length != end:
        raise _damaged(path, f"{_LENGTH_BYTES + length + end} bytes expected, {size} found")
    return SafetensorsHeader(shapes=shapes, metadata=metadata)


def with_sorted_header(data: bytes) -> bytes:
    """The same file with the metadata in a fixed order, so that equal contents are equal bytes.

    The library keeps metadata in a hash map and writes it in another order each time.
    """
    (length,) = struct.unpack("<Q", data[:_LENGTH_BYTES])
    entries = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    # Tensors stay aligned to eight bytes; their offsets count from the header's end.
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return struct.pack("<Q", len(text)) + text + data[_LENGTH_BYTES + length :]


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged, truncated or no safetensors file: {reason}. Download or copy it again."
    )
