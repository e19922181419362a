"""Folders that appear at their place whole or not at all, and never over something that is there."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.data.fetch_http import FetchError
from src.files import require_free_space


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, so that what is built there can be renamed into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path, target: Path, *, before: Callable[[Path], None] | None = None) -> None:
    """Renames a finished folder to `target`, never over something that is there.

    An empty folder that cannot be removed, such as a mount point, gets the content instead.

    Args:
        folder: with everything in it.
        target: where it goes.
        before: called with `folder` right before the rename: what must be known when others see `target`.

    Raises:
        FetchError: there is something at `target` other than an empty folder, or it cannot be filled.
    """
    try:
        target.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if not target.is_dir() or any(target.iterdir()):
            raise FetchError(f"{target} exists already and is left as it is. Move it away first.") from error
        _fill(target, folder, before=before)
        return
    if before is not None:
        before(folder)
    folder.rename(target)


def _fill(target: Path, folder: Path, *, before: Callable[[Path], None] | None) -> None:
    """Copies what is in `folder` to an empty folder, most likely on another disk: all of it or nothing."""
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    require_free_space(target, num_bytes, "the dataset")
    if before is not None:
        before(folder)
    try:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    except BaseException as error:
        for entry in folder.iterdir():
            place = target / entry.name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if isinstance(error, shutil.Error):
            raise FetchError(f"{target} cannot be filled: {error.args[0][0][2]}") from error
        raise


def merge(folder: Path, target: Path) -> None:
    """Moves what is in `folder` to `target`: new folders whole, else file by file over those of the name."""
    for entry in sorted(folder.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            merge(entry, place)
        else:
            entry.replace(place)
