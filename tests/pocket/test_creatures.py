"""Toys of random parts: many kinds, captions that are true, and never the demo subject."""

import colorsys

import numpy as np
import pytest

from src.pocket.demo_subject import PLACEHOLDER
from src.pocket.world.creatures import described, random_creature
from src.pocket.world.objects import COLOURS
from src.pocket.world.sampling import ANY_TOY, draw, sample_toy_scene

NUM = 300


@pytest.fixture(scope="module")
def creatures():
    return [random_creature(np.random.default_rng(seed)) for seed in range(NUM)]


def test_all_kinds_of_parts_come_up_in_colours_and_without(creatures) -> None:
    said = [feature for creature in creatures for feature in creature.features]
    for part in (
        "belly",
        "one eye",
        "three eyes",
        "a big and a small eye",
        "antennae",
        "horns",
        "ears",
        "hat",
    ):
        assert any(part in feature for feature in said), part
    for part in ("mittens", "boots", "a striped tail", "a red tail", "orange boots", "an orange tail"):
        assert part in said
    assert {creature.colour for creature in creatures} == {*COLOURS, ""}
    assert len({creature.features for creature in creatures}) > 0.95 * NUM


def test_nothing_on_them_is_teal(creatures) -> None:
    for creature in creatures:
        for solid in creature.solids:
            hue, saturation, _ = colorsys.rgb_to_hsv(*np.asarray(solid.material.colour).tolist())
            assert saturation < 0.15 or not 0.42 <= hue <= 0.56


def test_a_description_names_only_what_is_there(creatures) -> None:
    rng = np.random.default_rng(0)
    words = [described(rng, creature) for creature in creatures]
    for text, creature in zip(words, creatures, strict=True):
        name, _, listed = text.partition(" with ")
        assert name in (f"a {creature.colour} toy", f"an {creature.colour} toy", "a toy")
        for feature in creature.features:
            listed = listed.replace(feature, "", 1)
        assert listed.replace(",", "").replace("and", "").strip() == ""
    assert 0.3 < sum(" with " in text for text in words) / NUM < 0.7
    assert any(text == "a toy" for text in words)


def test_a_scene_shows_the_toy_that_its_caption_is_about() -> None:
    scenes = [sample_toy_scene(0, index) for index in range(NUM)]
    assert scenes[5] == sample_toy_scene(0, 5) != sample_toy_scene(1, 5)
    assert all(scene.thing == ANY_TOY and "toy" in scene.caption for scene in scenes)
    assert not any(PLACEHOLDER.lower() in scene.caption.lower() for scene in scenes)
    is_pictogram = [scene.place is None for scene in scenes]
    assert 0.06 < sum(is_pictogram) / NUM < 0.2
    for scene in (scenes[is_pictogram.index(True)], scenes[is_pictogram.index(False)]):
        picture = draw(scene, size=32)
        assert np.array_equal(picture, draw(scene, size=32))
        assert picture.std() > 15
        # Drawn from the same seed, so the caption's colour is the body's.
        creature = random_creature(np.random.default_rng(scene.seed))
        assert creature.colour == scene.colour
