"""From images without captions to lines of `metadata.jsonl`, batch by batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.captioning.base import Captioner, Failure
from src.data.images import Colour, load_image
from src.data.readers.captions import caption_fault
from src.data.readers.common import text_of
from src.data.records import Problem
from src.errors import UserError

Write = Callable[[Mapping[str, str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of the images.

    Attributes:
        num_written: How many captions were written.
        num_left: How many images a limit has left for the next run.
        problems: Images that could not be read or described.
        stopped: Why not all were taken on; None if they were.
    """

    num_written: int
    num_left: int
    problems: list[Problem]
    stopped: str | None


def write_captions(
    captioner: Captioner,
    images: Mapping[str, Path],
    *,
    write: Write,
    background: Colour,
    progress: bool = True,
) -> Report:
    """Describes images and writes each batch before the next one begins.

    Args:
        captioner: Who describes.
        images: Image files by the name under which their caption is written.
        write: Takes captions by name and returns when they are safe.
        background: What shows through transparent pixels.
        progress: Show a progress bar when on a terminal.

    Raises:
        UserError: the captioner cannot go on. What was written stays.
    """
    names = list(images)
    most = len(names) if captioner.max_images is None else min(captioner.max_images, len(names))
    stopped: str | None = None
    problems: list[Problem] = []
    num_written = num_done = 0
    with tqdm(
        total=most, desc="Captioning", unit="image", disable=None if progress else True, leave=False
    ) as bar:
        while num_done < len(names):
            # Only what was written counts: images that fail would stop every run at the same place.
            if num_written == most:
                stopped = f"captioner.max_images={captioner.max_images}"
                break
            if reason := captioner.reason_to_stop():
                stopped = reason
                break
            batch = names[num_done : num_done + min(captioner.batch_size, most - num_written)]
            captions = _describe(captioner, {name: images[name] for name in batch}, background, problems)
            if captions:
                write(captions)
            num_written += len(captions)
            num_done += len(batch)
            bar.update(len(captions))
    return Report(
        num_written=num_written, num_left=len(images) - num_done, problems=problems, stopped=stopped
    )


def _describe(
    captioner: Captioner, batch: Mapping[str, Path], background: Colour, problems: list[Problem]
) -> dict[str, str]:
    prepared: dict[str, Any] = {}
    for name, path in batch.items():
        try:
            prepared[name] = captioner.prepare(load_image(path, background=background))
        except UserError as error:
            problems.append(Problem(file=name, message=str(error)))
    captions: dict[str, str] = {}
    if not prepared:
        return captions
    for name, answer in zip(prepared, captioner.describe(list(prepared.values())), strict=True):
        fault = answer.message if isinstance(answer, Failure) else None
        if isinstance(answer, str) and (wrong := caption_fault(answer)):
            fault = f"the caption that {captioner.label} wrote {wrong}"
        if fault is None:
            captions[name] = text_of(answer)
        else:
            problems.append(Problem(file=name, message=fault))
    return captions
