"""What phones and cameras put into a folder: real files, as far as pillow-heif and Pillow can write them.

A depth map and a gain map (HDR) cannot be written as such. They are auxiliary images that only their type tells
apart, and so is alpha, which can: the type is exchanged in the file.
"""

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from src.data.images import load_image, read_header
from src.data.preflight import check_dataset
from src.data.readers.subject import read_subject
from tests.data.pictures import noise_image, quarters

SIZE = (128, 64)
TYPES = {
    "heic": (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:hevc:2015:auxid:2"),
    "avif": (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:com:apple:photo:2020:aux:hdrgainmap"),
}


def with_auxiliary_image(path):
    """A photo with an auxiliary image: in HEIC a depth map, in AVIF Apple's gain map."""
    image = quarters(SIZE).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    image.save(path, quality=90)
    alpha, other = TYPES[path.suffix[1:]]
    data = path.read_bytes()
    assert data.count(alpha) == 1
    path.write_bytes(data.replace(alpha, other.ljust(len(alpha), b"\0")))


def with_gain_map(path):
    """A HEIC photo with Apple's gain map. Its type is longer than alpha's, so boxes grow and pixels move."""
    image = quarters(SIZE).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    image.save(path, quality=90)
    data = bytearray(path.read_bytes())
    (alpha, _), (_, gain_map) = TYPES["heic"], TYPES["avif"]
    assert data.count(alpha) == 1
    at, grown = data.index(alpha), len(gain_map) - len(alpha)
    for kind in (b"meta", b"iprp", b"ipco", b"auxC"):  # each within the one before
        add(data, data.rindex(kind, 0, at) - 4, 4, grown)
    move_pixels(data, data.index(b"iloc"), grown)
    data[at : at + len(alpha)] = gain_map
    path.write_bytes(data)


def move_pixels(data, iloc, distance):
    """Adds to the places of all items that lie in the file itself (ISO/IEC 14496-12, 8.11.3)."""
    version, sizes = data[iloc + 4], data[iloc + 8]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, data[iloc + 9] >> 4
    assert version in (0, 1)
    assert base_size in (0, 4)
    place = iloc + 12
    for _ in range(int.from_bytes(data[iloc + 10 : place], "big")):
        is_in_file = version == 0 or data[place + 3] & 15 == 0
        place += (4 if version == 0 else 6) + base_size
        num_extents = int.from_bytes(data[place : place + 2], "big")
        place += 2
        for _ in range(num_extents):
            if is_in_file:
                add(data, place, offset_size, distance)
            place += offset_size + length_size


def add(data, place, size, number):
    value = int.from_bytes(data[place : place + size], "big") + number
    data[place : place + size] = value.to_bytes(size, "big")


def is_like_the_quarters(image):
    corners = [image.getpixel(place) for place in ((5, 5), (120, 5), (5, 58), (120, 58))]
    return np.abs(np.subtract(corners, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])).max() < 14


@pytest.mark.parametrize("suffix", TYPES)
def test_auxiliary_images_are_no_part_of_the_picture(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    with_auxiliary_image(path)
    image = load_image(path)
    assert image.size == (read_header(path).width, read_header(path).height) == SIZE
    assert is_like_the_quarters(image)


def test_a_gain_map_is_no_part_of_the_picture(tmp_path, monkeypatch):
    with_gain_map(tmp_path / "photo.heic")
    assert is_like_the_quarters(load_image(tmp_path / "photo.heic"))
    assert read_header(tmp_path / "photo.heic").width == SIZE[0]
    monkeypatch.setattr(pillow_heif.options, "AUX_IMAGES", True)
    found = pillow_heif.open_heif(tmp_path / "photo.heic").info["aux"]
    assert list(found) == [TYPES["avif"][1].decode()]


def test_the_auxiliary_image_is_a_depth_map(tmp_path, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "DEPTH_IMAGES", True)
    with_auxiliary_image(tmp_path / "photo.heic")
    assert pillow_heif.open_heif(tmp_path / "photo.heic").info["depth_images"]


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_more_than_eight_bits_are_scaled(tmp_path, bit_depth):
    path = tmp_path / "photo.heic"  # neither library can write an AVIF of more than eight
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None].repeat(64, 0).repeat(3, 2)
    file = pillow_heif.from_bytes("RGB;16", (256, 64), ramp.tobytes())
    file.save(path, quality=-1, chroma=444, bit_depth=bit_depth)
    assert pillow_heif.open_heif(path, convert_hdr_to_8bit=False).info["bit_depth"] == bit_depth
    assert np.abs(np.asarray(load_image(path))[0, :, 0].astype(int) - np.arange(256)).max() <= 2


def test_of_several_pictures_in_a_file_the_primary_one_counts(tmp_path):
    file = pillow_heif.from_pillow(Image.new("RGB", (32, 32)))
    file.add_from_pillow(quarters(SIZE))
    file.save(tmp_path / "burst.heic", primary_index=1)
    assert is_like_the_quarters(load_image(tmp_path / "burst.heic"))
    assert read_header(tmp_path / "burst.heic").width == SIZE[0]


def test_pictures_in_tiles_as_phones_write_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "GRID_TILE_SIZE", 64)
    noise_image(1, (200, 130)).save(tmp_path / "tiles.heic", quality=90)
    assert pillow_heif.open_heif(tmp_path / "tiles.heic").info["tiling"]["num_columns"] > 1
    image = load_image(tmp_path / "tiles.heic")
    assert image.size == (200, 130)
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(noise_image(1, (200, 130))))
    assert difference.mean() < 4


def test_a_folder_as_a_phone_leaves_it(tmp_path):
    """Live photos, edits, previews and the rubbish of two systems: of these only the photos count."""
    kinds = ["HEIC", "heif", "hif", "avif", "JPG", "jpeg", "png", "webp", "tif", "TIFF"]
    for number, kind in enumerate(kinds):
        name = f"IMG_{number:04d}.{kind}"
        with (tmp_path / name).open("wb") as file:
            formats = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF", "HIF": "HEIF"}
            noise_image(number).save(file, format=formats.get(kind.upper(), kind.upper()))
        (tmp_path / f"._{name}").write_bytes(b"\0\x05\x16\x07")
    for leftover in (
        "IMG_0000.MOV",
        "IMG_0000.AAE",
        "IMG_O0000.AAE",
        "IMG_0000.JPG.json",
        "IMG_0000.DNG",
        ".DS_Store",
        "__MACOSX/._IMG_0000.HEIC",
        "__MACOSX/IMG_0000.txt",
        "@eaDir/x.db",
        "desktop.ini",
    ):
        (tmp_path / leftover).parent.mkdir(exist_ok=True)
        (tmp_path / leftover).write_bytes(b"rubbish")
    (tmp_path / "._captions.txt").write_bytes(b"\0\x05\x16\x07")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert [record.path.suffix[1:] for record in result.records] == kinds
    assert result.problems == []
    assert len(result.warnings) == 1
    report = check_dataset(result, resolution=(32, 32))
    assert report.num_images == len(kinds)
    assert report.warnings == result.warnings
