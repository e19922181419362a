"""Trains the pocket's judge of likeness: a small ViT by self-distillation without labels.

DINO (Caron et al. 2021, arXiv 2104.14294, algorithm 1): a student sees crops of a picture, a teacher, the
moving average of the student, sees only large ones, and the student learns to say what the teacher says.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from src.pocket.batches import to_pixels
from src.pocket.stage import Stage, run_stage
from src.pocket.world_set import WorldSet
from src.randomness import address_seed, forked_rng, generator

ARCHITECTURE = "vit_tiny_patch16_224"
_NUM_PROTOTYPES = 1024
_NUM_LOCAL = 4
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.04
_TEACHER_MOMENTUM, _CENTRE_MOMENTUM = 0.99, 0.9


def dino_sizes(image_size: int) -> dict[str, Any]:
    """timm's arguments of the judge."""
    return {"img_size": image_size, "patch_size": 8, "embed_dim": 160, "depth": 5, "num_heads": 5}


class WithHead(nn.Module):
    """The ViT and the head that is thrown away afterwards."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        sizes = dino_sizes(image_size)
        self.backbone: Any = timm.create_model(
            ARCHITECTURE, pretrained=False, num_classes=0, dynamic_img_size=True, **sizes
        )
        width = sizes["embed_dim"]
        self.head = nn.Sequential(
            nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 128)
        )
        self.prototypes = nn.utils.parametrizations.weight_norm(nn.Linear(128, _NUM_PROTOTYPES, bias=False))

    def forward(self, images: Float[Tensor, "b c s s"]) -> Float[Tensor, "b p"]:
        """Logits over the prototypes."""
        return self.prototypes(F.normalize(self.head(self.backbone(images)), dim=-1))


def train_dino(stage: Stage, world: WorldSet, *, device: torch.device) -> nn.Module:
    """Trains from random weights; returns the teacher's backbone."""
    size = world.pixels.shape[1]
    torch.manual_seed(address_seed(stage.seed, "dino"))
    student = WithHead(size).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    centre = torch.zeros(_NUM_PROTOTYPES, device=device)
    large, small = _crops(size, (0.4, 1.0)), _crops(size // 2, (0.1, 0.4))
    # The teacher and the centre travel with the student, so that a stopped stage goes on exactly.
    both = nn.ModuleDict({"student": student, "teacher": teacher})
    both.register_buffer("centre", centre)

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "dino", step)
        picks = torch.randint(len(world), (stage.batch_size,), generator=random)
        images = to_pixels(world, picks)
        with forked_rng(stage.seed, "dino", "crops", step):
            views = [torch.stack([large(image) for image in images]).to(device) for _ in range(2)]
            views += [torch.stack([small(image) for image in images]).to(device) for _ in range(_NUM_LOCAL)]
        with torch.no_grad():
            said = teacher(torch.cat(views[:2]))
            targets = ((said - centre) / _TEACHER_TEMPERATURE).softmax(dim=-1).chunk(2)
            centre.mul_(_CENTRE_MOMENTUM).add_(said.mean(dim=0), alpha=1 - _CENTRE_MOMENTUM)
        answers = [*student(torch.cat(views[:2])).chunk(2), *student(torch.cat(views[2:])).chunk(_NUM_LOCAL)]
        terms = [
            -(target * (answer / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()
            for i, target in enumerate(targets)
            for j, answer in enumerate(answers)
            if i != j
        ]
        entropy = -(targets[0] * (targets[0] + 1e-9).log()).sum(dim=-1).mean()
        return {"loss": torch.stack(terms).mean(), "teacher_entropy": entropy}

    @torch.no_grad()
    def follow(step: int) -> None:
        """The teacher follows ever more slowly, from 0.99 to 1 along a cosine."""
        momentum = 1 - (1 - _TEACHER_MOMENTUM) * (math.cos(math.pi * step / stage.steps) + 1) / 2
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)

    run_stage(stage, both, losses, after_step=follow)
    backbone: nn.Module = teacher.backbone
    return backbone.eval()


def _crops(size: int, scale: tuple[float, float]) -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=scale, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.Lambda(lambda image: (image + 1) / 2),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.02),
            v2.Lambda(lambda image: image * 2 - 1),
        ]
    )
