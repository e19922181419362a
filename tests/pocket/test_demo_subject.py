from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from src.pocket.demo_subject import NUM_PHOTOS, PLACEHOLDER, draw, encode_heic, photo_list, write_demo_set
from src.pocket.rendering.render import render
from src.pocket.rendering.scene import Camera, Light, Material, Solid, Stage, hex_colour, turned, vector
from src.pocket.world import places
from src.pocket.world.surroundings import SURROUNDINGS


def test_the_set_is_large_varied_and_captioned() -> None:
    photos = photo_list()
    assert len(photos) == NUM_PHOTOS >= 50
    assert all(min(photo.width, photo.height) >= 512 for photo in photos)
    assert len({(photo.width, photo.height) for photo in photos}) >= 3
    assert sum(photo.orientation != 1 for photo in photos) >= 8
    captions = [photo.caption for photo in photos]
    assert len(set(captions)) == len(captions)
    for photo in photos:
        assert PLACEHOLDER in photo.caption
        assert photo.surroundings.phrase in photo.caption
        from_the_front = photo.view.phrase == "facing the camera"
        assert (photo.view.phrase in photo.caption) != from_the_front, "what goes without saying"
        assert from_the_front or photo.mood.phrase in photo.caption
        assert "|" not in photo.caption
    fronts = [photo.view.phrase == "facing the camera" for photo in photos]
    assert len(photos) / 4 < sum(fronts) < len(photos) / 2


def test_pixels_are_the_same_each_time_and_the_toy_is_in_the_picture() -> None:
    for photo in photo_list(14):
        first = draw(photo, scale=0.1)
        assert photo.index > 1 or np.array_equal(first.pixels, draw(photo, scale=0.1).pixels)
        assert first.pixels.shape == (round(photo.height * 0.1), round(photo.width * 0.1), 3)
        assert 0.02 < first.subject.mean() < 0.7
        assert first.pixels.std() > 15


def test_files_are_heic_and_readers_see_them_upright(tmp_path: Path) -> None:
    photos = write_demo_set(tmp_path, num_photos=4, scale=0.2)
    assert any(photo.orientation != 1 for photo in photos)
    lines = (tmp_path / "captions.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{photo.name}|{photo.caption}" for photo in photos]
    for photo in photos:
        heif = pillow_heif.open_heif(tmp_path / photo.name)
        expected = draw(photo, scale=0.2).pixels.astype(int)
        found = np.asarray(heif.to_pillow()).astype(int)
        assert found.shape == expected.shape
        # Lossy, but clearly this picture and not a turned one.
        assert np.abs(found - expected).mean() < 8 < np.abs(found[::-1, ::-1] - expected).mean()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_really_written(orientation: int) -> None:
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[:32, :48] = 255
    heif = pillow_heif.open_heif(io.BytesIO(encode_heic(pixels, orientation)))
    image = heif.to_pillow()
    assert image.info.get("original_orientation") == (None if orientation == 1 else orientation)
    assert image.size == (96, 64)
    assert image.getpixel((10, 10))[0] > 200
    assert image.getpixel((90, 60))[0] < 50
    assert image.getexif()[0x010F] == "Darkroom"


def stage() -> Stage:
    grey = (0.5, 0.5, 0.5)
    return Stage(
        floor=lambda x, y: np.broadcast_to(np.float32(0.5), (*x.shape, 3)),
        backdrop=lambda x, y: np.broadcast_to(np.float32(0.0), (*x.shape, 3)),
        haze=grey,
    )


@pytest.mark.parametrize("kind", ["sphere", "box", "cylinder", "cone"])
def test_each_shape_is_where_it_should_be(kind: str) -> None:
    solid = Solid(
        kind=kind,  # type: ignore[arg-type]
        centre=vector(0, 0, 1),
        axes=np.eye(3, dtype=np.float32),
        material=Material(colour=hex_colour("#ff0000")),
    )
    camera = Camera(position=vector(0, -10, 1), target=vector(0, 0, 1), field_of_view=2 * np.arctan(0.3))
    light = Light(direction=vector(0, -0.6, 0.8), key=(1.0, 1.0, 1.0), sky=(0.3,) * 3, bounce=(0.1,) * 3)
    drawn = render([solid], stage=stage(), camera=camera, light=light, width=60, height=60)
    # Seen from 10 away a unit shape is about 20 of 60 pixels high; a box's near side 9 away a little more.
    rows, columns = np.flatnonzero(drawn.subject.any(1)), np.flatnonzero(drawn.subject.any(0))
    assert 19 <= np.ptp(rows) + 1 <= 24
    assert 19 <= np.ptp(columns) + 1 <= 24
    assert abs(rows.mean() - 29.5) <= 1.5
    assert abs(columns.mean() - 29.5) <= 1
    share = drawn.subject.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    assert share == pytest.approx({"sphere": 0.785, "cone": 0.52}.get(kind, 1.0), abs=0.08)
    red = drawn.pixels[drawn.subject].mean(0)
    assert red[0] > 2 * red[1]


def test_shadows_fall_away_from_the_light() -> None:
    ball = Solid(
        kind="sphere",
        centre=vector(0, 0, 1),
        axes=np.eye(3, dtype=np.float32),
        material=Material(colour=(0.5, 0.5, 0.5)),
    )
    camera = Camera(position=vector(0, -0.1, 12), target=vector(0, 0, 0))
    light = Light(direction=vector(-0.7, 0, 0.7), key=(1.0, 1.0, 1.0), sky=(0.2,) * 3, bounce=(0.1,) * 3)
    drawn = render([ball], stage=stage(), camera=camera, light=light, width=80, height=80)
    floor = np.where(drawn.subject, 255, drawn.pixels[..., 0])
    row = floor[40]
    assert row[40:].min() < 0.75 * row[:40].min()


def test_turned_is_a_rotation() -> None:
    for axis in range(3):
        matrix = turned(0.7, axis=axis)
        assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)


def test_each_place_is_used_once() -> None:
    used = {place.stage for place in SURROUNDINGS}
    assert len(used) == len(SURROUNDINGS)
    assert all(stage.__module__ == places.__name__ for stage in used)


def test_the_demo_set_in_the_repository_is_this_one() -> None:
    """What DVC tracks is what the renderer draws; checked on two photos, by content."""
    from src.data.data_manager import PROJECT_ROOT, DataManager

    assert DataManager(companions=(), progress=False).download_data()
    folder = PROJECT_ROOT / "data" / "demo"
    photos = photo_list()
    assert len(list(folder.glob("*.HEIC"))) == len(photos)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3 << 20
    for photo in (photos[0], photos[13]):
        found = np.asarray(pillow_heif.open_heif(folder / photo.name).to_pillow().resize((64, 64)))
        drawn = np.asarray(Image.fromarray(draw(photo, scale=0.4).pixels).resize((64, 64)))
        assert np.abs(found.astype(int) - drawn.astype(int)).mean() < 6
    captions = (folder / "captions.txt").read_text(encoding="utf-8").splitlines()
    assert captions == [f"{photo.name}|{photo.caption}" for photo in photos]
