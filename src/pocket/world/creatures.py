"""Toys of random parts: no two are alike, none is named, none is teal.

With them the generator learns what a toy can be made of: eyes, ears or antennae, arms, boots, tails, in many
shapes and colours. Fine-tuning on one new toy then has to bind parts, not to learn how to draw them, which is
what a base model that has seen many toys allows. Captions name some of the parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from src.pocket.rendering.scene import Material, Solid, Triple, hex_colour
from src.pocket.world.objects import COLOURS, with_article
from src.pocket.world.parts import ball, chain, cone, curve, vinyl
from src.pocket.world.shades import varied

_BLACK, _WHITE = hex_colour("#15131a"), hex_colour("#fbfbf8")
_UNNAMED_COLOUR_SHARE = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Creature:
    """A toy and what can be said of it.

    Attributes:
        colour: the body's colour's name, empty if it has none.
        features: phrases, one for each part worth naming.
        solids: at the origin, looking towards the camera (-y), feet on or near the floor.
    """

    colour: str
    features: tuple[str, ...]
    solids: list[Solid]


@dataclass(frozen=True, slots=True)
class _Paint:
    """A colour with its name (empty if it has none) and its material, one for all solids of a part."""

    name: str
    material: Material

    def of(self, thing: str) -> str:
        """The thing with its colour: "red boots"."""
        return f"{self.name} {thing}".strip()


@dataclass(frozen=True, slots=True)
class _Torso:
    """An ellipsoid and the head on it: what all parts are fixed to."""

    radii: Triple
    height: float
    head_radii: Triple
    head_height: float

    def front(self, x: float, z: float) -> float:
        """The y of what is seen from the front at (x, z)."""
        depths = [
            _front(radii, x, z - height)
            for radii, height in ((self.radii, self.height), (self.head_radii, self.head_height))
        ]
        return min(depths)

    @property
    def top(self) -> float:
        """Where horns grow from."""
        return self.head_height + self.head_radii[2]


def _front(radii: Triple, x: float, z: float) -> float:
    """The y of an ellipsoid's front at (x, z) from its centre."""
    inside = 1 - (x / radii[0]) ** 2 - (z / radii[2]) ** 2
    return -radii[1] * math.sqrt(max(0.0, inside))


def random_creature(rng: np.random.Generator) -> Creature:
    """Puts a toy together from random parts."""
    body, second = _paint(rng), _paint(rng)
    torso = _random_torso(rng)
    solids = [ball((0, 0, torso.height), torso.radii, body.material)]
    solids.append(ball((0, 0, torso.head_height), torso.head_radii, body.material))
    features: list[str] = []
    parts = (_belly, _face, _head_gear, _arms, _feet, _tail, _crest)
    for part in parts:
        # Some parts share a colour.
        paint = second if rng.random() < 0.3 else _paint(rng)
        phrase, made = part(rng, torso, body, paint)
        features += [phrase] if phrase else []
        solids += made
    return Creature(colour=body.name, features=tuple(features), solids=solids)


def described(rng: np.random.Generator, creature: Creature) -> str:
    """What a caption calls it: "a red toy with one eye, a white belly and a striped tail", or less."""
    colour = creature.colour if rng.random() < 0.8 else ""
    name = with_article(f"{colour} toy".strip())
    num = int(rng.integers(0, 5)) if rng.random() < 0.6 else 0
    picks = rng.permutation(len(creature.features))[:num]
    told = [creature.features[int(pick)] for pick in picks]
    if not told:
        return name
    listed = " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]
    return f"{name} with {listed}"


def _paint(rng: np.random.Generator) -> _Paint:
    name = "" if rng.random() < _UNNAMED_COLOUR_SHARE else str(rng.choice(list(COLOURS)))
    return _Paint(name, vinyl(varied(rng, name), shininess=float(rng.uniform(25, 60))))


def _random_torso(rng: np.random.Generator) -> _Torso:
    across, up = rng.uniform(0.5, 0.85), rng.uniform(0.55, 0.95)
    height = up + rng.uniform(0.1, 0.4)
    head = rng.uniform(0.4, 0.7)
    return _Torso(
        radii=(across, across * rng.uniform(0.75, 1.0), up),
        height=height,
        head_radii=(head * rng.uniform(0.9, 1.2), head * 0.9, head * rng.uniform(0.75, 1.0)),
        head_height=height + up * rng.uniform(0.35, 1.1),
    )


def _belly(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    if rng.random() < 0.35:
        return "", []
    across, deep, up = torso.radii
    share = rng.uniform(0.6, 0.8)
    centre = (0.0, -0.33 * deep, torso.height - 0.2 * up)
    patch = ball(centre, (across * share, deep * 0.72, up * share), paint.material)
    return with_article(paint.of("belly")), [patch]


def _eye(x: float, y: float, z: float, size: float, iris: Material) -> list[Solid]:
    """A white ball, an iris and a pupil that look forward, and a glint."""
    dark, shine = vinyl(_BLACK), Material(colour=_WHITE, specular=0.0, glow=0.8)
    white = Material(colour=_WHITE, specular=0.6, shininess=90.0)
    radii: Triple = (size, 0.75 * size, 1.05 * size)
    return [
        ball((x, y, z), radii, white),
        ball((x, y - 0.3 * size, z), (0.66 * size, 0.5 * size, 0.7 * size), iris, casts_shadow=False),
        ball((x, y - 0.55 * size, z), (0.4 * size, 0.32 * size, 0.42 * size), dark, casts_shadow=False),
        ball(
            (x + 0.2 * size, y - 0.8 * size, z + 0.25 * size), (0.16 * size,) * 3, shine, casts_shadow=False
        ),
    ]


def _face(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    middle, wide = torso.head_height + rng.uniform(0, 0.5) * torso.head_radii[2], torso.head_radii[0]
    number = int(rng.choice([1, 2, 2, 2, 3]))
    big, small = wide * rng.uniform(0.28, 0.62), wide * rng.uniform(0.2, 0.4)
    is_uneven = number == 2 and rng.random() < 0.4
    sizes = {1: [big * 1.2], 2: [big, small if is_uneven else big], 3: [small, small, small]}[number]
    if number == 2 and rng.random() < 0.5:
        sizes.reverse()
    span = sum(sizes) * 0.95
    solids: list[Solid] = []
    x = -span
    for size in sizes:
        x += size
        across = x * (0.95 if number > 1 else 0.0)
        solids += _eye(across, 0.8 * torso.front(across, middle), middle, size, paint.material)
        x += size
    solids += _mouth(rng, torso, middle - max(sizes) - rng.uniform(0.08, 0.2))
    words = {1: "one eye", 2: "big eyes" if big > 0.5 * wide else "small eyes", 3: "three eyes"}[number]
    return ("a big and a small eye" if is_uneven else words), solids


def _mouth(rng: np.random.Generator, torso: _Torso, height: float) -> list[Solid]:
    wide, bend = rng.uniform(0.12, 0.32), rng.uniform(-0.05, 0.18)
    angles = np.linspace(-1.2, 1.2, 13)
    across, up = wide * np.sin(angles), height - bend * np.cos(angles)
    deep = [torso.front(float(x), float(z)) for x, z in zip(across, up, strict=True)]
    points = np.stack([across, np.array(deep), up], axis=1)
    solids = chain(points, np.full(13, 0.04), [vinyl(_BLACK)] * 13)
    if rng.random() < 0.4:
        x = float(rng.uniform(-0.5, 0.5)) * wide
        z = height - bend - 0.07
        tooth: Triple = (x, torso.front(x, z), z)
        solids.append(ball(tooth, (0.07, 0.04, 0.085), vinyl(_WHITE), casts_shadow=False))
    return solids


def _head_gear(
    rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint
) -> tuple[str, list[Solid]]:
    kind = str(rng.choice(["antennae", "antennae", "horns", "ears", "hat", ""]))
    side, top = 0.5 * torso.head_radii[0], torso.top - 0.12
    if kind == "antennae":
        return _antennae(rng, torso, body, paint)
    if kind == "horns":
        tall = rng.uniform(0.2, 0.45)
        horns = [
            cone((x, 0, top + 0.6 * tall), (0.16, 0.16, tall), paint.material, tilt=0.5 * x / side)
            for x in (-side, side)
        ]
        return paint.of("horns"), horns
    if kind == "ears":
        radii: Triple = (rng.uniform(0.15, 0.35), 0.12, rng.uniform(0.2, 0.6))
        ears = [
            ball((1.3 * x, 0.05, top + 0.5 * radii[2]), radii, paint.material, tilt=0.6 * x / side)
            for x in (-side, side)
        ]
        return paint.of("ears"), ears
    if kind == "hat":
        tall = rng.uniform(0.3, 0.5)
        hat = cone((0, 0, top + 0.8 * tall), (0.4, 0.4, tall), paint.material)
        return with_article(paint.of("hat")), [hat]
    return "", []


def _antennae(
    rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint
) -> tuple[str, list[Solid]]:
    solids: list[Solid] = []
    top = torso.top - 0.15
    sides = [0.0] if rng.random() < 0.2 else [-0.22, 0.22]
    size = rng.uniform(0.16, 0.28)
    for x in sides:
        lean, tall = 3 * x + rng.uniform(-0.25, 0.25), rng.uniform(0.3, 0.75)
        droop = rng.uniform(-0.35, 0.15)
        points = curve([(x, 0, top), (x, 0, top + tall), (lean, -0.03, top + tall + droop)], 14)
        solids += chain(points, np.full(14, 0.085), [body.material] * 14)
        tip_x, tip_y, tip_z = (float(value) for value in points[-1])
        solids.append(ball((tip_x, tip_y, tip_z), (size,) * 3, paint.material))
    return paint.of("antennae" if len(sides) > 1 else "antenna"), solids


def _arms(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    if rng.random() < 0.2:
        return "", []
    solids: list[Solid] = []
    size = rng.uniform(0.17, 0.28)
    shoulder, deep = 0.85 * torso.radii[0], 0.15 * torso.radii[1]
    for side in (-1, 1):
        start = torso.height + rng.uniform(0.0, 0.2)
        reach = rng.choice([0.5, 0.0, -0.4]) + rng.uniform(-0.1, 0.1)
        elbow = side * (shoulder + rng.uniform(0.25, 0.4))
        corners: list[Triple] = [
            (side * 0.8 * shoulder, -deep, start),
            (elbow, -2 * deep, start),
            (elbow + side * 0.05, -3 * deep, start + reach),
        ]
        points = curve(corners, 9)
        solids += chain(points, np.linspace(0.17, 0.14, 9), [body.material] * 9)
        x, y, z = (float(value) for value in points[-1])
        solids.append(ball((x, y, z), (size, 0.8 * size, size), paint.material))
    return paint.of("mittens"), solids


def _feet(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    if rng.random() < 0.15:
        return "", []
    wide, long = rng.uniform(0.2, 0.36), rng.uniform(0.26, 0.46)
    apart = torso.radii[0] * rng.uniform(0.4, 0.6)
    bottom = torso.height - torso.radii[2]
    solids: list[Solid] = []
    for side in (-1, 1):
        solids.append(ball((side * apart, -0.15, 0.2), (wide, long, 0.22), paint.material))
        leg: Triple = (side * apart * 0.95, 0, 0.5 * (bottom + 0.35))
        solids.append(ball(leg, (0.2, 0.2, 0.25 + 0.5 * bottom), body.material))
    return paint.of("boots"), solids


def _tail(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    if rng.random() < 0.3:
        return "", []
    side = float(rng.choice([-1, 1]))
    back, out = torso.radii[1] * 0.75, side * (torso.radii[0] + rng.uniform(0.4, 0.75))
    corners: list[Triple] = [
        (side * 0.1, back, 0.45),
        (0.6 * out, back + 0.6, 0.15),
        (1.1 * out, 0.6, 0.5),
        (out, 0.3, rng.uniform(0.9, 1.6)),
    ]
    other = _paint(rng)
    is_striped = rng.random() < 0.5
    width = int(rng.integers(3, 6))
    bands = [(paint if (k // width) % 2 == 0 or not is_striped else other).material for k in range(24)]
    thick = rng.uniform(0.16, 0.26)
    solids = chain(curve(corners, 24), np.linspace(thick, 0.85 * thick, 24), bands)
    x, y, z = (float(value) for value in corners[-1])
    solids.append(ball((x, y, z + 0.05), (1.25 * thick,) * 3, paint.material))
    if is_striped:
        return "a striped tail", solids
    return with_article(paint.of("tail")), solids


def _crest(rng: np.random.Generator, torso: _Torso, body: _Paint, paint: _Paint) -> tuple[str, list[Solid]]:
    """Spots on the back or spikes along it: seen from behind and from the side only."""
    kind = str(rng.choice(["spots", "spikes", "", ""]))
    _, deep, up = torso.radii
    if kind == "spikes":
        angles = (0.2, 0.6, 1.0)
        spikes = [
            cone(
                (0.0, deep * math.sin(a), torso.height + 1.05 * up * math.cos(a)),
                (0.1, 0.13, 0.18),
                paint.material,
                lean=-a,
            )
            for a in angles
        ]
        return "", spikes
    if kind == "spots":
        places = ((-0.4, 0.3), (0.38, 0.42), (-0.3, -0.4), (0.42, -0.3))
        spots = [
            ball(
                (
                    x * torso.radii[0],
                    -0.8 * _front(torso.radii, x * torso.radii[0], z * up),
                    torso.height + z * up,
                ),
                (0.17, 0.17, 0.17),
                paint.material,
                casts_shadow=False,
            )
            for x, z in places
        ]
        return "", spots
    return "", []
