"""What toys are put together from: balls, chains of balls along curves, and their vinyl."""

from __future__ import annotations

import math

import numpy as np

from src.pocket.rendering.scene import Colour, Material, Solid, Triple, turned, vector


def vinyl(colour: Colour, shininess: float = 45.0) -> Material:
    """Smooth plastic."""
    return Material(colour=colour, specular=0.35, shininess=shininess)


def ball(
    centre: Triple,
    radii: Triple,
    material: Material,
    *,
    tilt: float = 0.0,
    casts_shadow: bool = True,
) -> Solid:
    """An ellipsoid, leaning sideways by `tilt` (radians)."""
    axes = turned(tilt, axis=1) @ np.diag(vector(*radii))
    return Solid(
        kind="sphere",
        centre=vector(*centre),
        axes=axes.astype(np.float32),
        material=material,
        casts_shadow=casts_shadow,
    )


def cone(centre: Triple, radii: Triple, material: Material, *, tilt: float = 0.0, lean: float = 0.0) -> Solid:
    """A cone, leaning sideways by `tilt` and forwards by `lean` (radians)."""
    axes = turned(tilt, axis=1) @ turned(lean, axis=0) @ np.diag(vector(*radii))
    return Solid(kind="cone", centre=vector(*centre), axes=axes.astype(np.float32), material=material)


def chain(points: np.ndarray, radii: np.ndarray, materials: list[Material]) -> list[Solid]:
    """Overlapping balls along a curve, each with its radius and material."""
    return [
        ball((float(x), float(y), float(z)), (float(r), float(r), float(r)), material)
        for (x, y, z), r, material in zip(points, radii, materials, strict=True)
    ]


def curve(corners: list[Triple], num: int) -> np.ndarray:
    """Points (num, 3) on the Bezier curve of the given corners."""
    t = np.linspace(0, 1, num)
    degree = len(corners) - 1
    weights = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
    return np.stack(weights, axis=1) @ np.array(corners)
