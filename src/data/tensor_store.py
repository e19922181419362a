"""Content-addressed tensors on disk, shared by runs and processes: whole, checked, safe to write at once."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from src.errors import UserError
from src.files import write_bytes_atomic

_log = logging.getLogger(__name__)

_quoted = json.encoder.encode_basestring_ascii
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """Tensors by name, and text by name."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def entry_key(*parts: int | str) -> str:
    """The key of an entry: a hash of all that its content depends on."""
    # As json.dumps writes it, in a third of its time, which each of COCO's captions would take.
    text = ", ".join([_quoted(part) if isinstance(part, str) else str(part) for part in parts])
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()


class TensorStore:
    """A folder of safetensors files, one an entry, under two hexadecimal digits of its key.

    An entry is written beside its place and renamed, so writers at once do no harm, and is checked on reading
    by a checksum over key, metadata and tensors. Entries are not synced to disk one by one: the checksum
    finds what a power cut has damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        """Where the entry of a key is."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        # As text: for each of COCO's images and captions a Path takes longer to make than to look up.
        return f"{self._folder}/{key[:2]}/{key}.safetensors"

    def claim(self, key: str) -> bool:
        """Whether there is a file for the key, which from now on counts as just used (see `cache_limit`).

        It is checked only when it is read.
        """
        try:
            os.utime(self._place(key))
        except FileNotFoundError:
            return False
        except OSError:  # another user's entry, which only they may date
            return self.path(key).exists()
        return True

    def read(self, key: str) -> StoredEntry | None:
        """The entry, or None if there is none or it is damaged (and has to be written again).

        Raises:
            UserError: it cannot be read.
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"Cannot read {path} of the cache ({error.strerror}). Have its owner give you the right to, "
                "set paths.cache_dir to a folder of your own, or set dataset.cache=false."
            ) from error
        try:
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            checksum = metadata.pop("checksum")
            entry = StoredEntry(tensors=load(data), metadata=metadata)
            is_sound = checksum == _checksum(key, entry)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            is_sound = False
        if not is_sound:
            _log.warning("%s is damaged and will be made again", path)
            return None
        return entry

    def write(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        """Writes an entry, whole or not at all, and returns its size in bytes.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        entry = StoredEntry(
            tensors={name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata=dict(metadata),
        )
        data = save(entry.tensors, {**entry.metadata, "checksum": _checksum(key, entry)})
        try:
            write_bytes_atomic(self.path(key), data, durable=False)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "no space left on the disk" if is_full else error.strerror
            raise UserError(
                f"Cannot write to the cache {self._folder} ({reason}). What is there stays usable. "
                "Free some space, set paths.cache_dir to another disk, or set dataset.cache=false."
            ) from error
        return len(data)


def _checksum(key: str, entry: StoredEntry) -> str:
    digest = hashlib.blake2b(digest_size=16)
    described = {name: [str(t.dtype), list(t.shape)] for name, t in sorted(entry.tensors.items())}
    digest.update(json.dumps([key, described, sorted(entry.metadata.items())]).encode())
    for _, tensor in sorted(entry.tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
