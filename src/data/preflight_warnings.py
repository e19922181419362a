"""What a user should know of a dataset and may leave as it is, each kind in a line."""

from src.data.buckets import Size
from src.data.inspection import Inspection
from src.data.near_duplicates import groups_of
from src.data.records import Record, few

# Warnings of one kind that are listed; problems always are, all of them.
_MAX_LISTED = 10
_FORMATS_OF_SUFFIX = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".heic": ("HEIF",),
    ".heif": ("HEIF", "AVIF"),
    ".hif": ("HEIF",),
    ".avif": ("AVIF",),
    ".gif": ("GIF",),
    ".bmp": ("BMP",),
}


def image_warnings(
    records: list[Record], seen: dict[str, Inspection], training_sizes: dict[str, Size]
) -> list[str]:
    """Lines on misnamed and small images and on copies.

    Args:
        records: Sound ones.
        seen: What is known of their images, by record id.
        training_sizes: (width, height) that each is trained at, by record id; empty if that is not known.
    """
    different = set(training_sizes.values())
    trained_at = "{}x{}".format(*different.pop()) if len(different) == 1 else "their buckets"
    misnamed, small, contents = [], [], dict[str, str]()
    duplicates = []
    for record in records:
        inspection = seen[record.id]
        if inspection.format not in _FORMATS_OF_SUFFIX.get(
            record.path.suffix.casefold(), (inspection.format,)
        ):
            misnamed.append(f"{record.id} ({inspection.format})")
        width, height = training_sizes.get(record.id, (0, 0))
        if inspection.width < width or inspection.height < height:
            small.append(f"{record.id} ({inspection.width}x{inspection.height})")
        first = contents.setdefault(inspection.sha256, record.id)
        if first != record.id and seen[first] is not inspection:
            duplicates.append(f"{record.id} (same as {first})")
    return [
        *_summary(misnamed, "of another format than the name says; the content counts"),
        *_summary(small, f"smaller than {trained_at} and will be enlarged"),
        *_summary(duplicates, "on one side of the split with an exact duplicate"),
    ]


def _summary(names: list[str], what: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    are = "image is" if len(names) == 1 else "images are"
    return [f"{len(names)} {are} {what}: {', '.join(names[:_MAX_LISTED])}{more}."]


def near_duplicate_warnings(hashes: dict[str, str], keys: dict[str, str]) -> list[str]:
    """A line that names the groups of near duplicates, each image once."""
    name_of: dict[str, str] = {}
    for id, content in hashes.items():
        name_of.setdefault(content, id)
    groups = groups_of({id: keys[content] for content, id in name_of.items()})
    if not groups:
        return []
    listed = "; ".join(f"({few(group, _MAX_LISTED)})" for group in groups[:_MAX_LISTED])
    more = f" and {len(groups) - _MAX_LISTED} more groups" if len(groups) > _MAX_LISTED else ""
    num_images, num_groups = sum(map(len, groups)), len(groups)
    stay = "group that stays" if num_groups == 1 else "groups that stay"
    return [
        f"{num_images} images are near duplicates, in {num_groups} {stay} "
        f"on one side of the split: {listed}{more}."
    ]
