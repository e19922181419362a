"""What was verified about a dataset's folder, kept beside it, so that the next start only looks at files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.files import read_json, write_json_atomic


class Manifest:
    """`.<name>.darkroom.json` beside a folder: its files as they were, and where they came from.

    Args:
        folder: the dataset's folder.
        with_times: whether times of change count beside sizes. They do for what can be verified again; a
            download cannot, and copying a folder changes times.
    """

    def __init__(self, folder: Path, *, with_times: bool) -> None:
        self.path = folder.with_name(f".{folder.name}.darkroom.json")
        self._folder, self._with_times = folder, with_times

    def read(self) -> dict[str, Any]:
        """What was remembered: "files" by name and what came with them; empty if nothing was."""
        try:
            content = read_json(self.path)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else {}

    def changed(self, content: dict[str, Any]) -> list[str]:
        """Names of the remembered files that are gone or look touched."""
        return [name for name, seen in content["files"].items() if self._stamp(name, self._folder) != seen]

    def remember(self, names: Iterable[str], *, folder: Path | None = None, **what: str | None) -> None:
        """Remembers files, those that are there, and what else is said of them.

        Args:
            names: of the files.
            folder: where they are if not in their place yet.
            what: what to say of them.
        """
        stamps = {name: self._stamp(name, folder or self._folder) for name in names}
        files = {name: stamp for name, stamp in stamps.items() if stamp is not None}
        write_json_atomic(self.path, {"files": files, **what})

    def _stamp(self, name: str, folder: Path) -> list[int] | None:
        try:
            status = (folder / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns] if self._with_times else [status.st_size]
