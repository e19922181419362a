"""Procedural surfaces: functions of two world coordinates that return linear RGB, seeded and endless."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from src.pocket.rendering.scene import Colour, Texture, mix, smoothstep, vector

Plane = Float32[np.ndarray, "n"]

_SIZE = 256
# One table of numbers for all textures; a seed shifts and shuffles how it is read.
_TABLE = np.random.default_rng(20261120).random(_SIZE * _SIZE, dtype=np.float32)


def lattice(i: Int32[np.ndarray, " n"], j: Int32[np.ndarray, " n"], seed: int) -> Plane:
    """A number in [0, 1) for each cell of an endless grid."""
    return _TABLE[((i * 3 + seed * 71) & 255) * _SIZE + ((j * 5 + seed * 29) & 255)]


def cells(x: Plane) -> Int32[np.ndarray, " n"]:
    """The grid cell of each coordinate."""
    return np.floor(x).astype(np.int32)


def noise(x: Plane, y: Plane, seed: int) -> Plane:
    """Smooth value noise in [0, 1], one feature a unit."""
    i, j = cells(x), cells(y)
    u, v = x - i.astype(np.float32), y - j.astype(np.float32)
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b = lattice(i, j, seed), lattice(i + 1, j, seed)
    c, d = lattice(i, j + 1, seed), lattice(i + 1, j + 1, seed)
    return ((a + (b - a) * u) * (1 - v) + (c + (d - c) * u) * v).astype(np.float32)


def cloudy(x: Plane, y: Plane, seed: int, octaves: int = 3) -> Plane:
    """Fractal noise in [0, 1]."""
    total, weight = np.zeros_like(x), np.float32(0)
    for octave in range(octaves):
        share = np.float32(0.5**octave)
        step = np.float32(2**octave)
        total = total + share * noise(x * step, y * step, seed + octave)
        weight += share
    return (total / weight).astype(np.float32)


def plain(colour: Colour, *, mottle: float = 0.12, scale: float = 1.5, seed: int = 0) -> Texture:
    """One colour, slightly uneven: plaster, paper, carpet, snow."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        value = 1 + mottle * (2 * cloudy(x * np.float32(scale), y * np.float32(scale), seed) - 1)
        return vector(*colour) * value[:, None]

    return texture


def planks(dark: Colour, light: Colour, *, width: float = 0.8, length: float = 5.0, seed: int = 0) -> Texture:
    """Wooden boards along x with grain and joints."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        row = cells(y / np.float32(width))
        along = x / np.float32(length) + lattice(row, row, seed)
        board = lattice(row, cells(along), seed + 1)
        grain = cloudy(x * np.float32(0.8) + board * 37, y * np.float32(9), seed + 2)
        colour = mix(dark, light, np.clip(0.65 * grain + 0.5 * board - 0.1, 0, 1))
        edge = np.minimum(_to_edge(y / np.float32(width)) * width, _to_edge(along) * length)
        return colour * (0.35 + 0.65 * smoothstep(0.0, 0.03, edge))[:, None]

    return texture


def _to_edge(x: Plane) -> Plane:
    """The distance to the next whole number."""
    return np.abs(x - np.round(x)).astype(np.float32)


def checks(
    first: Colour, second: Colour, *, size: float = 1.0, joint: float = 0.02, seed: int = 0
) -> Texture:
    """Square tiles in two colours with dark joints."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = x / np.float32(size), y / np.float32(size)
        i, j = cells(u), cells(v)
        colour = mix(first, second, ((i + j) % 2).astype(np.float32))
        colour = colour * (0.93 + 0.14 * lattice(i, j, seed))[:, None]
        edge = np.minimum(_to_edge(u), _to_edge(v)) * np.float32(size)
        return colour * (0.55 + 0.45 * smoothstep(joint * 0.5, joint, edge))[:, None]

    return texture


def bricks(colours: Sequence[Colour], mortar: Colour, *, size: tuple[float, float], seed: int = 0) -> Texture:
    """Rows of bricks, every second row shifted by half a brick."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        row = cells(y / np.float32(size[1]))
        u = x / np.float32(size[0]) + (row % 2).astype(np.float32) * np.float32(0.5)
        column = cells(u)
        palette = np.asarray(colours, dtype=np.float32)
        pick = (lattice(column, row, seed) * len(palette)).astype(np.int32)
        shade = 0.8 + 0.4 * cloudy(x * np.float32(4), y * np.float32(4), seed + 1)
        colour = palette[pick] * shade[:, None]
        edge = np.minimum(_to_edge(u) * size[0], _to_edge(y / np.float32(size[1])) * size[1])
        return mix(mortar, colour, smoothstep(0.02, 0.05, edge))

    return texture


def stones(colours: Sequence[Colour], gap: Colour, *, size: float = 0.5, seed: int = 0) -> Texture:
    """Irregular rounded patches (a Voronoi pattern): cobbles, pebbles, fallen leaves."""
    palette = np.asarray(colours, dtype=np.float32)

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = x / np.float32(size), y / np.float32(size)
        i, j = cells(u), cells(v)
        first = np.full(x.shape, 9, dtype=np.float32)
        second, owner = first.copy(), np.zeros(x.shape, dtype=np.float32)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                a, b = i + di, j + dj
                du = a + 0.15 + 0.7 * lattice(a, b, seed) - u
                dv = b + 0.15 + 0.7 * lattice(a, b, seed + 1) - v
                away = np.sqrt(du * du + dv * dv).astype(np.float32)
                owner = np.where(away < first, lattice(a, b, seed + 2), owner)
                second = np.minimum(second, np.maximum(first, away))
                first = np.minimum(first, away)
        colour = palette[(owner * len(palette)).astype(np.int32)]
        dome = 1.1 - 0.45 * first
        return mix(gap, colour * dome[:, None], smoothstep(0.03, 0.18, second - first))

    return texture


def meadow(dark: Colour, light: Colour, flower: Colour, *, seed: int = 0) -> Texture:
    """Grass: short upright strokes in patches, here and there a flower."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        patch = cloudy(x * np.float32(0.6), y * np.float32(0.6), seed)
        blade = noise(x * np.float32(16) + 3 * noise(x * 2, y * 2, seed + 4), y * np.float32(5), seed + 1)
        colour = mix(dark, light, np.clip(0.75 * blade + 0.6 * patch - 0.2, 0, 1))
        i, j = cells(x * np.float32(1.4)), cells(y * np.float32(1.4))
        dx = x * np.float32(1.4) - i - 0.2 - 0.6 * lattice(i, j, seed + 2)
        dy = y * np.float32(1.4) - j - 0.2 - 0.6 * lattice(i, j, seed + 3)
        bloom = (lattice(i, j, seed + 5) > 0.72) * (1 - smoothstep(0.06, 0.1, np.hypot(dx, dy)))
        return mix(colour, flower, bloom.astype(np.float32))

    return texture


def ripples(dark: Colour, light: Colour, *, seed: int = 0) -> Texture:
    """Sand or snow drifts: long soft waves with fine grain."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        warp = 2.2 * cloudy(x * np.float32(0.5), y * np.float32(0.5), seed)
        wave = 0.5 + 0.5 * np.sin(3.5 * y + 0.6 * x + 5 * warp)
        grain = noise(x * np.float32(18), y * np.float32(18), seed + 3)
        return mix(dark, light, np.clip(0.6 * wave + 0.4 * grain, 0, 1).astype(np.float32))

    return texture


def stripes(colours: Sequence[Colour], *, width: float, seed: int = 0) -> Texture:
    """Bands along y: wallpaper, rugs, blankets."""
    palette = np.asarray(colours, dtype=np.float32)

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        weave = 0.92 + 0.16 * noise(x * np.float32(9), y * np.float32(9), seed)
        return palette[cells(x / np.float32(width)) % len(palette)] * weave[:, None]

    return texture


def dots(ground: Colour, dot: Colour, *, size: float = 0.7, radius: float = 0.2) -> Texture:
    """A pattern of dots in staggered rows."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        v = y / np.float32(size)
        u = x / np.float32(size) + (cells(v) % 2).astype(np.float32) * np.float32(0.5)
        away = np.hypot(u - cells(u) - 0.5, v - cells(v) - 0.5)
        return mix(ground, dot, 1 - smoothstep(radius - 0.03, radius + 0.03, away))

    return texture


def bookshelf(*, seed: int = 0) -> Texture:
    """Shelves of books as seen from the front: spines of many widths, heights and colours."""
    spines = [(0.45, 0.08, 0.06), (0.05, 0.15, 0.35), (0.55, 0.42, 0.12), (0.06, 0.25, 0.12)]
    spines += [(0.5, 0.45, 0.38), (0.2, 0.05, 0.2), (0.6, 0.25, 0.05), (0.08, 0.08, 0.09)]
    palette = np.asarray(spines, dtype=np.float32)

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        shelf = cells(y / np.float32(1.35))
        height = y - shelf.astype(np.float32) * np.float32(1.35)
        # Two interleaved grids make spines of unequal width.
        wide = cells(x * np.float32(2.2) + lattice(shelf, shelf, seed))
        fine = cells(x * np.float32(4.4) + lattice(wide, shelf, seed + 1))
        tall = 0.8 + 0.35 * lattice(fine, shelf, seed + 2)
        colour = palette[(lattice(fine, shelf + wide, seed + 3) * len(palette)).astype(np.int32)]
        across = x * np.float32(4.4) + lattice(wide, shelf, seed + 1) - fine
        rounded = 0.55 + 0.45 * np.sqrt(np.maximum(1 - (2 * across - 1) ** 2, 0))
        band = (np.abs(height - 0.78 * tall) < 0.035) & (lattice(fine, shelf, seed + 4) > 0.4)
        colour = mix(colour * rounded[:, None], (0.75, 0.62, 0.25), band.astype(np.float32) * 0.8)
        colour = mix((0.02, 0.015, 0.012), colour, smoothstep(tall + 0.02, tall - 0.02, height))
        board = vector(0.32, 0.18, 0.09) * (0.8 + 0.4 * noise(x, y * np.float32(20), seed))[:, None]
        return mix(colour, board, (height > 1.22).astype(np.float32))

    return texture


def landscape(
    top: Colour,
    low: Colour,
    hills: Colour,
    *,
    hill_height: float = 0.1,
    roughness: float = 3.0,
    clouds: float = 0.0,
    seed: int = 0,
) -> Texture:
    """The open air over azimuth and elevation: a graded sky, clouds, and a line of hills, trees or sea."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sky = mix(low, top, smoothstep(0.0, 0.7, y))
        if clouds > 0:
            cover = cloudy(x * np.float32(4), y * np.float32(10), seed + 7)
            sky = mix(sky, (0.95, 0.95, 0.97), clouds * smoothstep(0.5, 0.75, cover))
        line = hill_height * cloudy(x * np.float32(roughness), np.zeros_like(x), seed)
        leaf = 0.75 + 0.5 * cloudy(x * np.float32(14), y * np.float32(14), seed + 3)
        return mix(sky, vector(*hills) * leaf[:, None], smoothstep(line + 0.012, line - 0.012, y))

    return texture


def town_lights(*, seed: int = 0) -> Texture:
    """A street at night over azimuth and elevation: dark houses with lit windows, and out-of-focus lamps."""

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sky = mix((0.02, 0.025, 0.07), (0.004, 0.006, 0.025), smoothstep(0.0, 0.6, y))
        house = cells(x * np.float32(4))
        roof = 0.1 + 0.22 * lattice(house, house, seed)
        i, j = cells(x * np.float32(24)), cells(y * np.float32(24))
        inside = (x * np.float32(24) - i > 0.35) & (y * np.float32(24) - j > 0.4)
        lit = inside & (lattice(i, j, seed + 1) > 0.6)
        wall = mix((0.012, 0.012, 0.022), (0.75, 0.45, 0.12), lit.astype(np.float32) * 0.8)
        colour = mix(sky, wall, (y < roof).astype(np.float32))
        rng = np.random.default_rng(seed + 11)
        for _ in range(14):
            centre, size = (rng.uniform(-0.8, 0.8), rng.uniform(0.01, 0.16)), rng.uniform(0.012, 0.03)
            lamp = rng.choice([[1.0, 0.55, 0.15], [1.0, 0.85, 0.5], [0.25, 0.6, 1.0], [1.0, 0.2, 0.3]])
            disc = 1 - smoothstep(size * 0.85, size, np.hypot(x - centre[0], y - centre[1]))
            colour = colour + disc[:, None] * np.float32(lamp) * np.float32(0.45)
        return colour

    return texture
