"""The pocket world: what captions say is what is drawn, and what is held out stays out."""

import numpy as np
import pytest

from src.pocket.objects import COLOURS, OBJECTS
from src.pocket.surroundings import SURROUNDINGS
from src.pocket.world import draw, is_held_out, sample_scene

NUM_SCENES = 400


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(0, index) for index in range(NUM_SCENES)]


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    first, again, other = sample_scene(3, 7), sample_scene(3, 7), sample_scene(3, 8)
    assert first == again
    assert first != other
    assert np.array_equal(draw(first, size=24), draw(again, size=24))


def test_captions_say_what_is_drawn(scenes) -> None:
    for scene in scenes:
        article = "an" if scene.colour == "orange" else "a"
        assert f"{article} {scene.colour} {scene.thing}" in scene.caption
        if scene.place is None:
            assert scene.caption.startswith("a pictogram of")
        else:
            assert scene.place.phrase in scene.caption


def test_everything_comes_up(scenes) -> None:
    assert {scene.thing for scene in scenes} == set(OBJECTS)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {scene.place.name for scene in scenes if scene.place} == {place.name for place in SURROUNDINGS}
    assert 0.08 < sum(scene.place is None for scene in scenes) / NUM_SCENES < 0.22
    assert not any("sks" in scene.caption or "toy" in scene.caption for scene in scenes)


def test_held_out_combinations_never_come_up_in_training(scenes) -> None:
    def combination(scene):
        return scene.thing, scene.colour, scene.place.name if scene.place else None

    assert not any(is_held_out(*combination(scene)) for scene in scenes)
    unseen = [sample_scene(0, index, held_out=True) for index in range(60)]
    assert all(is_held_out(*combination(scene)) for scene in unseen)
    assert {scene.thing for scene in unseen} <= set(OBJECTS)
    pairs = [(thing, colour) for thing in OBJECTS for colour in COLOURS]
    held_out_pairs = [pair for pair in pairs if is_held_out(*pair, None)]
    assert 4 <= len(held_out_pairs) <= 20
    # Every word is known to a model from other combinations.
    for names, position in ((OBJECTS, 0), (COLOURS, 1)):
        for name in names:
            assert sum(pair[position] == name for pair in held_out_pairs) <= len(pairs) / len(names) / 2


@pytest.mark.parametrize("thing", OBJECTS)
def test_the_colour_is_seen(thing) -> None:
    """The same scene in red and in blue differs where the object is, and in that direction."""

    def reddish(colour):
        scene = next(s for s in (sample_scene(1, i) for i in range(5000)) if s.thing == thing and s.place)
        pixels = draw(
            type(scene)(**{name: getattr(scene, name) for name in scene.__slots__} | {"colour": colour}),
            size=32,
        ).astype(int)
        return (pixels[..., 0] - pixels[..., 2]).mean()

    assert reddish("red") > reddish("blue") + 4


def test_pictograms_are_flat_with_outlines() -> None:
    scene = next(s for s in (sample_scene(2, index) for index in range(500)) if s.place is None)
    pixels = draw(scene, size=64)
    assert (pixels[:2] == 255).all(), "a white margin"
    assert (pixels.max(axis=-1) < 40).mean() > 0.01, "black outlines"
    assert (pixels == 255).all(axis=-1).mean() > 0.3
