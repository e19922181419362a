"""Room for what the caches lack, found before anything is encoded: under the limit and on the disk."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from src.data.cache_limit import Inventory, oldest_lease
from src.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What is still to be kept, and how much space on the disk it will take.

    Attributes:
        num_images: Variants of images.
        num_texts: Prompts.
        image_bytes: Of all these images.
        text_bytes: Of all these texts.
    """

    num_images: int
    num_texts: int
    image_bytes: int
    text_bytes: int

    @property
    def num_bytes(self) -> int:
        """Of images and texts."""
        return self.image_bytes + self.text_bytes


def make_room(wanted: Projection, *, cache_dir: Path, limit_bytes: int | None) -> bool:
    """Says whether the texts fit as well as the images, and evicts what is in their way if there is a limit.

    Nothing is evicted for what will not be kept.

    Args:
        wanted: What this job will add.
        cache_dir: The folder of all caches.
        limit_bytes: How much encoded images and texts may take together; None for no limit, and no eviction.

    Returns:
        True if everything fits, False if the images do and the texts must be encoded as they come.

    Raises:
        UserError: the images alone do not fit.
    """
    free = room = _free_space(cache_dir)
    held = 0
    stored = before_ns = None
    if limit_bytes is not None:
        stored, before_ns = _inventory(cache_dir), oldest_lease(cache_dir)
        may_go = stored.num_bytes_before(before_ns)
        held = stored.num_bytes - may_go
        room = max(0, min(free + may_go, limit_bytes - held))
    # Decided before anything is removed: a run that is refused must not cost the others their entries.
    fits = wanted.num_bytes <= room
    if not fits and wanted.image_bytes > room:
        raise UserError(_refusal(wanted, cache_dir=cache_dir, room=room, limit_bytes=limit_bytes, held=held))
    if not fits:
        _log.warning(
            "Not enough room for the encoded texts (%s, %s left): they are encoded at each step, which is "
            "slower. A higher paths.cache_limit_gb, paths.cache_dir on another disk or "
            "dataset.cache_precision=fp16 would keep them.",
            gigabytes(wanted.text_bytes),
            gigabytes(room - wanted.image_bytes),
        )
    if stored is not None and limit_bytes is not None:
        kept = wanted.num_bytes if fits else wanted.image_bytes
        _evict(stored, max(stored.num_bytes + kept - limit_bytes, kept - free), before_ns=before_ns)
    return fits


def hold_limit(cache_dir: Path, limit_bytes: int) -> None:
    """Evicts what is beyond the limit: it was lowered, or jobs filled the caches at the same time."""
    stored = _inventory(cache_dir)
    _evict(stored, stored.num_bytes - limit_bytes, before_ns=oldest_lease(cache_dir))


def _inventory(cache_dir: Path) -> Inventory:
    return Inventory([cache_dir / "latents", cache_dir / "texts"])


def _evict(stored: Inventory, num_bytes: int, *, before_ns: int | None) -> None:
    gone = stored.evict(num_bytes, before_ns=before_ns)
    if gone.num_entries:
        size = gigabytes(gone.num_bytes)
        _log.info("Removed %d entries of the caches, used longest ago, %s", gone.num_entries, size)


def _refusal(wanted: Projection, *, cache_dir: Path, room: int, limit_bytes: int | None, held: int) -> str:
    is_limit = limit_bytes is not None and room == max(0, limit_bytes - held)
    why = (
        f"paths.cache_limit_gb={limit_bytes / 1e9:g} leaves {gigabytes(room)} beside the "
        f"{gigabytes(held)} that this and other running jobs need"
        if is_limit and limit_bytes is not None
        else f"{gigabytes(room)} are free at {cache_dir}"
    )
    return (
        f"Not enough disk space for the caches: {gigabytes(wanted.image_bytes)} needed for "
        f"{wanted.num_images} images, and {why}. Free some space, set paths.cache_dir to another disk, "
        f"{'raise paths.cache_limit_gb, ' if is_limit else ''}set dataset.cache_precision=fp16, which takes "
        "half of fp32, or do without: dataset.cache=false."
    )


def _free_space(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(num_bytes: int) -> str:
    """A size for the eye: in GB, small ones in MB.

    >>> gigabytes(31_000_000_000), gigabytes(230_000)
    ('31.0 GB', '0.2 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
