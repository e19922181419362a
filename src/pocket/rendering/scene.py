"""What a scene is made of: solids with materials, a camera, a light, and the stage they stand on.

World axes: x to the right, y away from the camera, z up; the floor is z = 0. Colours are linear RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, SupportsFloat

import numpy as np
from jaxtyping import Float32

Vector = Float32[np.ndarray, "3"]
Matrix = Float32[np.ndarray, "3 3"]
Colour = tuple[float, float, float]
# A place or a size as one writes it down; whole numbers are welcome.
Triple = tuple[int | float, int | float, int | float]
Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]
Kind = Literal["sphere", "box", "cylinder", "cone"]


def hex_colour(text: str) -> Colour:
    """Converts "#rrggbb" (sRGB) to linear RGB."""
    values = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return red, green, blue


def vector(*values: SupportsFloat) -> Vector:
    """A float32 vector of three numbers."""
    return np.array([float(v) for v in values], dtype=np.float32)


def smoothstep(
    low: SupportsFloat | np.ndarray, high: SupportsFloat | np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Hermite step: 0 at `low`, 1 at `high`, flat beyond; `low` may be the larger one."""
    start, end = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    t = np.clip((x - start) / (end - start), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def mix(a: Colour | np.ndarray, b: Colour | np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blends two colours (or arrays of colours, n x 3) by a weight for each point (n)."""
    first, second = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return first + (second - first) * weight[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a surface looks like. `colour` is one colour or a function of local points (n, 3) -> (n, 3)."""

    colour: Colour | Callable[[np.ndarray], np.ndarray]
    specular: float = 0.25
    shininess: float = 40.0
    glow: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solid:
    """A unit shape (radius or half side 1, along z from -1 to 1) moved and stretched into the world.

    The columns of `axes` are the images of the unit axes, so any rotation and scale fits in it.
    """

    kind: Kind
    centre: Vector
    axes: Matrix
    material: Material
    casts_shadow: bool = True
    in_focus: bool = True

    def moved(self, rotation: Matrix, shift: Vector, scale: float) -> Solid:
        """The same solid after scaling, rotating and shifting the space it stands in."""
        turn = (rotation * np.float32(scale)).astype(np.float32)
        return Solid(
            kind=self.kind,
            centre=turn @ self.centre + shift,
            axes=turn @ self.axes,
            material=self.material,
            casts_shadow=self.casts_shadow,
            in_focus=self.in_focus,
        )

    def radius(self) -> float:
        """The radius of a sphere around the centre that holds the solid."""
        lengths = np.linalg.norm(self.axes, axis=0)
        return float(lengths.max()) if self.kind == "sphere" else float(np.sqrt((lengths**2).sum()))

    def reach(self) -> Vector:
        """How far the solid reaches from its centre along each axis (exact for spheres, else a bound)."""
        if self.kind == "sphere":
            return np.linalg.norm(self.axes, axis=1).astype(np.float32)
        return np.abs(self.axes).sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Looks from `position` to `target`; `roll` turns the picture (radians); `field_of_view` is vertical."""

    position: Vector
    target: Vector
    field_of_view: float = 0.6
    roll: float = 0.0

    def basis(self) -> Matrix:
        """Rows: right, up, forward."""
        forward = self.target - self.position
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, vector(0, 0, 1))
        right = right / np.linalg.norm(right)
        up = np.cross(right, forward)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return np.stack([cos * right + sin * up, cos * up - sin * right, forward]).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """One key light from far away and the light of the surroundings from above and below."""

    direction: Vector
    key: Colour
    sky: Colour
    bounce: Colour
    softness: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The floor as a texture over (x, y), and what stands behind it.

    With `wall_distance` the backdrop is a wall at that y, textured over (x, z) and lit; without, it is the
    open air, textured over (azimuth, elevation) in radians, and the floor fades to `haze` far away.
    """

    floor: Texture
    backdrop: Texture
    wall_distance: float | None = None
    haze: Colour = (0.7, 0.8, 0.9)
    floor_gloss: float = 0.0
    solids: tuple[Solid, ...] = field(default=())


def turned(angle: float, axis: int = 2) -> Matrix:
    """The rotation by `angle` (radians) around one of the world's axes."""
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3, dtype=np.float32)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix
