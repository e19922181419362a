"""Whether the base model draws what it is asked for, seen and unseen combinations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from src.inference.generate import generate
from src.metrics.features import ClipExtractor
from src.models.base import DiffusionModel
from src.pocket.make_models import RESOLUTION
from src.pocket.measuring.classifier import AttributeClassifier
from src.pocket.measuring.questions import Question, questions

NUM_STEPS = 25
_BATCH_SIZE = 16


def draw_prompts(
    model: DiffusionModel, prompts: Sequence[str], *, num_images: int = 1, num_steps: int = NUM_STEPS
) -> list[Image.Image]:
    """Pictures of each prompt in turn, with the defaults of inference."""
    made = generate(
        model,
        prompts=prompts,
        num_images=num_images,
        num_steps=num_steps,
        width=RESOLUTION,
        height=RESOLUTION,
        batch_size=_BATCH_SIZE,
    )
    return [each.image for each in made]


def draw_answers(
    model: DiffusionModel, asked: Sequence[Question], *, num_steps: int = NUM_STEPS
) -> list[Image.Image]:
    """One picture for each question."""
    return draw_prompts(model, [question.prompt for question in asked], num_steps=num_steps)


def ranked_first(clip: ClipExtractor, asked: Sequence[Question], images: Sequence[Image.Image]) -> list[bool]:
    """Whether each picture is nearer to its own prompt than to all other candidates."""
    seen = clip.images(images)
    return [
        int((clip.texts(question.candidates) @ features).argmax()) == 0
        for question, features in zip(asked, seen, strict=True)
    ]


def agreement(
    classifier: AttributeClassifier, asked: Sequence[Question], images: Sequence[Image.Image]
) -> list[bool]:
    """Whether the classifier finds the object and the colour that were asked for."""
    return [
        names == (question.thing, question.colour)
        for question, names in zip(asked, classifier.names(images), strict=True)
    ]


def measure_base(
    model: DiffusionModel, clip: ClipExtractor, classifier: AttributeClassifier, *, num: int = 200
) -> tuple[dict[str, Any], list[tuple[Question, Image.Image, bool, bool]]]:
    """The figures, and each question with its picture and both verdicts."""
    asked = questions(num // 2, held_out=False) + questions(num // 2, held_out=True)
    images = draw_answers(model, asked)
    first, agrees = ranked_first(clip, asked, images), agreement(classifier, asked, images)
    held_out = [question.is_held_out for question in asked]
    figures = {
        "prompts": num,
        "steps": NUM_STEPS,
        "ranked_first": _share(first),
        "ranked_first_seen": _share(first, [not each for each in held_out]),
        "ranked_first_held_out": _share(first, held_out),
        "object_and_colour": _share(agrees),
        "object_and_colour_held_out": _share(agrees, held_out),
    }
    return figures, list(zip(asked, images, first, agrees, strict=True))


def _share(verdicts: Sequence[bool], among: Sequence[bool] | None = None) -> float:
    chosen = [verdict for k, verdict in enumerate(verdicts) if among is None or among[k]]
    return sum(chosen) / len(chosen)


def sampling_seconds(model: DiffusionModel) -> dict[str, Any]:
    """How long 4 images of 25 steps take, after one warm-up."""
    asked = questions(4, held_out=False)
    draw_answers(model, asked)
    started = time.perf_counter()
    draw_answers(model, asked)
    seconds = time.perf_counter() - started
    return {"images": 4, "steps": NUM_STEPS, "seconds": seconds, "threads": torch.get_num_threads()}
