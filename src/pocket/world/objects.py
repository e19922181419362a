"""The objects of the pocket world: each a handful of solids in one main colour, known by its silhouette.

The demo subject is not among them, and nothing here has its antennae, mittens or striped tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from src.pocket.rendering.scene import (
    Colour,
    Kind,
    Material,
    Matrix,
    Solid,
    Triple,
    hex_colour,
    turned,
    vector,
)

_WHITE, _BLACK, _DARK = hex_colour("#f4f2ec"), hex_colour("#17161a"), hex_colour("#3a3a42")
_GLASS, _WOOD, _BEAK = hex_colour("#a9d4e8"), hex_colour("#8a5a33"), hex_colour("#f0962a")
_SKIN, _GREY = hex_colour("#efc9a4"), hex_colour("#8d9096")


def _solid(
    kind: Kind,
    centre: Triple,
    sizes: Triple,
    colour: Colour,
    *,
    turn: Matrix | None = None,
    shine: float = 0.3,
) -> Solid:
    """A unit shape stretched by `sizes` (half lengths), then turned, then put at `centre`."""
    axes = np.diag(vector(*sizes))
    if turn is not None:
        axes = turn @ axes
    return Solid(
        kind=kind, centre=vector(*centre), axes=axes.astype(np.float32), material=_material(colour, shine)
    )


def _material(colour: Colour, shine: float = 0.3) -> Material:
    return Material(colour=colour, specular=shine, shininess=40.0)


def _darker(colour: Colour, share: float = 0.55) -> Colour:
    return colour[0] * share, colour[1] * share, colour[2] * share


def _lying(axis: int) -> Matrix:
    """Lays a cylinder's axis along x (axis 1) or y (axis 0)."""
    return turned(math.pi / 2, axis=axis)


def _ring(
    centre: Triple, radius: float, thickness: float, colour: Colour, *, first: float, last: float
) -> list[Solid]:
    """A handle: small balls of one material along an arc in the xz plane, angles in radians."""
    x, y, z = centre
    material = _material(colour)
    return [
        Solid(
            kind="sphere",
            centre=vector(x + radius * math.cos(angle), y, z + radius * math.sin(angle)),
            axes=np.diag(vector(thickness, thickness, thickness)),
            material=material,
        )
        for angle in np.linspace(first, last, 9)
    ]


def _mug(colour: Colour) -> list[Solid]:
    return [
        _solid("cylinder", (0, 0, 0.75), (0.62, 0.62, 0.75), colour),
        _solid("cylinder", (0, 0, 1.49), (0.52, 0.52, 0.03), _darker(colour, 0.35)),
        *_ring((0.62, 0, 0.78), 0.36, 0.11, colour, first=-1.4, last=1.4),
    ]


def _car(colour: Colour) -> list[Solid]:
    wheels = [
        _solid("cylinder", (x, y, 0.26), (0.26, 0.26, 0.1), _BLACK, turn=_lying(0))
        for x in (-0.62, 0.62)
        for y in (-0.46, 0.46)
    ]
    hubs = [
        _solid("cylinder", (x, -0.56, 0.26), (0.12, 0.12, 0.02), _GREY, turn=_lying(0)) for x in (-0.62, 0.62)
    ]
    return [
        _solid("box", (0, 0, 0.5), (1.12, 0.48, 0.24), colour),
        _solid("box", (-0.08, 0, 0.92), (0.6, 0.42, 0.24), colour),
        _solid("box", (-0.36, -0.41, 0.92), (0.24, 0.03, 0.16), _GLASS),
        _solid("box", (0.22, -0.41, 0.92), (0.24, 0.03, 0.16), _GLASS),
        _solid("sphere", (1.1, -0.3, 0.55), (0.08, 0.1, 0.1), _WHITE),
        *wheels,
        *hubs,
    ]


def _house(colour: Colour) -> list[Solid]:
    roof = turned(math.pi / 4)
    return [
        _solid("box", (0, 0, 0.6), (0.72, 0.6, 0.6), colour, shine=0.05),
        _solid("cone", (0, 0, 1.62), (1.12, 1.12, 0.44), _darker(colour, 0.4), turn=roof, shine=0.05),
        _solid("box", (0.02, -0.6, 0.36), (0.16, 0.03, 0.36), _WOOD, shine=0.05),
        _solid("box", (-0.42, -0.6, 0.74), (0.16, 0.03, 0.16), _GLASS),
        _solid("box", (0.44, -0.6, 0.74), (0.16, 0.03, 0.16), _GLASS),
        _solid("box", (0.42, 0.1, 1.75), (0.1, 0.1, 0.3), _DARK, shine=0.05),
    ]


def _duck(colour: Colour) -> list[Solid]:
    return [
        _solid("sphere", (-0.05, 0, 0.62), (0.85, 0.6, 0.55), colour),
        _solid("sphere", (-0.82, 0, 0.92), (0.3, 0.24, 0.2), colour, turn=turned(0.6, axis=1)),
        _solid("sphere", (0.55, 0, 1.35), (0.43, 0.4, 0.41), colour),
        _solid("cone", (1.05, 0, 1.27), (0.17, 0.2, 0.2), _BEAK, turn=_lying(1)),
        _solid("sphere", (0.74, -0.33, 1.45), (0.09, 0.06, 0.1), _BLACK),
        _solid("sphere", (-0.12, -0.5, 0.7), (0.46, 0.14, 0.28), _darker(colour, 0.75)),
    ]


def _fish(colour: Colour) -> list[Solid]:
    return [
        _solid("sphere", (0.1, 0, 0.75), (0.82, 0.3, 0.52), colour),
        _solid("cone", (-0.92, 0, 0.75), (0.52, 0.1, 0.34), _darker(colour, 0.7), turn=_lying(1)),
        _solid("cone", (0.1, 0, 1.33), (0.34, 0.06, 0.26), _darker(colour, 0.7)),
        _solid("sphere", (0.56, -0.2, 0.88), (0.15, 0.1, 0.15), _WHITE),
        _solid("sphere", (0.6, -0.29, 0.88), (0.07, 0.04, 0.07), _BLACK),
    ]


def _mushroom(colour: Colour) -> list[Solid]:
    spots = [
        _solid("sphere", (x, y, z), (0.17, 0.12, 0.13), _WHITE, shine=0.1)
        for x, y, z in (
            (0.0, -0.66, 1.38),
            (-0.52, -0.46, 1.4),
            (0.5, -0.5, 1.36),
            (0.2, -0.3, 1.68),
            (-0.3, -0.1, 1.7),
        )
    ]
    return [
        _solid("cylinder", (0, 0, 0.5), (0.3, 0.3, 0.5), _WHITE, shine=0.1),
        _solid("sphere", (0, 0, 1.2), (0.9, 0.86, 0.58), colour),
        _solid("cylinder", (0, 0, 0.9), (0.7, 0.68, 0.12), _SKIN, shine=0.05),
        *spots,
    ]


def _chair(colour: Colour) -> list[Solid]:
    legs = [
        _solid("box", (x, y, 0.36), (0.08, 0.08, 0.36), _darker(colour), shine=0.1)
        for x in (-0.46, 0.46)
        for y in (-0.4, 0.4)
    ]
    return [
        _solid("box", (0, 0, 0.8), (0.56, 0.52, 0.09), colour),
        _solid("box", (0, 0.46, 1.42), (0.56, 0.08, 0.54), colour),
        *legs,
    ]


def _boat(colour: Colour) -> list[Solid]:
    return [
        _solid("sphere", (0, 0, 0.42), (1.05, 0.44, 0.4), colour),
        _solid("box", (0, 0, 0.6), (0.85, 0.36, 0.06), _WOOD, shine=0.1),
        _solid("cylinder", (-0.05, 0, 1.3), (0.05, 0.05, 0.72), _WOOD, shine=0.1),
        _solid("cone", (0.36, 0, 1.34), (0.46, 0.04, 0.6), _WHITE, shine=0.05),
        _solid("cone", (-0.42, 0, 1.24), (0.32, 0.04, 0.48), _darker(colour, 0.85), shine=0.05),
    ]


def _rocket(colour: Colour) -> list[Solid]:
    fins = [
        _solid(
            "box",
            (0.44 * math.cos(a), 0.44 * math.sin(a), 0.4),
            (0.26, 0.04, 0.28),
            _darker(colour, 0.5),
            turn=turned(a),
        )
        for a in (0.0, math.pi / 2, math.pi, -math.pi / 2)
    ]
    return [
        _solid("cylinder", (0, 0, 1.0), (0.4, 0.4, 0.72), colour),
        _solid("cone", (0, 0, 2.05), (0.4, 0.4, 0.34), _WHITE),
        _solid("sphere", (0, -0.34, 1.28), (0.17, 0.1, 0.17), _GLASS),
        _solid("cone", (0, 0, 0.2), (0.28, 0.28, 0.14), _DARK),
        *fins,
    ]


def _teapot(colour: Colour) -> list[Solid]:
    return [
        _solid("sphere", (0, 0, 0.68), (0.76, 0.74, 0.64), colour),
        _solid("cylinder", (0, 0, 1.28), (0.34, 0.34, 0.07), _darker(colour, 0.7)),
        _solid("sphere", (0, 0, 1.44), (0.12, 0.12, 0.12), _darker(colour, 0.7)),
        _solid("cylinder", (0.86, 0, 0.92), (0.12, 0.12, 0.42), colour, turn=turned(0.75, axis=1)),
        *_ring((-0.72, 0, 0.78), 0.38, 0.1, colour, first=1.3, last=5.0),
    ]


def _cactus(colour: Colour) -> list[Solid]:
    return [
        _solid("cylinder", (0, 0, 0.28), (0.46, 0.46, 0.28), hex_colour("#b5623a"), shine=0.05),
        _solid("cylinder", (0, 0, 1.05), (0.28, 0.28, 0.62), colour, shine=0.1),
        _solid("sphere", (0, 0, 1.68), (0.28, 0.28, 0.28), colour, shine=0.1),
        _solid("cylinder", (0.46, 0, 1.05), (0.13, 0.13, 0.28), colour, turn=_lying(1), shine=0.1),
        _solid("cylinder", (0.7, 0, 1.3), (0.14, 0.14, 0.3), colour, shine=0.1),
        _solid("cylinder", (-0.46, 0, 0.85), (0.13, 0.13, 0.28), colour, turn=_lying(1), shine=0.1),
        _solid("cylinder", (-0.7, 0, 1.1), (0.14, 0.14, 0.3), colour, shine=0.1),
    ]


def _lamp(colour: Colour) -> list[Solid]:
    return [
        _solid("cylinder", (0, 0, 0.07), (0.5, 0.5, 0.07), _DARK),
        _solid("cylinder", (0, 0, 0.7), (0.07, 0.07, 0.6), _GREY),
        _solid("cone", (0, 0, 1.62), (0.86, 0.86, 0.62), colour, shine=0.1),
    ]


def _cat(colour: Colour) -> list[Solid]:
    ears = [_solid("cone", (x, -0.2, 1.74), (0.17, 0.1, 0.2), colour, shine=0.05) for x in (-0.26, 0.26)]
    eyes = [_solid("sphere", (x, -0.56, 1.4), (0.08, 0.05, 0.1), _BLACK) for x in (-0.17, 0.17)]
    tail = _ring((0.52, 0.2, 0.62), 0.42, 0.11, _darker(colour, 0.75), first=-1.5, last=1.3)
    return [
        _solid("sphere", (0, 0.1, 0.6), (0.55, 0.52, 0.62), colour, shine=0.05),
        _solid("sphere", (0, -0.2, 1.35), (0.46, 0.4, 0.4), colour, shine=0.05),
        _solid("sphere", (0, -0.58, 1.25), (0.14, 0.08, 0.1), _WHITE, shine=0.05),
        _solid("sphere", (-0.24, -0.42, 0.14), (0.18, 0.24, 0.14), colour, shine=0.05),
        _solid("sphere", (0.24, -0.42, 0.14), (0.18, 0.24, 0.14), colour, shine=0.05),
        *ears,
        *eyes,
        *tail,
    ]


def _robot(colour: Colour) -> list[Solid]:
    pairs = [
        solid
        for side in (-1, 1)
        for solid in (
            _solid("box", (0.24 * side, 0, 0.2), (0.14, 0.2, 0.2), _DARK),
            _solid("cylinder", (0.66 * side, 0, 0.82), (0.11, 0.11, 0.34), _GREY),
            _solid("cylinder", (0.2 * side, -0.4, 1.62), (0.11, 0.11, 0.03), _WHITE, turn=_lying(0)),
        )
    ]
    return [
        _solid("box", (0, 0, 0.82), (0.52, 0.36, 0.44), colour),
        _solid("box", (0, 0, 1.58), (0.42, 0.38, 0.3), colour),
        _solid("box", (0, -0.37, 0.86), (0.26, 0.03, 0.2), _DARK),
        _solid("cylinder", (0, 0, 2.0), (0.04, 0.04, 0.16), _GREY),
        *pairs,
    ]


def _flower(colour: Colour) -> list[Solid]:
    petals = [
        _solid(
            "sphere",
            (0.42 * math.cos(a), -0.02, 1.6 + 0.42 * math.sin(a)),
            (0.27, 0.1, 0.27),
            colour,
            shine=0.05,
        )
        for a in np.linspace(0, 2 * math.pi, 7)[:-1]
    ]
    leaf = hex_colour("#3f8f3a")
    return [
        _solid("cylinder", (0, 0, 0.62), (0.06, 0.06, 0.62), leaf, shine=0.05),
        _solid("sphere", (0.26, 0, 0.55), (0.3, 0.06, 0.12), leaf, turn=turned(-0.5, axis=1), shine=0.05),
        _solid("sphere", (-0.26, 0, 0.4), (0.3, 0.06, 0.12), leaf, turn=turned(0.5, axis=1), shine=0.05),
        *petals,
        _solid("sphere", (0, -0.1, 1.6), (0.22, 0.12, 0.22), hex_colour("#6b4320"), shine=0.05),
    ]


def _snowman(colour: Colour) -> list[Solid]:
    """White as snowmen are; its scarf and hat carry the colour."""
    eyes = [_solid("sphere", (x, -0.32, 1.62), (0.06, 0.05, 0.06), _BLACK) for x in (-0.13, 0.13)]
    return [
        _solid("sphere", (0, 0, 0.56), (0.62, 0.6, 0.56), _WHITE, shine=0.05),
        _solid("sphere", (0, 0, 1.5), (0.38, 0.37, 0.36), _WHITE, shine=0.05),
        _solid("cylinder", (0, 0, 1.16), (0.38, 0.38, 0.11), colour, shine=0.05),
        _solid("box", (0.2, -0.38, 0.9), (0.1, 0.05, 0.24), colour, shine=0.05),
        _solid("cylinder", (0, 0, 1.8), (0.46, 0.46, 0.05), colour),
        _solid("cylinder", (0, 0, 2.02), (0.3, 0.3, 0.22), colour),
        _solid("cone", (0, -0.5, 1.5), (0.07, 0.07, 0.18), _BEAK, turn=turned(math.pi / 2, axis=0)),
        *eyes,
    ]


OBJECTS: Mapping[str, Callable[[Colour], list[Solid]]] = {
    "boat": _boat,
    "cactus": _cactus,
    "car": _car,
    "cat": _cat,
    "chair": _chair,
    "duck": _duck,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "lamp": _lamp,
    "mug": _mug,
    "mushroom": _mushroom,
    "robot": _robot,
    "rocket": _rocket,
    "snowman": _snowman,
    "teapot": _teapot,
}

COLOURS: Mapping[str, Colour] = {
    name: hex_colour(code)
    for name, code in {
        "red": "#cf2320",
        "orange": "#f07a16",
        "yellow": "#f4cb1c",
        "green": "#2f9b3d",
        "blue": "#2257c9",
        "purple": "#7335b0",
        "pink": "#f284b4",
        "brown": "#7b4a28",
        "white": "#f3f1ea",
        "black": "#1d1c20",
    }.items()
}


def with_article(words: str) -> str:
    """Puts "a" or "an" before a name."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
