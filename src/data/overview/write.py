"""Writes what was found: inspect.html, inspect.json and, in a folder beside them, the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from src.data.images import Colour
from src.data.overview.charts import Bins, draw_histogram, draw_sizes, number_bins, ratio_bins
from src.data.overview.contact_sheet import choose_shown, draw_pages
from src.data.overview.duplicate_sheet import draw_duplicates
from src.data.overview.findings import CaptionTokens, Findings, ImageFinding, Size, size_counts
from src.data.overview.page import Pictures, render_page
from src.files import write_bytes_atomic, write_json_atomic, write_text_atomic

PAGE, SUMMARY, PICTURES = "inspect.html", "inspect.json", "inspect"
# One endless caption must not press all others into one column.
_MOST_LIMITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Where things were written.

    Attributes:
        page: The HTML page.
        summary: The same for programs.
        pictures: Its pictures, in the page's order.
    """

    page: Path
    summary: Path
    pictures: list[Path]


def write_overview(findings: Findings, folder: Path, *, max_images: int, background: Colour) -> Overview:
    """Draws and writes everything; pictures of an earlier inspection there are removed.

    Args:
        findings: What to show.
        folder: The run's folder.
        max_images: Images on the contact sheet.
        background: What shows through transparent pixels.
    """
    place = folder / PICTURES
    for old in place.glob("*.png"):
        old.unlink()
    shown = choose_shown(findings.images, max_images)
    sheets = [
        _save(page, place / f"contact_sheet_{number:03d}.png")
        for number, page in enumerate(draw_pages(findings, shown, background=background), start=1)
    ]
    duplicates = None
    if findings.duplicates:
        sheet = draw_duplicates(findings.duplicates, background=background)
        duplicates = _save(sheet, place / "duplicates.png")
    sizes = [_save(chart, place / f"{name}.png") for name, chart in _size_charts(findings).items()]
    tokens = None
    if findings.tokens is not None and findings.tokens.counts:
        tokens = _save(_token_chart(findings.tokens), place / "tokens.png")
    pictures = Pictures(
        sheets=[_address(path) for path in sheets],
        num_shown=len(shown),
        duplicates=None if duplicates is None else _address(duplicates),
        sizes=[_address(path) for path in sizes],
        tokens=None if tokens is None else _address(tokens),
    )
    write_text_atomic(folder / PAGE, render_page(findings, pictures))
    write_json_atomic(folder / SUMMARY, summary_of(findings))
    drawn = [*sheets, duplicates, *sizes, tokens]
    return Overview(
        page=folder / PAGE,
        summary=folder / SUMMARY,
        pictures=[path for path in drawn if path is not None],
    )


def summary_of(findings: Findings) -> dict[str, Any]:
    """All that was found, as JSON has it."""
    names = {image.path: image.name for image in findings.images}
    tokens = findings.tokens
    return {
        "dataset": findings.title,
        "folder": str(findings.folder),
        "problems": [
            {
                "file": problem.file,
                "message": problem.message,
                "can_be_skipped": problem.is_skippable,
                "images": [names[image] for image in problem.images],
            }
            for problem in findings.problems
        ],
        "warnings": findings.warnings,
        "images": [_image_entry(image) for image in findings.images],
        "duplicates": [
            {"exact": group.is_exact, "images": [image.name for image in group.images]}
            for group in findings.duplicates
        ],
        "near_duplicates_looked_for": findings.has_near,
        "token_limit": None if tokens is None else tokens.limit,
        "captions_cut": []
        if tokens is None
        else [{"image": lost.name, "tokens": lost.num_tokens, "not_seen": lost.text} for lost in tokens.lost],
        "training_size": findings.training_size,
        "buckets": {f"{width}x{height}": count for (width, height), count in findings.buckets.items()},
    }


def _image_entry(image: ImageFinding) -> dict[str, Any]:
    return {
        "file": image.name,
        "captions": image.captions,
        "side": image.side,
        "size": image.size,
        "tokens": image.num_tokens,
        "problems": image.problems,
    }


def _size_charts(findings: Findings) -> dict[str, Image.Image]:
    counts = size_counts(findings)
    if not counts:
        return {}
    sides = [min(size) for size in counts.elements()]
    charts = {
        "sizes": draw_sizes("Sizes in pixels", counts),
        "shapes": draw_histogram("Shapes, width : height", ratio_bins(counts)),
        "shorter_sides": draw_histogram("Shorter side in pixels", _side_bins(sides, findings.training_size)),
    }
    if findings.buckets:
        charts["buckets"] = draw_sizes("Buckets: sizes that are trained at", findings.buckets)
    return charts


def _side_bins(sides: Sequence[int], training_size: Size | None) -> Bins:
    if training_size is None:
        return number_bins(sides)
    least = min(training_size)
    return number_bins(sides, line=least, line_name=f"trained at {least}")


def _token_chart(tokens: CaptionTokens) -> Image.Image:
    most = _MOST_LIMITS * tokens.limit
    title = "Tokens a caption"
    if max(tokens.counts) > most:
        title += f" (those of more than {most} in the last column)"
    counts = [min(number, most) for number in tokens.counts]
    # The line is drawn behind the last number that fits.
    bins = number_bins(counts, from_zero=True, line=tokens.limit + 1, line_name=f"limit {tokens.limit}")
    return draw_histogram(title, bins)


def _save(image: Image.Image, path: Path) -> Path:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_bytes_atomic(path, buffer.getvalue(), durable=False)
    return path


def _address(path: Path) -> str:
    return f"{PICTURES}/{path.name}"
