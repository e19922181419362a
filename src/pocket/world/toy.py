"""The invented toy of the demo photos, called sksToy.

A round teal creature with a cream belly, yellow boots, lilac mittens, a large and a small eye, two
uneven antennae with orange balls and a tail striped in magenta and cream. The world's toys of random
parts have parts of the same kinds; none of them is teal, and none has these together. All its parts are
large, to show in pictures of 64 pixels.
"""

from __future__ import annotations

import math

import numpy as np

from src.pocket.rendering.scene import (
    Colour,
    Material,
    Solid,
    hex_colour,
    mix,
    smoothstep,
)
from src.pocket.world.parts import ball, chain, cone, curve, vinyl

_TEAL, _DARK_TEAL, _CREAM = hex_colour("#17b3a6"), hex_colour("#0b7f83"), hex_colour("#fbe9bd")
_YELLOW, _ORANGE, _MAGENTA = hex_colour("#ffc61a"), hex_colour("#ff6a13"), hex_colour("#d81e77")
_LILAC, _BLACK, _WHITE = hex_colour("#b79bf0"), hex_colour("#15131a"), hex_colour("#fbfbf8")

_TORSO, _TORSO_HEIGHT = (0.74, 0.66, 0.72), 0.98


def _body_colour(local: np.ndarray) -> np.ndarray:
    """Teal, darker below, with a cream belly in front and darker spots on the back."""
    colour = mix(_DARK_TEAL, _TEAL, smoothstep(-0.9, 0.1, local[:, 2]))
    for x, z in ((-0.42, 0.3), (0.38, 0.42), (-0.3, -0.4), (0.42, -0.3)):
        away = np.hypot(local[:, 0] - x, local[:, 2] - z)
        spot = (1 - smoothstep(0.2, 0.24, away)) * (local[:, 1] > 0)
        colour = mix(colour, _LILAC, spot)
    across, up = local[:, 0] / 0.66, (local[:, 2] + 0.3) / 0.62
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


def _skin(x: float, z: float) -> float:
    """The y of the torso's front at a point seen from the camera."""
    return -_TORSO[1] * math.sqrt(1 - (x / _TORSO[0]) ** 2 - ((z - _TORSO_HEIGHT) / _TORSO[2]) ** 2)


def _face() -> list[Solid]:
    shine = Material(colour=_WHITE, specular=0.0, glow=0.8)
    parts = [
        ball((-0.22, -0.4, 1.56), (0.38, 0.28, 0.4), _eye_colour(hex_colour("#7a3fc4"), 0.66)),
        ball((0.36, -0.42, 1.62), (0.2, 0.16, 0.21), _eye_colour(hex_colour("#7a3fc4"), 0.7)),
        ball((-0.1, -0.65, 1.7), (0.07, 0.04, 0.07), shine, casts_shadow=False),
        ball((0.41, -0.56, 1.69), (0.035, 0.025, 0.035), shine, casts_shadow=False),
    ]
    angles = np.linspace(-1.15, 1.15, 21)
    across, height = 0.06 + 0.24 * np.sin(angles), 1.24 - 0.16 * np.cos(angles)
    depth = [_skin(float(x), float(z)) for x, z in zip(across, height, strict=True)]
    mouth = np.stack([across, np.array(depth), height], axis=1)
    parts += chain(mouth, np.full(21, 0.04), [vinyl(_BLACK)] * 21)
    tooth = (0.17, _skin(0.17, 1.04), 1.055)
    parts.append(ball(tooth, (0.07, 0.04, 0.085), vinyl(_WHITE), casts_shadow=False))
    cheek = vinyl(hex_colour("#ff8f7e"))
    for x in (-0.42, 0.44):
        parts.append(ball((x, _skin(x, 1.22), 1.22), (0.095, 0.045, 0.07), cheek, casts_shadow=False))
    return parts


def _antennae() -> list[Solid]:
    stem, knob = vinyl(_DARK_TEAL), Material(colour=_ORANGE, specular=0.5, shininess=60.0, glow=0.12)
    left = curve([(-0.22, 0, 1.8), (-0.32, 0, 2.1), (-0.5, -0.02, 2.32)], 16)
    right = curve([(0.2, 0, 1.82), (0.24, 0, 2.35), (0.62, -0.02, 2.42), (0.72, -0.05, 2.12)], 26)
    parts = chain(left, np.full(16, 0.085), [stem] * 16) + chain(right, np.full(26, 0.085), [stem] * 26)
    return [
        *parts,
        ball((-0.55, -0.02, 2.42), (0.27,) * 3, knob),
        ball((0.76, -0.06, 2.04), (0.22,) * 3, knob),
    ]


def _limbs() -> list[Solid]:
    boot, cuff, sole = vinyl(_YELLOW, 60.0), vinyl(_ORANGE), vinyl(hex_colour("#8a5a10"))
    arm, mitten = vinyl(_TEAL), vinyl(_LILAC)
    parts = []
    for side in (-1, 1):
        parts += [
            ball((side * 0.38, -0.18, 0.22), (0.32, 0.44, 0.22), boot),
            ball((side * 0.36, -0.02, 0.3), (0.21, 0.22, 0.22), boot),
            ball((side * 0.36, 0.0, 0.42), (0.235, 0.235, 0.075), cuff),
            ball((side * 0.38, -0.18, 0.07), (0.33, 0.455, 0.07), sole),
        ]
    waving = curve([(-0.6, -0.1, 1.0), (-1.0, -0.2, 1.0), (-1.06, -0.24, 1.42)], 12)
    hanging = curve([(0.6, -0.1, 1.05), (0.9, -0.15, 1.0), (0.92, -0.28, 0.66)], 12)
    for points in (waving, hanging):
        parts += chain(points, np.linspace(0.17, 0.14, 12), [arm] * 12)
        x, y, z = points[-1]
        up = 1 if points is waving else -1
        parts.append(ball((float(x), float(y), float(z) + up * 0.1), (0.25, 0.19, 0.26), mitten))
        thumb = (float(x) + 0.2, float(y) - 0.04, float(z) + up * 0.04)
        parts.append(ball(thumb, (0.1, 0.1, 0.13), mitten))
    return parts


def _tail() -> list[Solid]:
    points = curve([(0.1, 0.5, 0.45), (0.7, 1.25, 0.1), (1.5, 0.6, 0.5), (1.35, 0.3, 1.55)], 40)
    bands = [vinyl(_MAGENTA if (k // 8) % 2 == 0 else _CREAM) for k in range(40)]
    parts = chain(points, np.linspace(0.25, 0.2, 40), bands)
    tip = ball((1.3, 0.27, 1.68), (0.28, 0.28, 0.3), vinyl(_MAGENTA), tilt=-0.3)
    return [*parts, tip]


def toy() -> list[Solid]:
    """The toy at the origin: feet on z = 0, about 2.6 high, looking towards the camera (-y)."""
    body = Material(colour=_body_colour, specular=0.3, shininess=35.0)
    crest = [
        cone((0.0, y, z), (0.09, 0.13, 0.17), vinyl(_ORANGE), lean=lean)
        for y, z, lean in ((0.2, 1.93, -0.35), (0.43, 1.75, -0.9), (0.56, 1.48, -1.3))
    ]
    torso = [
        ball((0, 0, _TORSO_HEIGHT), _TORSO, body),
        ball((0, 0, 1.48), (0.58, 0.52, 0.46), Material(colour=_TEAL, specular=0.3, shininess=35.0)),
    ]
    return [*torso, *_face(), *_antennae(), *_limbs(), *_tail(), *crest]
