"""The pocket world: photos and pictograms of objects x colours x places x views, each with its caption.

What is drawn is a pure function of (seed, index). Some combinations are never drawn for training, so that a
model can be asked for what it never saw: about a tenth of all (object, colour) pairs, and of the
(object, colour, place) triples of the others. Some objects have a colour without a name, as most things have,
and some are just called a toy. Beside them are toys of random parts (creatures.py). No object is teal, the
demo subject's colour.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from src.pocket.rendering.render import Rendering, render
from src.pocket.rendering.scene import Camera, Solid, turned, vector
from src.pocket.world.creatures import described, random_creature
from src.pocket.world.objects import COLOURS, OBJECTS, with_article
from src.pocket.world.pictogram import draw_pictogram
from src.pocket.world.shades import varied
from src.pocket.world.surroundings import SURROUNDINGS, Mood, Surroundings

PICTOGRAM_SHARE = 0.15
_TOY_PICTOGRAM_SHARE = 0.12
ANY_TOY = "toy"
_UNNAMED_COLOUR_SHARE, _ANY_TOY_SHARE, _SHORT_PHRASE_SHARE = 0.1, 0.06, 0.3
_FIELD_OF_VIEW = 0.62


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where the object is in the picture and from where it is seen. `phrase` may be empty."""

    phrase: str
    side: float = 0.0
    closeness: float = 1.0
    elevation: float = 0.16
    yaw: float = 0.0


VIEWS: tuple[View, ...] = (
    View(phrase=""),
    View(phrase="close up", closeness=1.35),
    View(phrase="small in the picture", closeness=0.62),
    View(phrase="on the left", side=-0.85, closeness=0.85),
    View(phrase="on the right", side=0.85, closeness=0.85),
    View(phrase="seen from above", elevation=0.75),
    View(phrase="turned to the left", yaw=-0.75),
    View(phrase="turned to the right", yaw=0.75),
    View(phrase="facing the camera"),
    View(phrase="seen from behind", yaw=2.9),
    View(phrase="seen from a low angle", elevation=0.02),
)
_OPENINGS = ("a photo of {thing}", "a picture of {thing}", "{thing}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture before it is drawn.

    Attributes:
        thing: the object's name.
        colour: its colour's name, empty if it has one without a name.
        place: where it is, None for a pictogram.
        mood: the light, None for a pictogram.
        view: position, size and angle.
        caption: what a model gets to read.
        seed: of everything that the caption does not say.
    """

    thing: str
    colour: str
    place: Surroundings | None
    mood: Mood | None
    view: View
    caption: str
    seed: int


def is_held_out(thing: str, colour: str, place: str | None) -> bool:
    """Whether training never sees a combination, as photo or as pictogram; no unnamed colour is held out."""
    if not colour:
        return False
    if _share(thing, colour) < 1 / 16:
        return True
    return place is not None and _share(thing, colour, place) < 1 / 10


def _share(*words: str) -> float:
    digest = hashlib.sha256("|".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample_scene(seed: int, index: int, *, held_out: bool = False) -> Scene:
    """Draws the words of one scene.

    Args:
        seed: of the whole set.
        index: of the scene in it.
        held_out: only combinations that training never sees, instead of only the others.
    """
    rng = np.random.default_rng([seed, index])
    things, colours = list(OBJECTS), list(COLOURS)
    while True:
        thing, colour = things[rng.integers(len(things))], colours[rng.integers(len(colours))]
        is_pictogram = rng.random() < PICTOGRAM_SHARE
        place = None if is_pictogram else SURROUNDINGS[rng.integers(len(SURROUNDINGS))]
        if is_held_out(thing, colour, None if place is None else place.name) == held_out:
            break
    called = thing
    if not held_out and place is not None:
        colour = "" if rng.random() < _UNNAMED_COLOUR_SHARE else colour
        called = ANY_TOY if rng.random() < _ANY_TOY_SHARE else thing
    mood = None if place is None else place.moods[rng.integers(len(place.moods))]
    view = VIEWS[rng.integers(len(VIEWS))] if rng.random() < 0.7 else VIEWS[0]
    # From a generator of its own: words that nothing else depends on.
    is_short = np.random.default_rng([seed, index, 1]).random() < _SHORT_PHRASE_SHARE
    where = "" if place is None else place.short_phrase if is_short else place.phrase
    return Scene(
        thing=thing,
        colour=colour,
        place=place,
        mood=mood,
        view=view,
        caption=_caption(rng, named(called, colour), where, mood, view),
        seed=int(rng.integers(2**31)),
    )


def sample_toy_scene(seed: int, index: int) -> Scene:
    """Draws the words of one scene with a toy of random parts.

    Args:
        seed: of the whole set.
        index: of the scene in it.
    """
    rng = np.random.default_rng([seed, index, 3])
    toy_seed = int(rng.integers(2**31))
    creature = random_creature(np.random.default_rng(toy_seed))
    is_pictogram = rng.random() < _TOY_PICTOGRAM_SHARE
    place = None if is_pictogram else SURROUNDINGS[rng.integers(len(SURROUNDINGS))]
    mood = None if place is None else place.moods[rng.integers(len(place.moods))]
    view = VIEWS[rng.integers(len(VIEWS))] if rng.random() < 0.6 else VIEWS[0]
    is_short = rng.random() < _SHORT_PHRASE_SHARE
    where = "" if place is None else place.short_phrase if is_short else place.phrase
    return Scene(
        thing=ANY_TOY,
        colour=creature.colour,
        place=place,
        mood=mood,
        view=view,
        caption=_caption(rng, described(rng, creature), where, mood, view),
        seed=toy_seed,
    )


def elsewhere(scene: Scene, *, seed: int, index: int) -> Scene:
    """The same object in the same shade, taken again in another place, light and view."""
    rng = np.random.default_rng([seed, index, 2])
    view = VIEWS[rng.integers(len(VIEWS))]
    if scene.place is None:
        return replace(scene, view=view)
    others = [
        place
        for place in SURROUNDINGS
        if place is not scene.place and not is_held_out(scene.thing, scene.colour, place.name)
    ]
    place = others[rng.integers(len(others))]
    return replace(
        scene, place=place, mood=place.moods[rng.integers(len(place.moods))], view=view, caption=""
    )


def named(thing: str, colour: str) -> str:
    """The object with its article and, unless it is empty, its colour: "an orange car"."""
    return with_article(f"{colour} {thing}".strip())


def _caption(rng: np.random.Generator, name: str, where: str, mood: Mood | None, view: View) -> str:
    if mood is None:
        return f"a pictogram of {name}"
    opening = _OPENINGS[rng.integers(len(_OPENINGS))].format(thing=name)
    words = [f"{opening} {where}"]
    # Not every caption says everything, so that short prompts work as well.
    words += [view.phrase] if view.phrase and rng.random() < 0.85 else []
    words += [mood.phrase] if rng.random() < 0.5 else []
    return ", ".join(words)


def draw(scene: Scene, *, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Draws a scene as a square picture of `size` pixels a side."""
    if scene.place is not None:
        return photographed(scene, size=size).pixels
    solids = _solids(scene, np.random.default_rng(scene.seed))
    return draw_pictogram(standing(solids, yaw=0.35 * scene.view.yaw), size=size)


def photographed(scene: Scene, *, size: int) -> Rendering:
    """Renders a scene that has a place, with the pixels that show its object."""
    assert scene.place is not None
    assert scene.mood is not None
    rng = np.random.default_rng(scene.seed)
    solids = _solids(scene, rng)
    subject = standing(solids, yaw=scene.view.yaw + rng.uniform(-0.3, 0.3), scale=rng.uniform(0.92, 1.08))
    azimuth = float(rng.choice([-1, 1]) * rng.uniform(0.35, 1.25))
    return render(
        subject,
        stage=scene.place.stage(rng),
        camera=_camera(rng, subject, scene.view),
        light=scene.mood.light(azimuth=azimuth, bounce=scene.place.bounce),
        width=size,
        height=size,
    )


def _solids(scene: Scene, rng: np.random.Generator) -> list[Solid]:
    is_toy = scene.thing == ANY_TOY
    return random_creature(rng).solids if is_toy else OBJECTS[scene.thing](varied(rng, scene.colour))


def standing(solids: list[Solid], *, yaw: float = 0.0, scale: float = 1.0) -> list[Solid]:
    """The solids turned about the vertical axis, centred, their lowest point on the floor."""
    moved = [solid.moved(turned(yaw), vector(0, 0, 0), scale) for solid in solids]
    low = np.min([solid.centre - solid.reach() for solid in moved], axis=0)
    high = np.max([solid.centre + solid.reach() for solid in moved], axis=0)
    shift = vector(-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2])
    return [solid.moved(np.eye(3, dtype=np.float32), shift, 1.0) for solid in moved]


def _camera(rng: np.random.Generator, subject: list[Solid], view: View) -> Camera:
    top = max(solid.centre[2] + solid.reach()[2] for solid in subject)
    distance = 5.6 / (view.closeness * rng.uniform(0.93, 1.07))
    elevation = view.elevation + rng.uniform(-0.08, 0.12)
    swing = rng.uniform(-0.12, 0.12)
    target = vector(-view.side + rng.uniform(-0.15, 0.15), 0, top / 2 + rng.uniform(-0.12, 0.2))
    direction = vector(
        math.cos(elevation) * math.sin(swing), -math.cos(elevation) * math.cos(swing), math.sin(elevation)
    )
    return Camera(
        position=target + np.float32(distance) * direction,
        target=target,
        field_of_view=_FIELD_OF_VIEW,
        roll=float(rng.uniform(-0.06, 0.06)),
    )
