"""What a source of data is: it knows where a published dataset lies and brings it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from src.data.fetch_http import Retries


@runtime_checkable
class Source(Protocol):
    """Where a dataset comes from if neither DVC nor dataset.url has it."""

    @property
    def origin(self) -> str:
        """What it brings, in words, with every setting that decides the content and none that does not."""

    def missing(self, path: Path) -> list[str]:
        """What of it a dataset folder lacks, in words.

        Args:
            path: absent, empty, or a folder that this source has filled.
        """

    def fetch(self, folder: Path, *, missing: Sequence[str], retries: Retries, progress: bool) -> Path:
        """Brings what is missing into a folder, all of it or an error.

        Args:
            folder: for downloads; what an interrupted call left there is gone on with.
            missing: what `missing` said.
            retries: attempts, pauses and timeouts.
            progress: show progress bars when on a terminal.

        Returns:
            A folder below `folder` with nothing in it but the dataset.

        Raises:
            FetchError: it could not be had.
            UserError: not enough disk space.
        """
