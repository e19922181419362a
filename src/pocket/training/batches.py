"""Pictures of a world set as tensors."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.pocket.world.world_set import WorldSet


def to_pixels(world: WorldSet, picks: Int[Tensor, "b"]) -> Float[Tensor, "b 3 s s"]:
    """The picked pictures in [-1, 1]."""
    pixels = np.stack([world.pixels[int(index)] for index in picks])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
