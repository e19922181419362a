"""Unpacking zip and tar archives nobody vouches for: all members are checked before anything is written."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from src.data.fetch_http import FetchError
from src.data.whole_folders import settle, working_folder
from src.errors import UserError
from src.files import require_free_space

_CHUNK = 1 << 20
# zipfile reads as much compressed data as it is asked for bytes, and decompresses that at once unless it is
# deflated: of bzip2 a mebibyte can become 20 GiB.
_SMALL_CHUNK = 1 << 12
_MAX_MEMBERS = 2_000_000
# A small archive may unpack to this much whatever its ratio: text compresses well.
_HARMLESS_BYTES = 64 << 20
# Of what tar says about one member, mostly its name: tarfile reads it whole into memory.
_MAX_HEADER_BYTES = 1 << 20

_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}

# The libraries take an archive's numbers and names as they are: ValueError (with UnicodeDecodeError),
# OverflowError and struct.error are what bad ones come to.
_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
)
# Errors of the file system that names in an archive can cause; without a number it is damage.
_FAULTS = {
    None,
    errno.EEXIST,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
}


class UnusableArchive(FetchError):
    """An archive that is damaged or could do harm: unpacked again it is no better, fetched again perhaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may unpack to: bytes in all, and bytes for each byte of the archive."""

    max_bytes: int = 1 << 40
    max_ratio: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A regular file inside an archive, or a folder, which is made when a file goes there.

    `key` is how the archive names it, `overhead` how many bytes tell of it; `chunk_size` bytes at most are
    read at once.
    """

    key: str
    name: PurePosixPath
    size: int
    chunk_size: int = _CHUNK
    overhead: int = 0
    is_folder: bool = False


def _safe_name(name: str) -> PurePosixPath:
    """The member's place below the target folder.

    Raises:
        UnusableArchive: it would leave that folder, or is not a plain relative path.
    """
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":")
    if odd or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UnusableArchive(f"The archive holds the unsafe path {name!r}; nothing was unpacked.")
    return path


def _is_litter(name: PurePosixPath) -> bool:
    """What desktop systems add to archives and nobody wants in a dataset."""
    return "__MACOSX" in name.parts or name.name.startswith("._") or name.name in {".DS_Store", "Thumbs.db"}


def _refuse_kind(name: str, kind: str) -> UnusableArchive:
    return UnusableArchive(
        f"The archive holds a {kind}, {name!r}; only plain files are unpacked. Nothing was."
    )


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        name = _safe_name(info.filename)
        mode = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            yield _Member(key=info.filename, name=name, size=0, is_folder=True)
            continue
        if mode not in {0, stat.S_IFREG}:
            raise _refuse_kind(info.filename, "link" if mode == stat.S_IFLNK else "special file")
        if info.flag_bits & 1:
            raise UnusableArchive(
                f"The archive is encrypted ({info.filename!r}). Unpack it and set dataset.path."
            )
        is_usual = info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        yield _Member(
            key=info.filename,
            name=name,
            size=info.file_size,
            chunk_size=_CHUNK if is_usual else _SMALL_CHUNK,
        )


class _Headers:
    """A tar archive's stream of which only so many bytes may be read until `left` is set again."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.left = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise UnusableArchive(
                f"The archive takes more than {_MAX_HEADER_BYTES} bytes to name one member (a bomb?); "
                "nothing was unpacked."
            )
        return self._stream.read(size)


@contextmanager
def _decompressed(path: Path) -> Iterator[Any]:
    """The bytes of a tar archive, by the compression that its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _COMPRESSIONS)))
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as stream:
        yield stream


@contextmanager
def _tar_headers(path: Path) -> Iterator[tuple[tarfile.TarFile, _Headers]]:
    """A tar archive to read the headers of, and what limits them."""
    with _decompressed(path) as stream:
        headers: Any = _Headers(stream)
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            yield archive, headers


def _is_tar(path: Path) -> bool:
    try:
        with _tar_headers(path):
            return True
    except tarfile.TarError:
        return False


def _tar_members(path: Path) -> Iterator[_Member]:
    with _tar_headers(path) as (archive, headers):
        for info in archive:
            headers.left = _MAX_HEADER_BYTES
            overhead = info.offset_data - info.offset
            # "./" is the usual first member of `tar -C folder .`
            is_top = info.isdir() and PurePosixPath(info.name) == PurePosixPath()
            name = PurePosixPath() if is_top else _safe_name(info.name)
            if info.isdir():
                yield _Member(key=info.name, name=name, size=0, overhead=overhead, is_folder=True)
                continue
            if not info.isreg() or info.issparse():
                raise _refuse_kind(info.name, "link" if info.issym() or info.islnk() else "special file")
            yield _Member(key=info.name, name=name, size=info.size, overhead=overhead)


def _checked(members: Iterator[_Member], archive_size: int, limits: Limits) -> dict[str, _Member]:
    """All members worth unpacking, by the archive's name for them; stops at the first that breaks a limit."""
    chosen: dict[str, _Member] = {}
    places: set[PurePosixPath] = set()
    total = 0
    allowed = min(limits.max_bytes, max(_HARMLESS_BYTES, int(limits.max_ratio * archive_size)))
    for count, member in enumerate(members):
        total += member.size + member.overhead
        if total > allowed or count >= _MAX_MEMBERS:
            raise UnusableArchive(
                f"The archive would unpack to more than {allowed / 2**20:.0f} MiB or {_MAX_MEMBERS} files "
                "(a bomb?); nothing was unpacked. If it is right, unpack it yourself and set dataset.path."
            )
        if member.is_folder or _is_litter(member.name):
            continue
        if member.name in places:
            raise UnusableArchive(f"The archive holds {str(member.name)!r} twice; nothing was unpacked.")
        places.add(member.name)
        chosen[member.key] = member
    if not chosen:
        raise UnusableArchive("The archive holds no files.")
    return chosen


def _write(source: IO[bytes] | io.BufferedIOBase, member: _Member, folder: Path) -> None:
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    # "x": a second member that a case-blind file system maps to the same file must not replace the first.
    with target.open("xb") as file:
        while chunk := source.read(min(member.chunk_size, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise UnusableArchive(f"{str(member.name)!r} is larger than the archive says; refused.")
            file.write(chunk)
    if left:
        raise UnusableArchive(
            f"{str(member.name)!r} is shorter than the archive says; the archive is damaged."
        )


def unpack_zip(
    path: Path,
    folder: Path,
    *,
    wanted: Callable[[PurePosixPath], bool] | None = None,
    limits: Limits | None = None,
    progress: bool = False,
) -> None:
    """Unpacks a zip archive into a folder that is there; after a failure a part of it is left there.

    Args:
        path: the archive. All its members are checked, those that are not wanted as well.
        folder: where to.
        wanted: which members to unpack, by their path in the archive; by default all.
        limits: how far it may unpack.
        progress: show a progress bar when on a terminal.

    Raises:
        UnusableArchive: no zip archive, damaged, or it holds what could do harm.
        UserError: not enough disk space.
    """
    from tqdm import tqdm

    with _damage_named(path), zipfile.ZipFile(path) as archive:
        members = _checked(_zip_members(archive), path.stat().st_size, limits or Limits())
        chosen = [member for member in members.values() if wanted is None or wanted(member.name)]
        total = sum(member.size for member in chosen)
        require_free_space(folder, total, "unpacking the archive")
        with tqdm(
            total=total,
            unit="B",
            unit_scale=True,
            desc=f"unpacking {path.name}",
            disable=None if progress else True,
        ) as bar:
            for member in chosen:
                with archive.open(member.key) as source:
                    _write(source, member, folder)
                bar.update(member.size)


def _unpack_tar(path: Path, folder: Path, limits: Limits) -> None:
    # Two passes: the first reads the headers only, so that nothing of a bad archive is ever written.
    members = _checked(_tar_members(path), path.stat().st_size, limits)
    require_free_space(folder, sum(member.size for member in members.values()), "unpacking the archive")
    with _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.name in members and info.isreg():
                source = archive.extractfile(info)
                assert source is not None
                _write(source, members[info.name], folder)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _DAMAGES as error:
        # A full disk or a folder without permission is no fault of the archive.
        is_fault = not isinstance(error, OSError) or error.errno in _FAULTS
        kind = UnusableArchive if is_fault else FetchError
        raise kind(f"{path.name} cannot be unpacked: {error or type(error).__name__}") from error


def extract_archive(
    path: Path,
    target: Path,
    *,
    limits: Limits | None = None,
    before: Callable[[Path], None] | None = None,
) -> None:
    """Unpacks a zip or tar archive; `target` appears whole or not at all.

    If the archive holds one top folder, that folder's content becomes the content of `target`. `limits` says
    how far it may unpack; `before` as for `settle`.

    Raises:
        UnusableArchive: no archive, damaged, or it holds what could do harm.
        FetchError: it cannot be read or written, or there is something at `target`.
        UserError: not enough disk space.
    """
    with working_folder(target) as work:
        inside = work / "content"
        inside.mkdir()
        with _damage_named(path):
            if zipfile.is_zipfile(path):
                unpack_zip(path, inside, limits=limits)
            elif _is_tar(path):
                _unpack_tar(path, inside, limits or Limits())
            else:
                with path.open("rb") as file:
                    start = file.read(40)
                raise UnusableArchive(
                    f"{path.name} is neither a zip nor a tar archive (it starts with {start!r})."
                )
        top = list(inside.iterdir())
        settle(top[0] if len(top) == 1 and top[0].is_dir() else inside, target, before=before)
