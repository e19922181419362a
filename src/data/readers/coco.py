"""COCO captions as COCO ships them: `annotations/captions_<split>.json` and the image folder `<split>/`."""

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.data.adverbs.prepared_captions import COCO_FAULTS, captions_without_adverbs, no_coco, text_in
from src.data.readers.captions import caption_fault, shown
from src.data.readers.common import is_text, outside_problem, require_folder, text_of
from src.data.records import Problem, ReadResult, Record
from src.errors import UserError
from src.randomness import address_seed

CREDIT = (
    "Captions: COCO 2017, COCO Consortium (https://cocodataset.org), CC BY 4.0. Photos: from Flickr, each "
    "under the licence that the annotation file names."
)
CAPTION_RULES = ("first", "all", "longest", "random")
ADVERBS = ("keep", "remove")


def read_coco(
    *,
    path: Path,
    placeholder: str | None = None,
    split: str = "train2017",
    caption: str = "first",
    seed: int = 0,
    captions_file: str | None = None,
    adverbs: str = "keep",
    cache_dir: Path | None = None,
) -> ReadResult:
    """Reads one split of COCO.

    The folder, `annotations/` and the folder of the split may be links; a single file that is one must not
    lead out of them.

    Args:
        path: The folder that holds `annotations/` and the image folders.
        placeholder: A word put before each caption, to bind what is learned to it.
        split: "train2017" or "val2017".
        caption: Which of an image's captions: "first", "longest", "random" (by seed and image id), or
            "all" for one record a caption, with the ids `<image id>#<n>`.
        seed: The seed of the rule "random".
        captions_file: A prepared file of the same format to read instead, relative to `path`.
        adverbs: "keep" the captions as they are, or "remove" their adverbs.
        cache_dir: where the captions without adverbs are kept; needed for "remove".

    Raises:
        UserError: a folder or the annotation file is missing, or it is not COCO's captions JSON.
    """
    if caption not in CAPTION_RULES:
        raise UserError(f"caption={caption} must be one of {', '.join(CAPTION_RULES)}.")
    if adverbs not in ADVERBS:
        raise UserError(f"adverbs={adverbs} must be one of {', '.join(ADVERBS)}.")
    require_folder(path, "COCO")
    annotations = path / (captions_file or f"annotations/captions_{split}.json")
    folder = path / split
    if not annotations.is_file():
        raise UserError(
            f"{annotations} does not exist. Unpack COCO's annotations there, set captions_file, or set "
            "dataset.path to a new folder to have COCO brought there."
        )
    if not folder.is_dir():
        raise UserError(f"The image folder {folder} does not exist. Unpack {split}.zip there.")
    inside = [path.resolve(), folder.resolve()]
    problem = outside_problem(
        annotations, name=annotations.name, inside=[inside[0], annotations.parent.resolve()]
    )
    if problem is not None:
        raise UserError(str(problem))
    source = annotations
    if adverbs == "remove":
        assert cache_dir is not None
        source = captions_without_adverbs(annotations, folder=cache_dir / "captions")
    files, captions = _parse(source)
    records: list[Record] = []
    problems = _without_image(files, folder, annotations=annotations, inside=inside)
    for image_id, name in sorted(files.items()):
        image, label = folder / name, f"{split}/{name}"
        if not captions[image_id]:
            message = f"{label} has no caption."
            problems.append(_of_image(annotations, message, image))
        chosen = _choose(captions[image_id], caption, image_id=image_id, seed=seed)
        for suffix, prompt in chosen.items():
            if fault := caption_fault(prompt):
                problems.append(_of_image(annotations, f"the caption of {label} {fault}", image))
                continue
            text = f"{placeholder} {prompt}" if placeholder else prompt
            records.append(Record(path=image, caption=text, id=f"{image_id}{suffix}"))
    if not files and not problems:
        problems.append(Problem(file=annotations.name, message="lists no images. Unpack it again."))
    return ReadResult(records=records, problems=problems, attribution=CREDIT)


def _without_image(
    files: dict[int, str], folder: Path, *, annotations: Path, inside: list[Path]
) -> list[Problem]:
    """Takes away what cannot be had, and says why."""
    # One listing instead of a look-up for each of 118,000 files.
    present = {entry.name: entry.is_symlink() for entry in os.scandir(folder) if is_text(entry.name)}
    problems: list[Problem] = []
    for image_id, name in sorted(files.items()):
        label = f"{folder.name}/{name}"
        if name not in present:
            message = f"the image {shown(label)} does not exist."
            problem: Problem | None = Problem(file=annotations.name, message=message)
        else:
            problem = outside_problem(folder / name, name=label, inside=inside) if present[name] else None
        if problem is not None:
            problems.append(replace(problem, is_skippable=True))
            del files[image_id]
    return problems


def _of_image(annotations: Path, message: str, image: Path) -> Problem:
    return Problem(file=annotations.name, message=message, is_skippable=True, images=(image,))


def _parse(annotations: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions (in the order of annotation ids) by image id."""
    try:
        content = json.loads(annotations.read_bytes())
        files = {int(image["id"]): text_in(image, "file_name") for image in content["images"]}
        ordered: list[dict[str, Any]] = sorted(content["annotations"], key=lambda item: int(item["id"]))
        captions: dict[int, list[str]] = defaultdict(list)
        for item in ordered:
            if text := text_of(text_in(item, "caption")):
                captions[int(item["image_id"])].append(text)
    except COCO_FAULTS as error:
        raise no_coco(annotations, error) from error
    return files, captions


def _choose(captions: list[str], rule: str, *, image_id: int, seed: int) -> dict[str, str]:
    """The chosen captions by the suffix of their record's id; none of none."""
    if not captions:
        return {}
    if rule == "all":
        return {f"#{number}": caption for number, caption in enumerate(captions)}
    if rule == "longest":
        return {"": max(captions, key=len)}
    index = address_seed(seed, "caption", image_id) % len(captions) if rule == "random" else 0
    return {"": captions[index]}
