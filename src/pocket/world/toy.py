"""The invented toy of the demo photos, called sksToy.

A round teal creature with a cream belly, yellow boots, lilac mittens, a large and a small eye, two uneven
antennae with orange balls and a tail striped in magenta and cream. Nothing else looks like it, so a model
cannot know it before it is fine-tuned.
"""

from __future__ import annotations

import math

import numpy as np

from src.pocket.rendering.scene import (
    Colour,
    Material,
    Solid,
    Triple,
    hex_colour,
    mix,
    smoothstep,
    turned,
    vector,
)

_TEAL, _DARK_TEAL, _CREAM = hex_colour("#17b3a6"), hex_colour("#0b7f83"), hex_colour("#fbe9bd")
_YELLOW, _ORANGE, _MAGENTA = hex_colour("#ffc61a"), hex_colour("#ff6a13"), hex_colour("#d81e77")
_LILAC, _BLACK, _WHITE = hex_colour("#b79bf0"), hex_colour("#15131a"), hex_colour("#fbfbf8")

_TORSO, _TORSO_HEIGHT = (0.74, 0.66, 0.72), 0.98


def _ball(
    centre: Triple,
    radii: Triple,
    material: Material,
    *,
    tilt: float = 0.0,
    casts_shadow: bool = True,
) -> Solid:
    """An ellipsoid of the toy, leaning sideways by `tilt`."""
    axes = turned(tilt, axis=1) @ np.diag(vector(*radii))
    return Solid(
        kind="sphere",
        centre=vector(*centre),
        axes=axes.astype(np.float32),
        material=material,
        casts_shadow=casts_shadow,
    )


def _vinyl(colour: Colour, shininess: float = 45.0) -> Material:
    return Material(colour=colour, specular=0.35, shininess=shininess)


def _body_colour(local: np.ndarray) -> np.ndarray:
    """Teal, darker below, with a cream belly in front and darker spots on the back."""
    colour = mix(_DARK_TEAL, _TEAL, smoothstep(-0.9, 0.1, local[:, 2]))
    for x, z in ((-0.45, 0.35), (0.4, 0.5), (0.05, 0.05), (-0.5, -0.3), (0.5, -0.25), (0.0, 0.72)):
        away = np.hypot(local[:, 0] - x, local[:, 2] - z)
        spot = (1 - smoothstep(0.11, 0.14, away)) * (local[:, 1] > 0)
        colour = mix(colour, _LILAC, spot)
    across, up = local[:, 0] / 0.62, (local[:, 2] + 0.22) / 0.62
    belly = (1 - smoothstep(0.94, 1.0, np.hypot(across, up))) * (local[:, 1] < 0)
    return mix(colour, _CREAM, belly)


def _eye_colour(iris: Colour, spread: float) -> Material:
    """White, with an iris and a pupil that look forward."""

    def colour(local: np.ndarray) -> np.ndarray:
        away = np.hypot(local[:, 0], local[:, 2] + 0.02)
        front = local[:, 1] < 0
        painted = mix(_WHITE, iris, (1 - smoothstep(spread - 0.04, spread, away)) * front)
        pupil = 1 - smoothstep(spread * 0.6 - 0.04, spread * 0.6, away)
        return mix(painted, _BLACK, pupil * front)

    return Material(colour=colour, specular=0.6, shininess=90.0)


def _chain(points: np.ndarray, radii: np.ndarray, materials: list[Material]) -> list[Solid]:
    """Overlapping balls along a curve."""
    return [
        _ball((float(x), float(y), float(z)), (float(r), float(r), float(r)), material)
        for (x, y, z), r, material in zip(points, radii, materials, strict=True)
    ]


def _curve(corners: list[Triple], num: int) -> np.ndarray:
    """Points on the Bezier curve of the given corners."""
    t = np.linspace(0, 1, num)
    degree = len(corners) - 1
    weights = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
    return np.stack(weights, axis=1) @ np.array(corners)


def _skin(x: float, z: float) -> float:
    """The y of the torso's front at a point seen from the camera."""
    return -_TORSO[1] * math.sqrt(1 - (x / _TORSO[0]) ** 2 - ((z - _TORSO_HEIGHT) / _TORSO[2]) ** 2)


def _face() -> list[Solid]:
    shine = Material(colour=_WHITE, specular=0.0, glow=0.8)
    parts = [
        _ball((-0.2, -0.42, 1.52), (0.29, 0.24, 0.31), _eye_colour(hex_colour("#7a3fc4"), 0.66)),
        _ball((0.29, -0.44, 1.58), (0.15, 0.13, 0.16), _eye_colour(hex_colour("#7a3fc4"), 0.7)),
        _ball((-0.11, -0.65, 1.62), (0.05, 0.03, 0.05), shine, casts_shadow=False),
        _ball((0.33, -0.56, 1.63), (0.026, 0.02, 0.026), shine, casts_shadow=False),
    ]
    angles = np.linspace(-1.15, 1.15, 21)
    across, height = 0.06 + 0.24 * np.sin(angles), 1.3 - 0.16 * np.cos(angles)
    depth = [_skin(float(x), float(z)) for x, z in zip(across, height, strict=True)]
    mouth = np.stack([across, np.array(depth), height], axis=1)
    parts += _chain(mouth, np.full(21, 0.027), [_vinyl(_BLACK)] * 21)
    tooth = (0.17, _skin(0.17, 1.1), 1.115)
    parts.append(_ball(tooth, (0.05, 0.03, 0.065), _vinyl(_WHITE), casts_shadow=False))
    cheek = _vinyl(hex_colour("#ff8f7e"))
    for x in (-0.42, 0.44):
        parts.append(_ball((x, _skin(x, 1.22), 1.22), (0.095, 0.045, 0.07), cheek, casts_shadow=False))
    return parts


def _antennae() -> list[Solid]:
    stem, ball = _vinyl(_DARK_TEAL), Material(colour=_ORANGE, specular=0.5, shininess=60.0, glow=0.12)
    left = _curve([(-0.22, 0, 1.8), (-0.32, 0, 2.1), (-0.5, -0.02, 2.32)], 16)
    right = _curve([(0.2, 0, 1.82), (0.24, 0, 2.35), (0.62, -0.02, 2.42), (0.72, -0.05, 2.12)], 26)
    parts = _chain(left, np.full(16, 0.05), [stem] * 16) + _chain(right, np.full(26, 0.05), [stem] * 26)
    return [
        *parts,
        _ball((-0.53, -0.02, 2.42), (0.17,) * 3, ball),
        _ball((0.74, -0.06, 2.02), (0.14,) * 3, ball),
    ]


def _limbs() -> list[Solid]:
    boot, cuff, sole = _vinyl(_YELLOW, 60.0), _vinyl(_ORANGE), _vinyl(hex_colour("#8a5a10"))
    arm, mitten = _vinyl(_TEAL), _vinyl(_LILAC)
    parts = []
    for side in (-1, 1):
        parts += [
            _ball((side * 0.36, -0.16, 0.19), (0.27, 0.4, 0.19), boot),
            _ball((side * 0.36, -0.02, 0.3), (0.21, 0.22, 0.22), boot),
            _ball((side * 0.36, 0.0, 0.42), (0.235, 0.235, 0.075), cuff),
            _ball((side * 0.36, -0.16, 0.07), (0.285, 0.415, 0.07), sole),
        ]
    waving = _curve([(-0.6, -0.1, 1.05), (-0.95, -0.2, 1.1), (-1.0, -0.22, 1.5)], 12)
    hanging = _curve([(0.6, -0.1, 1.05), (0.9, -0.15, 1.0), (0.92, -0.28, 0.66)], 12)
    for points in (waving, hanging):
        parts += _chain(points, np.linspace(0.15, 0.11, 12), [arm] * 12)
        x, y, z = points[-1]
        up = 1 if points is waving else -1
        parts.append(_ball((float(x), float(y), float(z) + up * 0.1), (0.17, 0.13, 0.19), mitten))
        thumb = (float(x) + 0.14, float(y) - 0.04, float(z) + up * 0.04)
        parts.append(_ball(thumb, (0.07, 0.07, 0.1), mitten))
    return parts


def _tail() -> list[Solid]:
    points = _curve([(0.1, 0.5, 0.45), (0.7, 1.25, 0.1), (1.5, 0.6, 0.5), (1.35, 0.3, 1.55)], 40)
    bands = [_vinyl(_MAGENTA if (k // 6) % 2 == 0 else _CREAM) for k in range(40)]
    parts = _chain(points, np.linspace(0.2, 0.125, 40), bands)
    tip = _ball((1.3, 0.27, 1.66), (0.19, 0.19, 0.22), _vinyl(_MAGENTA), tilt=-0.3)
    return [*parts, tip]


def toy() -> list[Solid]:
    """The toy at the origin: feet on z = 0, about 2.6 high, looking towards the camera (-y)."""
    body = Material(colour=_body_colour, specular=0.3, shininess=35.0)
    crest = [
        Solid(
            kind="cone",
            centre=vector(0.0, y, z),
            axes=(turned(lean, axis=0) @ np.diag(vector(0.09, 0.13, 0.17))).astype(np.float32),
            material=_vinyl(_ORANGE),
        )
        for y, z, lean in ((0.2, 1.93, -0.35), (0.43, 1.75, -0.9), (0.56, 1.48, -1.3))
    ]
    torso = [
        _ball((0, 0, _TORSO_HEIGHT), _TORSO, body),
        _ball((0, 0, 1.48), (0.58, 0.52, 0.46), Material(colour=_TEAL, specular=0.3, shininess=35.0)),
    ]
    return [*torso, *_face(), *_antennae(), *_limbs(), *_tail(), *crest]
