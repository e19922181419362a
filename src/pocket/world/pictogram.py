"""Flat pictograms of the pocket world's objects: white ground, thick black outlines, plain colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int16, UInt8
from PIL import Image, ImageFilter

from src.pocket.rendering.render import owners, to_srgb
from src.pocket.rendering.scene import Camera, Solid, vector

_SUPERSAMPLING = 4
_OUTLINE = 0.012  # of the picture's side


def draw_pictogram(solids: Sequence[Solid], *, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Draws solids that stand on the floor around the origin, without light, shadow or texture."""
    fine = size * _SUPERSAMPLING
    owner = _owners(solids, fine)
    palette = np.array([_flat_colour(solid) for solid in solids] + [(1.0, 1.0, 1.0)], dtype=np.float32)
    image = palette[np.where(owner < 0, len(solids), owner)]
    image[_outlines(_parts(solids)[owner], width=max(1.0, _OUTLINE * fine))] = 0.0
    pooled = image.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    return np.asarray(np.round(pooled * 255), dtype=np.uint8)


def _owners(solids: Sequence[Solid], side: int) -> Int16[np.ndarray, "s s"]:
    """Which solid each pixel shows, -1 for none; from far in front, so that nothing is distorted."""
    low = np.min([solid.centre - solid.reach() for solid in solids], axis=0)
    high = np.max([solid.centre + solid.reach() for solid in solids], axis=0)
    target = vector(*(low + high) / 2)
    extent = 1.18 * max(high[0] - low[0], high[2] - low[2])
    distance = 60.0
    camera = Camera(
        position=target + vector(0, -distance, 0.12 * distance),
        target=target,
        field_of_view=float(2 * np.arctan(extent / 2 / distance)),
    )
    return np.maximum(owners(solids, camera, side, side), -1)


def _flat_colour(solid: Solid) -> np.ndarray:
    colour = solid.material.colour
    assert not callable(colour), "objects of the world have plain colours"
    return to_srgb(np.array(colour)[None, None])[0, 0] / 255


def _parts(solids: Sequence[Solid]) -> Int16[np.ndarray, " n_plus_1"]:
    """A number for each solid, the same for solids that share their material; the last is for none."""
    numbers: dict[int, int] = {}
    parts = [numbers.setdefault(id(solid.material), len(numbers)) for solid in solids]
    return np.array([*parts, -1], dtype=np.int16)


def _outlines(part: Int16[np.ndarray, "s s"], *, width: float) -> Bool[np.ndarray, "s s"]:
    """Pixels near where one part ends and another begins."""
    edge = np.zeros(part.shape, dtype=bool)
    edge[:, 1:] |= part[:, 1:] != part[:, :-1]
    edge[1:] |= part[1:] != part[:-1]
    brush = ImageFilter.MaxFilter(2 * round(width) + 1)
    return np.asarray(Image.fromarray(edge.astype(np.uint8) * 255).filter(brush)) > 0
