"""Trains the pocket's judge of likeness: a small ViT by self-distillation without labels.

DINO (Caron et al. 2021, arXiv 2104.14294, algorithm 1): a student sees crops of a picture, a teacher, the
moving average of the student, sees only large ones, and the student learns to say what the teacher says.
Here the crops come from two pictures of one object in two places, and the student sees the one, the teacher
the other. Real photos teach DINO by their number to look at the object and not at its surroundings; a small
world needs the hint (compare the background swaps of Ryali et al. 2021, arXiv 2103.12719). No label is used.
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

from src.pocket.training.batches import blurred, to_pixels
from src.pocket.training.stage import Stage, run_stage
from src.pocket.world.world_set import WorldSet
from src.randomness import address_seed, generator

ARCHITECTURE = "vit_tiny_patch16_224"
_NUM_PROTOTYPES = 256
_NUM_LOCAL = 4
_LARGE, _SMALL = (0.5, 1.0), (0.25, 0.6)
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.02
_TEACHER_MOMENTUM = 0.98


def dino_sizes(image_size: int) -> dict[str, Any]:
    """timm's arguments of the judge."""
    return {"img_size": image_size, "patch_size": 8, "embed_dim": 128, "depth": 5, "num_heads": 4}


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
        # Of length one and kept so, as in the paper: the temperatures then mean what they say. Shorter ones
        # leave the teacher undecided, and nothing is learned for a long time.
        length: Any = self.prototypes.parametrizations.weight.original0
        length.detach().fill_(1.0)
        length.requires_grad_(False)

    def forward(self, images: Float[Tensor, "b c s s"]) -> Float[Tensor, "b p"]:
        """Logits over the prototypes."""
        return self.prototypes(F.normalize(self.head(self.backbone(images)), dim=-1))


def train_dino(stage: Stage, world: WorldSet, elsewhere: WorldSet, *, device: torch.device) -> nn.Module:
    """Trains from random weights; returns the teacher's backbone.

    Args:
        stage: how.
        world: pictures.
        elsewhere: the same objects as the first of these, index by index, in other places.
        device: where.
    """
    size = world.pixels.shape[1]
    torch.manual_seed(address_seed(stage.seed, "dino"))
    student = WithHead(size).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    # The teacher travels with the student, so that a stopped stage goes on exactly.
    both = nn.ModuleDict({"student": student, "teacher": teacher})

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "dino", step)
        picks = torch.randint(len(elsewhere), (stage.batch_size,), generator=random)
        pair = [blurred(to_pixels(pictures, picks), random) for pictures in (world, elsewhere)]
        large = torch.cat([crops(images, size, _LARGE, random) for images in pair]).to(device)
        small = torch.cat([crops(pair[k % 2], size // 2, _SMALL, random) for k in range(_NUM_LOCAL)]).to(
            device
        )
        with torch.no_grad():
            targets = sinkhorn(teacher(large).float(), _TEACHER_TEMPERATURE).chunk(2)
        answers = [*student(large).chunk(2), *student(small).chunk(_NUM_LOCAL)]
        terms = [
            -(targets[i] * (answers[j].float() / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()
            for i, j in crossed(len(answers))
        ]
        entropy = -(targets[0] * (targets[0] + 1e-9).log()).sum(dim=-1).mean()
        mean = targets[0].mean(dim=0)
        # Both fall to zero, or stay at their largest, when the teacher says the same of every picture.
        spread = -(mean * (mean + 1e-9).log()).sum()
        return {"loss": torch.stack(terms).mean(), "teacher_entropy": entropy, "batch_entropy": spread}

    @torch.no_grad()
    def follow(step: int) -> None:
        """The teacher follows ever more slowly, from 0.98 to 1 along a cosine."""
        momentum = 1 - (1 - _TEACHER_MOMENTUM) * (math.cos(math.pi * step / stage.steps) + 1) / 2
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)

    run_stage(stage, both, losses, after_step=follow)
    backbone: nn.Module = teacher.backbone
    return backbone.eval()


def crossed(num_crops: int) -> list[tuple[int, int]]:
    """Which of the teacher's two pictures each of the student's crops is compared with: always the other one.

    Crops come from the two pictures in turn. Told to answer alike for two crops of one picture, a student
    learns places, which fill most of it, not objects.
    """
    return [(i, j) for i in range(2) for j in range(num_crops) if i != j % 2]


def sinkhorn(
    logits: Float[Tensor, "b p"], temperature: float, num_iterations: int = 3
) -> Float[Tensor, "b p"]:
    """Sharp answers of which each prototype gets its fair share.

    In place of DINO's running centre, as in DINOv2 (Oquab et al. 2023, arXiv 2304.07193, section 4): with a
    few hundred steps the centre does not keep the teacher from saying the same of every picture.
    """
    shares = ((logits - logits.max()) / temperature).exp()
    for _ in range(num_iterations):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp(min=1e-12)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return shares


def crops(
    images: Float[Tensor, "b c s s"], size: int, area: tuple[float, float], random: torch.Generator
) -> Float[Tensor, "b c o o"]:
    """One random crop of each image, half of them mirrored, a little lighter or darker, brought to `size`.

    Args:
        images: in [-1, 1].
        size: the side of what comes out.
        area: the smallest and the largest share of the image that a crop may cover.
        random: all draws come from here.
    """
    low, high, across, down, mirror, gain, gamma = torch.rand(7, len(images), generator=random)
    share = area[0] + (area[1] - area[0]) * low
    aspect = torch.exp((high - 0.5) * 2 * math.log(4 / 3) / 2)
    width, height = (share.sqrt() * aspect).clamp(max=1), (share.sqrt() / aspect).clamp(max=1)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = width * torch.where(mirror < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    light = ((cropped + 1) / 2).clamp(0, 1) ** torch.exp((gamma - 0.5) * 0.6)[:, None, None, None]
    return (light * (0.8 + 0.4 * gain)[:, None, None, None]).clamp(0, 1) * 2 - 1
