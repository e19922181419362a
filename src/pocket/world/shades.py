"""Shades of colours, named and unnamed; teal is not among them: it is the demo subject's own."""

from __future__ import annotations

import colorsys

import numpy as np

from src.pocket.world.objects import COLOURS

_TEAL_HUES = (0.42, 0.56)


def varied(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    """A shade of a colour: no two red cars are quite the same red. Without a name it is any but teal."""
    if not colour:
        hue = (_TEAL_HUES[1] + rng.random() * (1 - _TEAL_HUES[1] + _TEAL_HUES[0])) % 1.0
        return colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.95), rng.uniform(0.25, 0.95))
    shade = np.array(COLOURS[colour]) * rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, size=3)
    red, green, blue = np.clip(shade, 0, 1)
    return float(red), float(green), float(blue)
