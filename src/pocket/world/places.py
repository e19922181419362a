"""Places to take a picture in: floor, backdrop and what else stands about, varied by a seed."""

from __future__ import annotations

import numpy as np

from src.pocket.rendering import textures
from src.pocket.rendering.scene import (
    Kind,
    Material,
    Matrix,
    Solid,
    Stage,
    Texture,
    Triple,
    hex_colour,
    turned,
    vector,
)


def prop(
    kind: Kind,
    colour: str,
    centre: Triple,
    size: Triple,
    *,
    turn: Matrix | None = None,
    specular: float = 0.1,
) -> Solid:
    """A thing that belongs to the place: centre and half sizes in world units, then turned."""
    axes = np.diag(vector(*size)) if turn is None else turn @ np.diag(vector(*size))
    return Solid(
        kind=kind,
        centre=vector(*centre),
        axes=axes.astype(np.float32),
        material=Material(colour=hex_colour(colour), specular=specular),
        in_focus=False,
    )


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(0, 10_000))


def _side(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _wall(colour: str, rng: np.random.Generator) -> Texture:
    return textures.plain(hex_colour(colour), mottle=0.08, scale=0.7, seed=_seed(rng))


def table(rng: np.random.Generator) -> Stage:
    """A wooden table with a cup."""
    side, spot = _side(rng), rng.uniform(1.65, 1.85)
    cup = [
        prop("cylinder", "#e8e4da", (side * spot, 0.7, 0.5), (0.42, 0.42, 0.5), specular=0.4),
        prop("cylinder", "#3a2014", (side * spot, 0.7, 0.985), (0.36, 0.36, 0.02)),
    ]
    return Stage(
        floor=textures.planks(hex_colour("#5e341a"), hex_colour("#b9814c"), seed=_seed(rng)),
        backdrop=_wall("#c9b79a", rng),
        wall_distance=5.0,
        floor_gloss=0.25,
        solids=tuple(cup),
    )


def kitchen(rng: np.random.Generator) -> Stage:
    """Checkered tiles before green cupboards."""
    cupboard = [prop("box", "#7d9b8a", (x, 5.2, 1.3), (0.95, 0.7, 1.3)) for x in (-4, -2, 0, 2, 4)]
    knobs = [prop("sphere", "#d8d2c2", (x + 0.7, 4.45, 1.8), (0.09, 0.09, 0.09)) for x in (-4, -2, 0, 2, 4)]
    return Stage(
        floor=textures.checks(hex_colour("#e9e6df"), hex_colour("#2d2f36"), size=0.9, seed=_seed(rng)),
        backdrop=_wall("#efe4c4", rng),
        wall_distance=6.5,
        floor_gloss=0.4,
        solids=tuple(cupboard + knobs),
    )


def grass(rng: np.random.Generator) -> Stage:
    """A meadow with flowers under a summer sky."""
    return Stage(
        floor=textures.meadow(
            hex_colour("#2c5a1c"), hex_colour("#8fbf48"), hex_colour("#f7f4ec"), seed=_seed(rng)
        ),
        backdrop=textures.landscape(
            hex_colour("#4f8fd6"),
            hex_colour("#d3e6f4"),
            hex_colour("#3d6b2f"),
            hill_height=0.09,
            clouds=0.9,
            seed=_seed(rng),
        ),
        haze=hex_colour("#cfe0e8"),
    )


def beach(rng: np.random.Generator) -> Stage:
    """Sand, the sea and a ball."""
    side = _side(rng)
    ball = prop("sphere", "#f4f1ea", (side * 2.4, 2.6, 0.7), (0.7, 0.7, 0.7), specular=0.4)
    return Stage(
        floor=textures.ripples(hex_colour("#c19a63"), hex_colour("#f0d9a8"), seed=_seed(rng)),
        backdrop=textures.landscape(
            hex_colour("#3f8fdc"),
            hex_colour("#cfeaf5"),
            hex_colour("#1f7a9c"),
            hill_height=0.07,
            roughness=0.0,
            clouds=0.5,
            seed=_seed(rng),
        ),
        haze=hex_colour("#e6ddc6"),
        solids=(ball,),
    )


def snow(rng: np.random.Generator) -> Stage:
    """Snow and fir trees."""
    firs = []
    for _ in range(5):
        x, y, size = rng.uniform(-6, 6), rng.uniform(6, 13), rng.uniform(0.6, 1.0)
        firs.append(prop("cylinder", "#4a3020", (x, y, 0.3), (0.15, 0.15, 0.4)))
        for level in range(3):
            wide = size * (1.2 - 0.3 * level)
            firs.append(prop("cone", "#24503a", (x, y, 1.0 + level * size * 0.8), (wide, wide, 0.8 * size)))
    return Stage(
        floor=textures.plain(hex_colour("#eef3fa"), mottle=0.1, scale=0.8, seed=_seed(rng)),
        backdrop=textures.landscape(
            hex_colour("#8fb4dc"),
            hex_colour("#e9eff6"),
            hex_colour("#b9c8da"),
            hill_height=0.1,
            seed=_seed(rng),
        ),
        haze=hex_colour("#e6edf5"),
        solids=tuple(firs),
    )


def night_street(rng: np.random.Generator) -> Stage:
    """Cobbles before a lit town."""
    cobbles = [hex_colour(c) for c in ("#55524f", "#6a6560", "#474a52", "#5d5550")]
    return Stage(
        floor=textures.stones(cobbles, hex_colour("#17161a"), size=0.55, seed=_seed(rng)),
        backdrop=textures.town_lights(seed=_seed(rng)),
        haze=(0.015, 0.015, 0.03),
        floor_gloss=0.5,
    )


def bookshelf(rng: np.random.Generator) -> Stage:
    """A pile of books on boards before a full bookshelf."""
    side = _side(rng)
    colours = rng.permutation(["#7a2320", "#264a7a", "#c79a3a"])
    pile = [
        prop(
            "box",
            str(colour),
            (side * 2.1, 0.9, 0.16 + 0.3 * k),
            (0.75, 0.5, 0.15),
            turn=turned(rng.uniform(-0.4, 0.4)),
        )
        for k, colour in enumerate(colours)
    ]
    return Stage(
        floor=textures.planks(hex_colour("#3a2416"), hex_colour("#7c5433"), seed=_seed(rng)),
        backdrop=textures.bookshelf(seed=_seed(rng)),
        wall_distance=3.6,
        floor_gloss=0.15,
        solids=tuple(pile),
    )


def sofa(rng: np.random.Generator) -> Stage:
    """A red sofa with a cushion."""
    along_x, red = turned(np.pi / 2, axis=1), "#96434f"
    back = []
    for x in (-2.5, 0.0, 2.5):
        back.append(prop("box", red, (x, 2.6, 0.9), (1.2, 0.4, 0.9)))
        back.append(prop("cylinder", red, (x, 2.6, 1.8), (0.4, 0.4, 1.2), turn=along_x))
    side = _side(rng)
    lean = turned(side * 0.5) @ turned(-0.35, axis=0) @ turned(0.785, axis=1)
    cushion = prop("sphere", "#e0cfa4", (side * 1.9, 1.5, 0.62), (0.62, 0.25, 0.62), turn=lean)
    return Stage(
        floor=textures.plain(hex_colour("#7d4250"), mottle=0.15, scale=8.0, seed=_seed(rng)),
        backdrop=_wall("#b6bcae", rng),
        wall_distance=5.0,
        solids=(*back, cushion),
    )


def bricks(rng: np.random.Generator) -> Stage:
    """Paving slabs by a brick wall."""
    reds = [hex_colour(c) for c in ("#8d4430", "#a2573d", "#7a3a2c", "#b06a4b")]
    greys = [hex_colour(c) for c in ("#8f8c86", "#9a968f", "#85827d")]
    return Stage(
        floor=textures.bricks(greys, hex_colour("#5f5c58"), size=(1.6, 1.6), seed=_seed(rng)),
        backdrop=textures.bricks(reds, hex_colour("#b5aa9c"), size=(0.95, 0.36), seed=_seed(rng)),
        wall_distance=3.4,
    )


def bed(rng: np.random.Generator) -> Stage:
    """A striped blanket and two pillows."""
    pillows = [
        prop("sphere", "#eef0f4", (x, 3.0, 0.5), (1.45, 0.42, 0.7), turn=turned(-0.5, axis=0))
        for x in (-1.6, 1.4)
    ]
    blues = [hex_colour(c) for c in ("#31507f", "#e6e8ec", "#31507f", "#6d8fb8")]
    return Stage(
        floor=textures.stripes(blues, width=0.5, seed=_seed(rng)),
        backdrop=_wall("#d8cfc6", rng),
        wall_distance=4.4,
        solids=tuple(pillows),
    )


def leaves(rng: np.random.Generator) -> Stage:
    """Fallen leaves among tree trunks."""
    leaves = [hex_colour(c) for c in ("#c4661f", "#d99a2b", "#9c3b1e", "#7a5a23", "#b58a2a", "#6b2f1a")]
    trunks = [
        prop("cylinder", "#3f2f25", (float(x), float(rng.uniform(5, 9)), 3.5), (0.35, 0.35, 3.5))
        for x in rng.uniform(-5, 5, size=4)
    ]
    return Stage(
        floor=textures.stones(leaves, hex_colour("#5a3413"), size=0.3, seed=_seed(rng)),
        backdrop=textures.landscape(
            hex_colour("#b9c7cf"),
            hex_colour("#e8dcc4"),
            hex_colour("#a5682a"),
            hill_height=0.4,
            roughness=6.0,
            seed=_seed(rng),
        ),
        haze=hex_colour("#dcc9a8"),
        solids=tuple(trunks),
    )


def studio(rng: np.random.Generator) -> Stage:
    """Pink paper."""
    paper = textures.plain(hex_colour("#e6a7b4"), mottle=0.04, scale=0.4, seed=_seed(rng))
    return Stage(floor=paper, backdrop=paper, wall_distance=4.5)


def playroom(rng: np.random.Generator) -> Stage:
    """A carpet with coloured blocks."""
    colours = ["#c8352f", "#2f62b5", "#3c9a4c", "#e3c12f", "#7a4aa0"]
    blocks = []
    for k in range(5):
        x, y = (-1) ** k * rng.uniform(1.5, 2.5), rng.uniform(0.5, 3.2)
        size = rng.uniform(0.3, 0.45)
        turn = turned(rng.uniform(0, 1.5))
        blocks.append(prop("box", colours[k], (x, y, size), (size, size, size), turn=turn, specular=0.3))
    return Stage(
        floor=textures.plain(hex_colour("#a9b7a6"), mottle=0.25, scale=10.0, seed=_seed(rng)),
        backdrop=textures.dots(hex_colour("#f3ead2"), hex_colour("#e2b27a")),
        wall_distance=4.8,
        solids=tuple(blocks),
    )


def bathroom(rng: np.random.Generator) -> Stage:
    """Blue floor tiles and a bottle."""
    side = _side(rng)
    bottle = [
        prop("sphere", "#d9dfe6", (side * 1.9, 1.2, 0.75), (0.35, 0.35, 0.75), specular=0.5),
        prop("cylinder", "#3f6f8f", (side * 1.9, 1.2, 1.55), (0.16, 0.16, 0.16)),
    ]
    return Stage(
        floor=textures.checks(hex_colour("#6f9fb2"), hex_colour("#7fb0c2"), size=0.5, seed=_seed(rng)),
        backdrop=textures.checks(
            hex_colour("#e9eff0"), hex_colour("#dfe8ea"), size=0.6, joint=0.04, seed=_seed(rng)
        ),
        wall_distance=4.0,
        floor_gloss=0.5,
        solids=tuple(bottle),
    )
