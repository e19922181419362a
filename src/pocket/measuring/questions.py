"""What the pocket model is asked, and what else it could have been: prompts with their near misses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from src.pocket.world.objects import COLOURS, OBJECTS
from src.pocket.world.sampling import Scene, named, sample_scene
from src.pocket.world.surroundings import SURROUNDINGS, Surroundings

NUM_CANDIDATES = 16
_NEAR_MISSES_EACH = 4
_SEED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and what a judge chooses from.

    Attributes:
        thing, colour, place: what is asked for.
        candidates: prompts, the right one first.
        is_held_out: whether the generator never saw the combination.
    """

    thing: str
    colour: str
    place: str
    candidates: tuple[str, ...]
    is_held_out: bool

    @property
    def prompt(self) -> str:
        """The right one."""
        return self.candidates[0]


def questions(num: int, *, held_out: bool) -> list[Question]:
    """Questions about photos, all different, the same ones each time.

    Of 16 candidates twelve differ from the right one in exactly one of object, colour and surroundings, three
    in all of them.
    """
    found: dict[str, Question] = {}
    index = 0
    while len(found) < num:
        scene = sample_scene(_SEED, index, held_out=held_out)
        index += 1
        if scene.place is not None and scene.colour:
            question = _question(scene, np.random.default_rng([_SEED, index]), held_out)
            found.setdefault(question.prompt, question)
    return list(found.values())


def place_questions(names: Collection[str]) -> list[Question]:
    """One question for each of the named places: a toy stands there, but in which of all places?"""
    return [
        Question(
            thing="toy",
            colour="",
            place=place.name,
            candidates=tuple(f"a photo of a toy {other.phrase}" for other in (place, *_others(place))),
            is_held_out=False,
        )
        for place in SURROUNDINGS
        if place.name in names
    ]


def _others(place: Surroundings) -> list[Surroundings]:
    return [other for other in SURROUNDINGS if other != place]


def photo_of(thing: str, colour: str, phrase: str) -> str:
    """A prompt that names an object, its colour and a place."""
    return f"a photo of {named(thing, colour)} {phrase}"


def _question(scene: Scene, rng: np.random.Generator, is_held_out: bool) -> Question:
    assert scene.place is not None
    phrases = [place.phrase for place in SURROUNDINGS]
    right = (scene.thing, scene.colour, scene.place.phrase)
    others = [
        [word for word in words if word != right[k]] for k, words in enumerate((OBJECTS, COLOURS, phrases))
    ]
    candidates = [right]
    for k, words in enumerate(others):
        for word in rng.choice(words, size=_NEAR_MISSES_EACH, replace=False):
            near = list(right)
            near[k] = str(word)
            candidates.append((near[0], near[1], near[2]))
    while len(candidates) < NUM_CANDIDATES:
        thing, colour, phrase = (str(rng.choice(words)) for words in others)
        if (thing, colour, phrase) not in candidates:
            candidates.append((thing, colour, phrase))
    return Question(
        thing=scene.thing,
        colour=scene.colour,
        place=scene.place.name,
        candidates=tuple(photo_of(*words) for words in candidates),
        is_held_out=is_held_out,
    )
