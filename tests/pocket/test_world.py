"""The pocket world: what captions say is what is drawn, and what is held out stays out."""

import colorsys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from src.pocket.world.objects import COLOURS, OBJECTS
from src.pocket.world.sampling import (
    ANY_TOY,
    VIEWS,
    draw,
    elsewhere,
    is_held_out,
    named,
    photographed,
    sample_scene,
)
from src.pocket.world.shades import varied
from src.pocket.world.surroundings import SURROUNDINGS

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
        names = [named(thing, scene.colour) for thing in (scene.thing, ANY_TOY)]
        assert any(f"{name} " in f"{scene.caption} " for name in names)
        if scene.place is None:
            assert scene.caption == f"a pictogram of {names[0]}"
        else:
            assert scene.place.phrase in scene.caption or scene.place.short_phrase in scene.caption


def test_objects_are_named_with_article_and_colour() -> None:
    assert named("car", "orange") == "an orange car"
    assert named("car", "red") == "a red car"
    assert named("umbrella", "") == "an umbrella"


def test_everything_comes_up(scenes) -> None:
    assert {scene.thing for scene in scenes} == set(OBJECTS)
    assert {scene.colour for scene in scenes} == {*COLOURS, ""}
    assert {scene.place.name for scene in scenes if scene.place} == {place.name for place in SURROUNDINGS}
    assert 0.08 < sum(scene.place is None for scene in scenes) / NUM_SCENES < 0.22
    assert not any("sks" in scene.caption.lower() for scene in scenes)
    assert 0.02 < sum(ANY_TOY in scene.caption.split() for scene in scenes) / NUM_SCENES < 0.1
    places = [scene for scene in scenes if scene.place]
    is_short = [scene.place.short_phrase in scene.caption for scene in places]
    assert 0.1 < sum(is_short) / len(places) < 0.5
    assert len({scene.caption for scene in scenes}) > NUM_SCENES * 0.7


def test_the_demo_subjects_colour_is_nowhere() -> None:
    """The toy is teal; a fine-tune has to bring that colour."""
    rng = np.random.default_rng(0)
    for colour in [*COLOURS] * 5 + [""] * 300:
        hue, saturation, _ = colorsys.rgb_to_hsv(*varied(rng, colour))
        assert saturation < 0.09 or not 0.43 < hue < 0.55, (colour, hue)
    teal = colorsys.rgb_to_hsv(0x17 / 255, 0xB3 / 255, 0xA6 / 255)[0]
    assert 0.45 < teal < 0.53


def test_elsewhere_the_object_stays_and_the_place_changes() -> None:
    scenes = [sample_scene(0, index) for index in range(60)]
    for index, scene in enumerate(scenes):
        other = elsewhere(scene, seed=0, index=index)
        assert (other.thing, other.colour, other.seed) == (scene.thing, scene.colour, scene.seed)
        if scene.place is None:
            assert other.place is None
        else:
            assert other.place is not scene.place
            assert other.mood in other.place.moods
            assert not is_held_out(other.thing, other.colour, other.place.name)
    assert elsewhere(scenes[0], seed=0, index=0) == elsewhere(scenes[0], seed=0, index=0)


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


def test_captions_of_views_and_places_hold_for_the_pixels() -> None:
    """On average over scenes, since objects differ: where the object is, how large, and how bright the picture."""
    middle, area, brightness = defaultdict(list), defaultdict(list), defaultdict(list)
    for scene in (sample_scene(4, index) for index in range(160)):
        if scene.place is None:
            continue
        made = photographed(scene, size=32)
        middle[scene.view.phrase].append(np.nonzero(made.subject)[1].mean() / 32)
        area[scene.view.phrase].append(made.subject.mean())
        brightness[scene.place.name].append(made.pixels.mean())
        for name, found in (("left", scene.view.side < 0), ("right", scene.view.side > 0)):
            assert (f"on the {name}" in scene.caption) <= found
    assert max(middle["on the left"]) < 0.5 < min(middle["on the right"])
    assert (
        np.mean(area["close up"])
        > 1.3 * np.mean(area[""])
        > 1.3 * 1.3 * np.mean(area["small in the picture"])
    )
    assert np.mean(brightness["snow"]) > 1.5 * np.mean(brightness["street"])


def test_another_view_is_another_picture() -> None:
    scene = next(s for s in (sample_scene(5, index) for index in range(50)) if s.thing == "car" and s.place)
    pictures = [draw(replace(scene, view=view), size=32).astype(int) for view in VIEWS]
    for k, one in enumerate(pictures):
        for j, other in enumerate(pictures[:k]):
            is_front = {VIEWS[k].phrase, VIEWS[j].phrase} == {"", "facing the camera"}
            assert is_front or np.abs(one - other).mean() > 2, (VIEWS[k].phrase, VIEWS[j].phrase)


def test_pictograms_are_flat_with_outlines() -> None:
    scene = next(s for s in (sample_scene(2, index) for index in range(500)) if s.place is None)
    pixels = draw(scene, size=64)
    assert (pixels[:2] == 255).all(), "a white margin"
    assert (pixels.max(axis=-1) < 40).mean() > 0.01, "black outlines"
    assert (pixels == 255).all(axis=-1).mean() > 0.3
