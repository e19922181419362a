"""Which object in which colour a picture shows: a small ResNet trained on rendered pictures only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from src.pocket.training.batches import blurred, to_pixels
from src.pocket.training.dino import crops
from src.pocket.training.stage import Stage, run_stage
from src.pocket.world.objects import COLOURS, OBJECTS
from src.pocket.world.world_set import WorldSet
from src.randomness import address_seed, generator

_AREA = (0.8, 1.0)


class AttributeClassifier(nn.Module):
    """Logits of objects and of colours."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = timm.create_model(
            "resnet10t", pretrained=False, num_classes=len(OBJECTS) + len(COLOURS)
        )

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b o"], Float[Tensor, "b c"]]:
        """Pixels in [-1, 1]."""
        objects, colours = self.network(pixels).split([len(OBJECTS), len(COLOURS)], dim=1)
        return objects, colours

    @torch.no_grad()
    def names(self, images: Sequence[Image.Image]) -> list[tuple[str, str]]:
        """The object and the colour of each picture."""
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
        objects, colours = self.eval()(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        things, shades = list(OBJECTS), list(COLOURS)
        return [
            (things[int(a)], shades[int(b)])
            for a, b in zip(objects.argmax(dim=1), colours.argmax(dim=1), strict=True)
        ]


def train_classifier(
    folder: Path, world: WorldSet, words: Sequence[tuple[str, str]], *, builds_on: str = "", steps: int = 1200
) -> AttributeClassifier:
    """Trains from random weights, or takes what is in the folder.

    Args:
        folder: of the checkpoint.
        world: rendered pictures.
        words: each picture's object and colour; an empty colour counts for nothing.
        builds_on: a digest of the pictures; the folder may hold no classifier of others.
        steps: of 64 pictures.
    """
    stage = Stage(
        name="classifier",
        folder=folder,
        steps=steps,
        batch_size=64,
        lr=2e-3,
        warmup_steps=steps // 10,
        ema_decay=None,
        builds_on=builds_on,
    )
    things, shades = list(OBJECTS), list(COLOURS)
    thing_ids = torch.tensor([things.index(thing) for thing, _ in words])
    colour_ids = torch.tensor([shades.index(colour) if colour else -1 for _, colour in words])
    torch.manual_seed(address_seed(stage.seed, "classifier"))
    model = AttributeClassifier().train()

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "classifier", step)
        picks = torch.randint(len(world), (stage.batch_size,), generator=random)
        images = blurred(to_pixels(world, picks), random)
        objects, colours = model(crops(images, images.shape[-1], _AREA, random))
        object_loss = F.cross_entropy(objects.float(), thing_ids[picks])
        colour_loss = F.cross_entropy(colours.float(), colour_ids[picks], ignore_index=-1)
        return {"loss": object_loss + colour_loss, "object": object_loss, "colour": colour_loss}

    run_stage(stage, model, losses)
    return model.eval()
