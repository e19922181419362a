"""Measures the pocket: judges, base model, fine-tune. Figures go to a JSON file, pictures beside the work.

python -m src.pocket.measuring judges base finetune
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from src.data.images import load_image
from src.files import write_json_atomic
from src.metrics.features import ClipExtractor, DinoExtractor
from src.models.load import load_model
from src.pocket.demo_subject import photo_list
from src.pocket.measuring.base import measure_base, sampling_seconds
from src.pocket.measuring.classifier import AttributeClassifier, train_classifier
from src.pocket.measuring.finetune import divide, fine_tune, measure_fine_tune
from src.pocket.measuring.judges import retrieval, subject_separation
from src.pocket.measuring.report import put_into, weights_digest
from src.pocket.training.pipeline import Workshop
from src.pocket.training.stage import device_name
from src.pocket.world.world_set import TRAIN_SEED, Kind, joined, scene_at

_LABEL = "pocket"


def main() -> None:
    """Command line: measures what is asked for and adds it to the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=["judges", "base", "finetune"])
    parser.add_argument("--models", type=Path, default=Path("assets/pocket"))
    parser.add_argument("--demo", type=Path, default=Path("data/demo"))
    parser.add_argument("--work", type=Path, default=Path(".cache/pocket"))
    parser.add_argument("--out", type=Path, default=Path("docs/pocket_figures.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/pocket.md"), help="gets the tables")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--override", action="append", default=[], help="for the fine-tune")
    arguments = parser.parse_args()
    if not arguments.page.exists():
        parser.error(f"{arguments.page} is missing: give a page with the marks for tables (--page)")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures: dict[str, Any] = {}
    if arguments.out.exists():
        figures = json.loads(arguments.out.read_text(encoding="utf-8"))
    for part in arguments.parts:
        figures[part] = {
            **_MEASURES[part](arguments),
            "weights": weights_digest(arguments.models),
            "machine": _machine(),
        }
        print(json.dumps({part: figures[part]}, indent=2))
        write_json_atomic(arguments.out, figures)
        put_into(arguments.page, figures)


def _judges(arguments: argparse.Namespace) -> dict[str, Any]:
    photos = [load_image(arguments.demo / photo.name) for photo in photo_list()]
    dino = DinoExtractor(model=str(arguments.models / "dino"), label=_LABEL)
    clip = ClipExtractor(model=str(arguments.models / "clip"), label=_LABEL)
    return {"clip_retrieval": retrieval(clip), "dino_subject": subject_separation(dino, photos)}


def _base(arguments: argparse.Namespace) -> dict[str, Any]:
    model = load_model(str(arguments.models / "sd15"))
    clip = ClipExtractor(model=str(arguments.models / "clip"), label=_LABEL)
    figures, answers = measure_base(model, clip, _classifier(arguments.work))
    _sheet([image for _, image, _, _ in answers], 20).save(arguments.work / "answers.png")
    for question, _, first, agrees in answers:
        if not (first and agrees):
            print(f"{'  ' if first else 'no'} first, {'  ' if agrees else 'no'} agreement: {question.prompt}")
    return {**figures, "sampling": sampling_seconds(model)}


def _finetune(arguments: argparse.Namespace) -> dict[str, Any]:
    output = arguments.work / "finetune"
    base = arguments.models / "sd15"
    subject = divide(arguments.demo, output / "photos")
    runs, seconds = [], []
    for seed in range(arguments.seeds):
        started = time.perf_counter()
        runs.append(
            fine_tune(base, subject.train_folder, seed=seed, output=output, overrides=arguments.override)
        )
        seconds.append(round(time.perf_counter() - started, 1))
    dino = DinoExtractor(model=str(arguments.models / "dino"), label=_LABEL)
    figures, before, after = measure_fine_tune(
        base, subject, runs, dino=dino, classifier=_classifier(arguments.work)
    )
    _sheet(before, 16).save(arguments.work / "finetune_base.png")
    for seed, pictures in enumerate(after):
        _sheet(pictures, 16).save(arguments.work / f"finetune_{seed}.png")
    return {**figures, "train_seconds": seconds}


def _classifier(work: Path) -> AttributeClassifier:
    shop = Workshop(work)
    kinds: tuple[Kind, ...] = ("seen", "held_out")
    shop.render(*kinds)
    sets = {kind: shop.world(kind) for kind in kinds}
    scenes = [
        scene_at(k, seed=TRAIN_SEED, kind=kind) for kind, each in sets.items() for k in range(len(each))
    ]
    words = [(scene.thing, scene.colour) for scene in scenes]
    digest = shop.digest(*(f"world/{kind}.json" for kind in kinds))
    return train_classifier(work / "classifier", joined(*sets.values()), words, builds_on=digest)


def _sheet(images: list[Image.Image], columns: int) -> Image.Image:
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * width, k // columns * height))
    return sheet


def _machine() -> dict[str, Any]:
    return {"device": device_name(), "cores": os.cpu_count(), "torch": torch.__version__}


_MEASURES = {"judges": _judges, "base": _base, "finetune": _finetune}

if __name__ == "__main__":
    main()
