import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from src.data.images import load_image, load_in_own_colours, parse_colour, prepare_variant, read_header
from src.errors import UserError
from tests.data.pictures import display_p3, noise_image, orientation_exif, quarters, truncate

TURNED = {1: (64, 32), 3: (64, 32), 6: (32, 64), 8: (32, 64)}
# Corner that is red once the picture is upright, by EXIF orientation, as (x, y) shares.
RED_CORNER = {1: (0.1, 0.1), 3: (0.9, 0.9), 6: (0.9, 0.1), 8: (0.1, 0.9)}


def close(
    image: Image.Image, at: tuple[float, float], colour: tuple[int, int, int], tolerance: int = 12
) -> bool:
    pixel = image.getpixel((int(at[0] * image.width), int(at[1] * image.height)))
    return bool(np.abs(np.subtract(pixel, colour)).max() <= tolerance)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["heic", "jpg", "png", "webp", "tiff", "avif"])
def test_photos_stand_upright_once(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    quarters().save(path, exif=orientation_exif(orientation), quality=95)
    image = load_image(path)
    assert image.size == TURNED[orientation]
    assert image.mode == "RGB"
    assert close(image, RED_CORNER[orientation], (255, 0, 0))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["heic", "jpg", "png", "webp", "tiff", "avif"])
def test_header_knows_the_upright_size(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    quarters().save(path, exif=orientation_exif(orientation))
    header = read_header(path)
    assert (header.width, header.height) == TURNED[orientation] == load_image(path).size
    assert header.format == {"heic": "HEIF", "jpg": "JPEG"}.get(suffix, suffix.upper())


def test_transparency_goes_onto_the_background(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((5, 5)) == (255, 255, 255)
    assert load_image(tmp_path / "a.png", background=(1, 2, 3)).getpixel((5, 5)) == (1, 2, 3)
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (0, 0, 255)


def test_transparent_palettes_and_grey(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_image(tmp_path / "p.png").getpixel((3, 3)) == (255, 255, 255)
    assert load_image(tmp_path / "p.png").getpixel((0, 0)) == (200, 0, 0)
    Image.new("LA", (4, 4), (90, 0)).save(tmp_path / "la.png")
    assert load_image(tmp_path / "la.png").getpixel((3, 3)) == (255, 255, 255)
    Image.new("1", (4, 4), 1).save(tmp_path / "one.png")
    assert load_image(tmp_path / "one.png").getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        grey = np.asarray(load_image(tmp_path / name))[0, :, 0]
        assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1


def sixteen_bit_png(path, colour, pixels, transparent):
    """Pillow writes no transparent colour beside 16 bits, and no 16-bit colours at all."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.array([pixels], dtype=">u2")
    header = struct.pack(">IIBBBBB", pixels.shape[1], 1, 16, colour, 0, 0, 0)
    transparency = struct.pack(f">{len(transparent)}H", *transparent)
    chunks = {
        b"IHDR": header,
        b"tRNS": transparency,
        b"IDAT": zlib.compress(b"\0" + pixels.tobytes()),
        b"IEND": b"",
    }
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks.items()))


def test_transparency_of_sixteen_bits(tmp_path):
    sixteen_bit_png(tmp_path / "grey.png", 0, [0, 30_000, 65_535], (0,))
    pixels = np.asarray(load_image(tmp_path / "grey.png", background=(1, 2, 3)))[0].tolist()
    assert pixels == [[1, 2, 3], [117] * 3, [255] * 3]
    sixteen_bit_png(tmp_path / "rgb.png", 2, [[1000, 2000, 3000], [65_535, 0, 0]], (1000, 2000, 3000))
    pixels = np.asarray(load_image(tmp_path / "rgb.png", background=(1, 2, 3)))[0].tolist()
    assert pixels == [[1, 2, 3], [255, 0, 0]]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0, 255], np.int32, "from 0 to 255 in 32 bits"),
        ([-5, 60_000], np.int32, "from -5 to 60000 in 32 bits"),
        ([0, 65_536], np.int32, "from 0 to 65536 in 32 bits"),
        ([0, 4095], np.uint16, "from 0 to 4095 in 16 bits"),
    ],
)
def test_grey_of_unknown_range_is_refused(tmp_path, values, kind, message):
    Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=rf"a\.tiff has values {message}, so that white is unknown") as caught:
        load_image(tmp_path / "a.tiff")
    assert "\n" not in str(caught.value)


def test_grey_that_fills_its_range_or_is_black_stays(tmp_path):
    for values, grey in (([0, 0], [0, 0]), ([128, 65_535], [0, 255]), ([129, 32_896], [1, 128])):
        for kind in (np.uint16, np.int32):
            Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "a.tiff")
            assert np.asarray(load_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == grey
    Image.fromarray(np.array([[0, 257]], dtype=np.uint16)).save(tmp_path / "dark.png")  # PNG is full range
    assert np.asarray(load_image(tmp_path / "dark.png"))[0, :, 0].tolist() == [0, 1]


def test_a_tiff_of_twelve_bits_is_scaled(tmp_path):
    pixels = b"\xff\xf8\x00"  # 4095, 2048
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tiff").write_bytes(b"II*\0" + struct.pack("<I", 12) + pixels + b"\0" + directory)
    assert np.asarray(load_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == [255, 128]


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert close(load_image(tmp_path / "a.jpg"), (0.5, 0.5), (255, 0, 0))


def test_profiles_are_converted_to_srgb(tmp_path):
    # A profile with red and blue exchanged is as far from sRGB as can be, and made here byte by byte.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    exchanged = bytearray(profile)
    exchanged[red : red + 4], exchanged[blue : blue + 4] = b"bXYZ", b"rXYZ"
    exchanged = exchanged.replace("sRGB".encode("utf-16-be"), "tRGB".encode("utf-16-be"))
    exchanged = exchanged.replace(b"sRGB", b"tRGB")
    for name in ("a.png", "a.jpg", "a.heic"):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(
            tmp_path / name, icc_profile=bytes(exchanged), quality=95
        )
        assert close(load_image(tmp_path / name), (0.5, 0.5), (0, 0, 255), 25), name
        Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / name, icc_profile=profile, quality=95)
        assert close(load_image(tmp_path / name), (0.5, 0.5), (255, 0, 0)), name


def test_crops_of_wide_colours_are_converted_after_they_are_resized(tmp_path):
    # Colours of the middle of the gamut: at its edge what is clipped first makes a difference.
    photo = noise_image(1, (96, 80)).point(lambda value: 96 + value // 4)
    photo.save(tmp_path / "a.jpg", icc_profile=display_p3(), quality=95)
    wide = load_in_own_colours(tmp_path / "a.jpg")
    full = load_image(tmp_path / "a.jpg")
    assert "icc_profile" in wide.info
    assert "icc_profile" not in full.info
    assert np.abs(np.asarray(wide).astype(int) - np.asarray(full)).max() > 3
    settings = {"size": (24, 24), "crop": "center", "flip": True}
    late, early = prepare_variant(wide, **settings).pixels, prepare_variant(full, **settings).pixels
    assert np.abs(late.astype(int) - early).max() <= 2


def test_a_broken_profile_is_named_and_left_out(tmp_path, caplog):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=b"no profile")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)
    assert "a.png" in caplog.text


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert load_image(tmp_path / name).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["heic", "jpg", "png", "webp"])
def test_truncated_files_are_named(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    noise_image(1, (200, 200)).save(path)
    truncate(path)
    with pytest.raises(UserError, match=rf"photo\.{suffix} cannot be read"):
        load_image(path)


def test_other_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    for name in ("a.png", "b.png", "c.eps"):
        with pytest.raises(UserError, match=name):
            load_image(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        load_image(tmp_path / "absent.png")


def test_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    noise_image(1, (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for read in (load_image, read_header):
        with pytest.raises(UserError, match="too large to decode safely"):
            read(tmp_path / "bomb.png")


def test_a_real_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 15_000)).save(path)
    with pytest.raises(UserError, match="too large"):
        load_image(path)


def test_center_crop_covers_and_says_where(tmp_path):
    variant = prepare_variant(quarters((64, 32)), size=(16, 16), crop="center", flip=False)
    assert variant.pixels.shape == (16, 16, 3)
    assert variant.original_size == (64, 32)
    assert variant.crop_top_left == (0, 8)
    assert tuple(variant.pixels[2, 2]) == (255, 0, 0)
    assert tuple(variant.pixels[2, 13]) == (0, 255, 0)


def test_crop_equals_resizing_the_whole_image():
    image = noise_image(3, (100, 60))
    whole = np.asarray(image.resize((40, 24), Image.Resampling.LANCZOS)).astype(int)
    variant = prepare_variant(image, size=(24, 24), crop="center", flip=False)
    assert np.abs(variant.pixels.astype(int) - whole[:, 8:32]).max() <= 1


def test_flip_mirrors_a_symmetric_crop():
    image = noise_image(5, (48, 40))
    plain = prepare_variant(image, size=(32, 40), crop="center", flip=False)
    flipped = prepare_variant(image, size=(32, 40), crop="center", flip=True)
    assert np.abs(flipped.pixels.astype(int) - plain.pixels[:, ::-1]).max() <= 1


def test_random_crops_are_addressed():
    image = noise_image(6, (200, 40))
    places = [
        prepare_variant(image, size=(40, 40), crop="random", flip=False, seed_parts=(0, "crop", "a", number))
        for number in range(20)
    ]
    again = prepare_variant(image, size=(40, 40), crop="random", flip=False, seed_parts=(0, "crop", "a", 7))
    assert again.crop_top_left == places[7].crop_top_left
    assert np.array_equal(again.pixels, places[7].pixels)
    assert len({place.crop_top_left for place in places}) > 10
    assert all(0 <= place.crop_top_left[1] <= 160 for place in places)


def test_a_thin_image_does_not_fill_the_memory():
    variant = prepare_variant(Image.new("RGB", (50_000, 1)), size=(512, 512), crop="center", flip=False)
    assert variant.pixels.shape == (512, 512, 3)


def test_colours():
    assert parse_colour("white") == (255, 255, 255)
    assert parse_colour("#010203") == (1, 2, 3)
    with pytest.raises(UserError, match="no colour"):
        parse_colour("whitish")
