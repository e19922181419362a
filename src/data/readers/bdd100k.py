"""Driving scenes as BDD100K ships them (arXiv 1805.04687): photos taken through windscreens, labels as JSON.

It has no captions, but labels of weather, place, time of day and objects; captions are made of these.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from src.data.readers.captions import shown
from src.data.readers.common import first_by_hash, is_text, outside_problem, require_folder
from src.data.records import Problem, ReadResult, Record
from src.errors import UserError

CREDIT = "Images and labels: BDD100K, Berkeley DeepDrive (arXiv 1805.04687), under the dataset's own terms."
_LABELS = (
    "labels/det_20/det_{split}.json",
    "labels/bdd100k_labels_images_{split}.json",
    "bdd100k_labels_images_{split}.json",
)
_IMAGES = ("images/100k/{split}", "{split}")
_PLACES = {
    "city street": "on a city street",
    "highway": "on a highway",
    "residential": "on a residential street",
    "parking lot": "in a parking lot",
    "tunnel": "in a tunnel",
    "gas stations": "at a gas station",
}
_TIMES = {"daytime": "in daylight", "night": "at night", "dawn/dusk": "at dusk"}
_WEATHER = {
    "clear": "clear sky",
    "overcast": "overcast sky",
    "partly cloudy": "partly cloudy sky",
    "rainy": "rain",
    "snowy": "snow",
    "foggy": "fog",
}
# Singular and plural; the older label files have other names for the first few.
_OBJECTS = {
    "pedestrian": ("pedestrian", "pedestrians"),
    "person": ("pedestrian", "pedestrians"),
    "rider": ("rider", "riders"),
    "car": ("car", "cars"),
    "truck": ("truck", "trucks"),
    "bus": ("bus", "buses"),
    "train": ("train", "trains"),
    "motorcycle": ("motorcycle", "motorcycles"),
    "motor": ("motorcycle", "motorcycles"),
    "bicycle": ("bicycle", "bicycles"),
    "bike": ("bicycle", "bicycles"),
    "traffic light": ("traffic light", "traffic lights"),
    "traffic sign": ("traffic sign", "traffic signs"),
}
_NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
_MOST_OBJECTS = 3


def read_bdd100k(
    *,
    path: Path,
    placeholder: str | None = None,
    split: str = "train",
    labels_file: str | None = None,
    objects: bool = True,
    max_samples: int | None = None,
) -> ReadResult:
    """Reads one split of BDD100K and writes a caption for each image from its labels.

    Args:
        path: The folder that holds `images/100k/<split>/` and `labels/`.
        placeholder: A word put before each caption, to bind what is learned to it.
        split: "train" or "val".
        labels_file: The file of labels, relative to `path`; None looks for BDD100K's own names of it.
        objects: Whether captions name up to three kinds of objects and about how many there are.
        max_samples: Use no more than so many, always the same ones.

    Raises:
        UserError: a folder or the labels are missing, or they are not BDD100K's JSON.
    """
    require_folder(path, "BDD100K")
    names = [labels_file] if labels_file else _LABELS
    labels = _first_there(path, names, split, what="labels_file", kind="file")
    folder = _first_there(path, _IMAGES, split, what="dataset.path", kind="folder")
    if (problem := outside_problem(labels, name=labels.name, inside=[path.resolve()])) is not None:
        raise UserError(str(problem))
    frames = dict(_frames(labels))
    kept = frames.keys() if max_samples is None else first_by_hash(frames, max_samples)
    present = {entry.name for entry in os.scandir(folder) if is_text(entry.name)}
    records, problems = [], list[Problem]()
    for name in sorted(kept):
        if name not in present:
            message = f"the image {shown(f'{folder.name}/{name}')} does not exist."
            problems.append(Problem(file=labels.name, message=message, is_skippable=True))
        elif problem := outside_problem(folder / name, name=name, inside=[path.resolve(), folder.resolve()]):
            problems.append(problem)
        else:
            text = caption_of(frames[name], objects=objects)
            caption = f"{placeholder} {text}" if placeholder else text
            records.append(Record(path=folder / name, caption=caption, id=name))
    if not frames:
        problems.append(Problem(file=labels.name, message="lists no images. Unpack it again."))
    return ReadResult(records=records, problems=problems, attribution=CREDIT)


def caption_of(frame: dict[str, Any], *, objects: bool) -> str:
    """A caption from a frame's labels; what is "undefined" is not spoken of.

    >>> caption_of({"attributes": {"scene": "highway", "weather": "rainy"}}, objects=True)
    'a driving scene on a highway, rain'
    """
    attributes = frame.get("attributes") or {}
    place = _PLACES.get(str(attributes.get("scene")))
    time = _TIMES.get(str(attributes.get("timeofday")))
    weather = _WEATHER.get(str(attributes.get("weather")))
    scene = " ".join(part for part in ("a driving scene", place, time) if part)
    seen = _objects_of(frame) if objects else ""
    return ", ".join(part for part in (scene, weather, seen) if part)


def _objects_of(frame: dict[str, Any]) -> str:
    names = (_OBJECTS.get(str(label.get("category"))) for label in frame.get("labels") or [])
    counts = Counter(name for name in names if name is not None)
    # Equal numbers in the order of the alphabet: a caption must not depend on the order of the boxes.
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_OBJECTS]
    words = [f"{_NUMBERS.get(count, 'several')} {name[count > 1]}" for name, count in most]
    if not words:
        return ""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _first_there(
    path: Path, names: Sequence[str], split: str, *, what: str, kind: Literal["file", "folder"]
) -> Path:
    places = [path / name.replace("{split}", split) for name in names]
    found = next((place for place in places if (place.is_file() if kind == "file" else place.is_dir())), None)
    if found is None:
        tried = ", ".join(str(place) for place in places)
        raise UserError(f"BDD100K: none of {tried} is a {kind}. Unpack it there, or set {what}.")
    return found


def _frames(labels: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(image name, frame) of a file of labels."""
    try:
        content = json.loads(labels.read_bytes())
        frames = content["frames"] if isinstance(content, dict) else content
        for frame in frames:
            name = str(frame["name"])
            if not is_text(name) or "/" in name or "\\" in name or name in {"", ".", ".."}:
                raise ValueError(f"the name {name!r}")
            if not isinstance(frame.get("attributes") or {}, dict):
                raise TypeError(f"the attributes of {name}")
            if not all(isinstance(label, dict) for label in frame.get("labels") or []):
                raise TypeError(f"the labels of {name}")
            yield name, frame
    except OSError as error:
        raise UserError(f"{labels} cannot be read ({error.strerror}). Change its permissions.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{labels} is not BDD100K's list of labels ({type(error).__name__}: {error}). Unpack it again."
        ) from error
