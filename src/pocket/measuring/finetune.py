"""What a fine-tune on the demo subject brings, and what it costs, in places that it was not trained on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from src.data.images import load_image
from src.inference.apply import apply_adapter
from src.inference.resolve import resolve_weights
from src.metrics.features import ImageFeatureExtractor
from src.metrics.scores import bootstrap_interval, mean_cosines, mean_self_cosine
from src.models.base import DiffusionModel
from src.models.load import load_model
from src.pocket.demo_subject import PLACEHOLDER, photo_list
from src.pocket.measuring.base import NUM_STEPS, agreement, draw_answers, draw_prompts
from src.pocket.measuring.classifier import AttributeClassifier
from src.pocket.measuring.judges import picture
from src.pocket.measuring.questions import questions
from src.pocket.world.objects import OBJECTS
from src.pocket.world.sampling import sample_scene, sample_toy_scene
from src.pocket.world.surroundings import SURROUNDINGS
from src.pocket.world.world_set import TEST_SEED

UNSEEN_PLACES = ("beach", "sofa", "bookshelf", "leaves")
_NUM_IMAGES = 8
_NUM_OTHER_PROMPTS = 100
_PICTURES_PER_OBJECT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The demo set divided by place: a folder to train on, and the photos of places that it lacks."""

    train_folder: Path
    unseen: list[Image.Image]
    prompts: list[str]


def divide(demo: Path, folder: Path, *, shuffled: bool = False) -> Subject:
    """Copies the photos of all places but `UNSEEN_PLACES` into a folder with their captions.

    Args:
        demo: the demo set.
        folder: made anew.
        shuffled: gives every photo the caption of another one, of another place.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    photos = photo_list()
    train = [photo for photo in photos if photo.surroundings.name not in UNSEEN_PLACES]
    for photo in train:
        shutil.copy(demo / photo.name, folder)
    # The set goes through the places in turn: a third of the way round lies another place.
    captions = [train[(k + shuffled * (len(train) // 3)) % len(train)].caption for k in range(len(train))]
    lines = [f"{photo.name}|{caption}" for photo, caption in zip(train, captions, strict=True)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Subject(
        train_folder=folder,
        unseen=[load_image(demo / photo.name) for photo in photos if photo not in train],
        prompts=[
            f"a photo of {PLACEHOLDER} toy {place.phrase}"
            for place in SURROUNDINGS
            if place.name in UNSEEN_PLACES
        ],
    )


def fine_tune(base: Path, folder: Path, *, seed: int, output: Path, overrides: Sequence[str] = ()) -> Path:
    """Trains with the defaults of `sh train_run.sh`, as a user would; returns the run's folder."""
    name = f"seed{seed}"
    shutil.rmtree(output / "train" / name, ignore_errors=True)
    command = [sys.executable, "train.py", f"run.name={name}", f"paths.output_dir={output}", "logger=[]"]
    command += [
        f"model.path={base}",
        f"model.suggested_for={base}",
        f"dataset.path={folder}",
        "dataset.validation_fraction=0.05",
    ]
    command += [f"trainer.seed={seed}", "callbacks.samples=null", *overrides]
    subprocess.run(command, check=True)
    return output / "train" / name


def adapted(base: Path, run: Path) -> DiffusionModel:
    """The model with the run's last weights folded in."""
    model = load_model(str(base))
    source = resolve_weights("last", output_dir=run.parent.parent, run_name=run.name)
    apply_adapter(model, source, merge=True)
    return model


def draw_subject(
    model: DiffusionModel, prompts: Sequence[str], *, num_steps: int = NUM_STEPS
) -> list[Image.Image]:
    """Pictures of the subject in places that it was never trained on."""
    return draw_prompts(model, prompts, num_images=_NUM_IMAGES, num_steps=num_steps)


def object_features(dino: ImageFeatureExtractor) -> dict[str, Float[Tensor, "n d"]]:
    """Features of unseen pictures of each world object, and of toys of random parts, in the unseen places."""
    pictures: dict[str, list[Image.Image]] = {thing: [] for thing in OBJECTS}
    index = 0
    while any(len(found) < _PICTURES_PER_OBJECT for found in pictures.values()):
        scene = sample_scene(TEST_SEED, index)
        index += 1
        is_there = scene.place is not None and scene.place.name in UNSEEN_PLACES
        if is_there and len(pictures[scene.thing]) < _PICTURES_PER_OBJECT:
            pictures[scene.thing].append(picture(scene))
    toys = (sample_toy_scene(TEST_SEED, index) for index in count())
    there = (scene for scene in toys if scene.place is not None and scene.place.name in UNSEEN_PLACES)
    pictures["toy"] = [picture(scene) for scene in islice(there, _PICTURES_PER_OBJECT)]
    return {thing: dino.images(found) for thing, found in pictures.items()}


def is_nearer(
    features: Float[Tensor, "m d"], subject: Float[Tensor, "n d"], others: Mapping[str, Float[Tensor, "k d"]]
) -> Float[Tensor, " m"]:
    """1 where a picture is more like the subject's photos (mean cosine) than like any other group."""
    rivals = torch.stack([mean_cosines(features, other) for other in others.values()])
    return (mean_cosines(features, subject) > rivals.amax(dim=0)).double()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What lies between the base model and the subject's own photos, as DINO sees it.

    Attributes:
        photos: features of photos that were not trained on.
        floor: likeness of each of the base model's pictures to them.
        ceiling: the photos' likeness among each other.
    """

    photos: Float[Tensor, "n d"]
    floor: Float[Tensor, " m"]
    ceiling: float

    @classmethod
    def between(
        cls, dino: ImageFeatureExtractor, before: Sequence[Image.Image], photos: Sequence[Image.Image]
    ) -> Gap:
        """Measured on the base model's pictures and on photos."""
        features = dino.images(photos)
        return cls(
            photos=features,
            floor=mean_cosines(dino.images(before), features),
            ceiling=mean_self_cosine(features),
        )

    def closed(self, features: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """How much of it the adapted model's pictures close: 0 like the base's (same prompt and seed), 1 like
        a photo's."""
        return (mean_cosines(features, self.photos) - self.floor) / (self.ceiling - self.floor.mean())


def measure_fine_tune(
    base: Path,
    subject: Subject,
    runs: Sequence[Path],
    *,
    dino: ImageFeatureExtractor,
    classifier: AttributeClassifier,
) -> tuple[dict[str, Any], list[Image.Image], list[list[Image.Image]]]:
    """The figures, the base model's pictures and each run's."""
    model = load_model(str(base))
    asked = questions(_NUM_OTHER_PROMPTS, held_out=False)
    base_pictures = draw_subject(model, subject.prompts)
    agrees = agreement(classifier, asked, draw_answers(model, asked))
    before = sum(agrees) / len(agrees)
    gap, objects = Gap.between(dino, base_pictures, subject.unseen), object_features(dino)
    nearer_before = is_nearer(dino.images(base_pictures), gap.photos, objects)
    closed, nearer, after, pictures = [], [], [], []
    for run in runs:
        model = adapted(base, run)
        pictures.append(draw_subject(model, subject.prompts))
        features = dino.images(pictures[-1])
        closed.append(gap.closed(features))
        nearer.append(is_nearer(features, gap.photos, objects))
        agrees = agreement(classifier, asked, draw_answers(model, asked))
        after.append(sum(agrees) / len(agrees))
    groups = [
        f"{k} {prompt}" for k in range(len(runs)) for prompt in subject.prompts for _ in range(_NUM_IMAGES)
    ]
    low, high = bootstrap_interval(torch.cat(closed), 0, groups=groups)
    figures = {
        "seeds": len(runs),
        "unseen_places": list(UNSEEN_PLACES),
        "dino_floor": gap.floor.mean().item(),
        "dino_ceiling": gap.ceiling,
        "gap_closed": torch.cat(closed).mean().item(),
        "gap_closed_low": low,
        "gap_closed_high": high,
        "gap_closed_by_seed": [each.mean().item() for each in closed],
        "nearer_to_subject_before": nearer_before.mean().item(),
        "nearer_to_subject": torch.cat(nearer).mean().item(),
        "object_and_colour_before": before,
        "object_and_colour_after": sum(after) / len(after),
        "object_and_colour_after_by_seed": after,
    }
    return figures, base_pictures, pictures
