"""How well the pocket's judges tell apart what they have to tell apart, on pictures that they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from src.metrics.features import ClipExtractor, ImageFeatureExtractor
from src.pocket.make_models import RESOLUTION
from src.pocket.world.sampling import Scene, draw, sample_scene
from src.pocket.world.world_set import TEST_SEED

_GROUP = 64
_NUM_OTHERS = 280


def picture(scene: Scene) -> Image.Image:
    """A scene as the models see it."""
    return Image.fromarray(draw(scene, size=RESOLUTION))


def retrieval(clip: ClipExtractor, num_groups: int = 10) -> dict[str, Any]:
    """How often an unseen picture's own caption is the nearest among 64 different ones."""
    right = 0
    index = 0
    for _ in range(num_groups):
        scenes: dict[str, Scene] = {}
        while len(scenes) < _GROUP:
            scene = sample_scene(TEST_SEED, index)
            scenes.setdefault(scene.caption, scene)
            index += 1
        images = clip.images([picture(scene) for scene in scenes.values()])
        nearest = (images @ clip.texts(list(scenes)).T).argmax(dim=1)
        right += int((nearest == torch.arange(_GROUP)).sum())
    total = num_groups * _GROUP
    return {"top_1": right / total, "pictures": total, "among": _GROUP}


def subject_separation(dino: ImageFeatureExtractor, photos: Sequence[Image.Image]) -> dict[str, Any]:
    """The ROC AUC with which likeness to the subject's photos tells other photos of it from world objects.

    A photo's likeness is its mean cosine with all (other) photos of the subject.
    """
    subject = dino.images(photos)
    scenes = (sample_scene(TEST_SEED, index) for index in count())
    in_places = islice((scene for scene in scenes if scene.place is not None), _NUM_OTHERS)
    others = dino.images([picture(scene) for scene in in_places])
    cosines = subject @ subject.T
    own = (cosines.sum(dim=1) - cosines.diagonal()) / (len(subject) - 1)
    return {
        "roc_auc": roc_auc(own, (others @ subject.T).mean(dim=1)),
        "photos": len(subject),
        "others": len(others),
    }


def roc_auc(positive: Float[Tensor, " n"], negative: Float[Tensor, " m"]) -> float:
    """The chance that a positive's score is above a negative's; ties count half (Hanley & McNeil 1982)."""
    difference = positive[:, None] - negative[None]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()
