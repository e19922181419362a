"""Pictures of a world set as tensors."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from src.pocket.world.world_set import WorldSet


def to_pixels(world: WorldSet, picks: Int[Tensor, " b"]) -> Float[Tensor, "b 3 s s"]:
    """The picked pictures in [-1, 1]."""
    pixels = np.stack([world.pixels[int(index)] for index in picks])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def blurred(
    images: Float[Tensor, "b c h w"], random: torch.Generator, share: float = 0.35
) -> Float[Tensor, "b c h w"]:
    """Some of the images a little out of focus: judges see what a VAE has softened."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 3, 3)
    soft = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
    is_soft = torch.rand(len(images), 1, 1, 1, generator=random) < share
    return torch.where(is_soft, soft, images)
