"""The surroundings a caption can name: a place, its words, and the light found there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.pocket.rendering.scene import Colour, Light, Stage, vector
from src.pocket.world import places


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """A kind of light: how a caption calls it, and its colours. `height` is the key light's elevation."""

    phrase: str
    key: Colour
    sky: Colour
    height: float
    softness: float

    def light(self, *, azimuth: float, bounce: Colour) -> Light:
        """The light when the key comes from `azimuth` (0: behind the camera, positive: from the right)."""
        flat = np.cos(self.height)
        direction = vector(flat * np.sin(azimuth), -flat * np.cos(azimuth), np.sin(self.height))
        return Light(direction=direction, key=self.key, sky=self.sky, bounce=bounce, softness=self.softness)


DAYLIGHT = Mood(
    phrase="in soft daylight", key=(0.9, 0.87, 0.82), sky=(0.5, 0.53, 0.58), height=0.95, softness=4.0
)
SUN = Mood(
    phrase="in bright sunlight", key=(1.15, 1.08, 0.95), sky=(0.3, 0.36, 0.46), height=0.85, softness=14.0
)
EVENING = Mood(
    phrase="in warm evening light", key=(1.15, 0.72, 0.4), sky=(0.3, 0.28, 0.36), height=0.45, softness=8.0
)
LAMP = Mood(
    phrase="under a warm lamp", key=(1.25, 0.95, 0.6), sky=(0.3, 0.25, 0.21), height=1.05, softness=5.0
)
OVERCAST = Mood(
    phrase="on a grey day", key=(0.35, 0.37, 0.4), sky=(0.55, 0.58, 0.63), height=1.2, softness=2.0
)
STREET_LAMP = Mood(
    phrase="under a street lamp", key=(0.95, 0.66, 0.34), sky=(0.1, 0.12, 0.22), height=0.9, softness=9.0
)
FLASH = Mood(phrase="with a flash", key=(1.0, 1.0, 1.02), sky=(0.16, 0.16, 0.18), height=0.35, softness=14.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """One place. `phrase` and `short_phrase` complete "a photo of a toy ..."; `stage` draws it, seeded."""

    name: str
    phrase: str
    short_phrase: str
    moods: tuple[Mood, ...]
    bounce: Colour
    stage: Callable[[np.random.Generator], Stage]


SURROUNDINGS: tuple[Surroundings, ...] = (
    Surroundings(
        name="table",
        phrase="on a wooden table next to a cup",
        short_phrase="on a wooden table",
        moods=(DAYLIGHT, LAMP, EVENING),
        bounce=(0.25, 0.17, 0.1),
        stage=places.table,
    ),
    Surroundings(
        name="grass",
        phrase="in the grass",
        short_phrase="on the grass",
        moods=(SUN, OVERCAST, EVENING),
        bounce=(0.14, 0.22, 0.08),
        stage=places.grass,
    ),
    Surroundings(
        name="bookshelf",
        phrase="in front of a bookshelf",
        short_phrase="by the bookshelf",
        moods=(LAMP, DAYLIGHT, FLASH),
        bounce=(0.18, 0.12, 0.08),
        stage=places.bookshelf,
    ),
    Surroundings(
        name="beach",
        phrase="on a sandy beach by the sea",
        short_phrase="on the beach",
        moods=(SUN, EVENING, OVERCAST),
        bounce=(0.36, 0.3, 0.2),
        stage=places.beach,
    ),
    Surroundings(
        name="kitchen",
        phrase="on a checkered kitchen floor",
        short_phrase="in the kitchen",
        moods=(DAYLIGHT, LAMP, FLASH),
        bounce=(0.25, 0.25, 0.25),
        stage=places.kitchen,
    ),
    Surroundings(
        name="snow",
        phrase="in the snow among fir trees",
        short_phrase="in the snow",
        moods=(OVERCAST, SUN, EVENING),
        bounce=(0.42, 0.45, 0.5),
        stage=places.snow,
    ),
    Surroundings(
        name="sofa",
        phrase="on a red sofa with a cushion",
        short_phrase="on the sofa",
        moods=(LAMP, DAYLIGHT, EVENING),
        bounce=(0.22, 0.12, 0.13),
        stage=places.sofa,
    ),
    Surroundings(
        name="street",
        phrase="on a cobbled street at night",
        short_phrase="on the street at night",
        moods=(STREET_LAMP, FLASH),
        bounce=(0.08, 0.07, 0.07),
        stage=places.night_street,
    ),
    Surroundings(
        name="bricks",
        phrase="on the pavement by a brick wall",
        short_phrase="by a brick wall",
        moods=(SUN, OVERCAST, EVENING),
        bounce=(0.22, 0.2, 0.18),
        stage=places.bricks,
    ),
    Surroundings(
        name="bed",
        phrase="on a bed with a striped blanket",
        short_phrase="on the bed",
        moods=(DAYLIGHT, LAMP, EVENING),
        bounce=(0.2, 0.22, 0.28),
        stage=places.bed,
    ),
    Surroundings(
        name="leaves",
        phrase="on fallen autumn leaves",
        short_phrase="on autumn leaves",
        moods=(EVENING, OVERCAST, SUN),
        bounce=(0.28, 0.16, 0.07),
        stage=places.leaves,
    ),
    Surroundings(
        name="studio",
        phrase="on a plain pink background",
        short_phrase="on a pink background",
        moods=(DAYLIGHT, FLASH),
        bounce=(0.4, 0.28, 0.3),
        stage=places.studio,
    ),
    Surroundings(
        name="playroom",
        phrase="in a playroom with coloured blocks",
        short_phrase="in the playroom",
        moods=(DAYLIGHT, LAMP, FLASH),
        bounce=(0.25, 0.26, 0.23),
        stage=places.playroom,
    ),
    Surroundings(
        name="bathroom",
        phrase="on blue bathroom tiles",
        short_phrase="in the bathroom",
        moods=(DAYLIGHT, FLASH, LAMP),
        bounce=(0.22, 0.28, 0.32),
        stage=places.bathroom,
    ),
)
