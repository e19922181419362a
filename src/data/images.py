"""Image files to upright sRGB pixels, and pixels to the crop that is trained on."""

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
from jaxtyping import Int32, UInt8
from PIL import Image, ImageCms, ImageColor, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from src.errors import UserError
from src.randomness import address_seed

# Part of the cache keys: raise it when the same file would give other pixels.
PIXELS_VERSION = 2

IMAGE_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
)
# What may be decoded, whatever a file is called. An allow-list, because Pillow also runs Ghostscript (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "GIF", "BMP")

_log = logging.getLogger(__name__)
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_MAX_16_BITS, _MAX_12_BITS = 65535, 4095
_TAIL = 1 << 16
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
_MODE_OF_PROFILE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One crop of one image, ready for the VAE.

    Attributes:
        pixels: sRGB, 0 to 255.
        original_size: (width, height) of the upright image before resizing.
        crop_top_left: (top, left) of the crop in the resized (and, if so, mirrored) image, in pixels.
        mask: What of it is to be learned, 0 to 255; None without masks.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]
    mask: UInt8[np.ndarray, "h w"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What can be known of an image without decoding it: its upright size and the format of its content."""

    width: int
    height: int
    format: str


@functools.cache
def _register_formats() -> None:
    # Once a process. Thumbnails and depth maps of HEIC files would only cost time here.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    # Between Pillow's limit (89 MP) and twice that it only warns; above, it refuses and so do we.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Rewords whatever a decoder raises, so that the message names the file and the remedy."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large to decode safely ({error}). Scale it down or remove it."
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"The image {path} does not exist. Restore it or remove its caption.") from error
    except PermissionError as error:
        raise UserError(f"The image {path} may not be read. Change its permissions.") from error
    except Exception as error:
        # Damaged files make decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
        reason = " ".join(str(error).replace(f"{str(path)!r}", "").split()) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as an image ({reason}). It may be damaged or cut off, or none of "
            f"{', '.join(FORMATS)}. Replace or remove the file."
        ) from error


def read_header(path: Path) -> Header:
    """Reads size and format without decoding the pixels.

    Raises:
        UserError: the file is no image, is damaged where the header can tell, or is a decompression bomb.
    """
    _register_formats()
    with _readable(path), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        # HEIF says 1 and is upright; TIFF is, whatever it says. The base class's method, because PNG's own
        # would decode the pixels to look behind them.
        if image.format != "TIFF" and Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8):
            width, height = height, width
        return Header(width=width, height=height, format=str(image.format))


def may_turn_late(path: Path, image_format: str) -> bool:
    """Whether an orientation may stand behind the pixels, as PNG allows: then `read_header` does not know it.

    Args:
        path: The file.
        image_format: As `read_header` gives it.
    """
    if image_format != "PNG":
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return b"eXIf" in file.read()


def load_image(path: Path, *, background: Colour = (255, 255, 255)) -> Image.Image:
    """Decodes an image file to upright 8-bit sRGB.

    EXIF orientation is applied, ICC profiles are converted, 12- and 16-bit grey is scaled, CMYK and palettes
    are converted, transparency goes onto `background`, and of an animation the first frame is taken.

    Raises:
        UserError: the file is missing, damaged, no image of a supported format, a decompression bomb, or a
            TIFF whose range of values is unknown.
    """
    _register_formats()
    image = load_in_own_colours(path, background=background)
    return _in_srgb(image)


def load_in_own_colours(path: Path, *, background: Colour = (255, 255, 255)) -> Image.Image:
    """The same, but RGB of another colour space than sRGB stays, and `info["icc_profile"]` says which.

    For `prepare_variant`, which converts the few pixels that are left: to convert a phone's 12 megapixels
    takes as long as to decode them.

    Raises:
        UserError: as `load_image`.
    """
    rgb, alpha = _load_parts(path)
    if alpha is None:
        return rgb
    rgb = _in_srgb(rgb)
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def load_alpha(path: Path) -> Image.Image | None:
    """The alpha channel of an image, upright and with 8 bits, or None if it has none.

    Raises:
        UserError: as `load_image`.
    """
    return _load_parts(path)[1]


def _load_parts(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """RGB, whose `info` may name another colour space than sRGB, and the alpha channel."""
    _register_formats()
    with _readable(path), Image.open(path, formats=FORMATS) as upright:
        has_wide_colours = bool(upright.tile) and upright.tile[0].args == "RGB;16B"
        upright.load()
        # pillow-heif returns upright pixels and an orientation of 1, so this turns nothing twice.
        ImageOps.exif_transpose(upright, in_place=True)
    if upright.mode == "F":
        raise UserError(f"{path} has pixels of 32 bits, whose range is unknown. Save it with 8 or 16 bits.")
    transparency = upright.info.get("transparency")
    if has_wide_colours and isinstance(transparency, tuple):
        # Pillow keeps the upper byte of PNG's 16-bit colours, but not of the one that is transparent.
        upright.info["transparency"] = tuple(value >> 8 for value in transparency)
    profile = upright.info.pop("icc_profile", None)
    colour, alpha = _split_alpha(_to_eight_bits(upright, path))
    return _to_rgb(colour, profile, path), alpha


def _to_eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Grey of more bits as L, or as LA where PNG names a transparent value.

    Raises:
        UserError: nobody can tell which value is white.
    """
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int32)
    white = _white_of(values, image, path)
    grey = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    transparency = image.info.get("transparency")
    if not isinstance(transparency, int):
        return grey
    alpha = Image.fromarray(np.where(values == transparency, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _white_of(values: Int32[np.ndarray, "h w"], image: Image.Image, path: Path) -> int:
    """The value that is white. A TIFF's may be less than its numbers can hold, and nothing in it says so."""
    low, high = int(values.min()), int(values.max())
    if not isinstance(image, TiffImageFile):
        return _MAX_16_BITS
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
    if bits < 16:
        return int((1 << bits) - 1)
    if low < 0 or high > _MAX_16_BITS or 0 < high <= _MAX_12_BITS:
        raise UserError(
            f"{path} has values from {low} to {high} in {bits} bits, so that white is unknown. Scale them "
            "to 0 to 65535, or save it with 8 bits."
        )
    return _MAX_16_BITS


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour in a mode that an ICC profile can belong to, and the alpha channel if there is one."""
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    if image.mode in _MODE_OF_PROFILE.values():
        return image, None
    return image.convert("RGB"), None


def _to_rgb(image: Image.Image, profile_bytes: bytes | None, path: Path) -> Image.Image:
    """RGB: in sRGB, or with a profile in its `info` that is known to work."""
    if image.mode == "LAB":
        return _transform(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if not profile_bytes:
        return _as_rgb(image)
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
        mode = _MODE_OF_PROFILE.get(profile.profile.xcolor_space.strip())
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode:
            raise ImageCms.PyCMSError(f"its profile is for {mode}, its pixels are {image.mode}")
        if mode != "RGB":
            return _transform(image, profile)
        if not ImageCms.getProfileDescription(profile).startswith("sRGB"):
            _transform(Image.new("RGB", (1, 1)), profile)
            image.info["icc_profile"] = profile_bytes
        return image
    except (ImageCms.PyCMSError, OSError) as error:
        # What every viewer does with a broken profile; the pixels themselves are whole.
        _log.warning("%s: colour profile not usable (%s), taken as sRGB", path, error)
        return _as_rgb(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    # Converting RGB to RGB would copy it.
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """An RGB image whose `info` may name another colour space."""
    profile_bytes = image.info.get("icc_profile")
    if profile_bytes is None:
        return image
    return _transform(image, ImageCms.ImageCmsProfile(BytesIO(profile_bytes)))


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    result = ImageCms.profileToProfile(image, profile, _srgb(), outputMode="RGB")
    assert result is not None  # only None when asked to work in place
    result.info.pop("icc_profile", None)
    return result


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def center_crop_box(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of what `prepare_variant` crops from the centre, in the image's pixels."""
    slack_x, slack_y = _slack(image_size, size)
    return _crop_box(image_size, size, slack_x // 2, slack_y // 2)


def _scale(image_size: tuple[int, int], size: tuple[int, int]) -> float:
    return max(size[0] / image_size[0], size[1] / image_size[1])


def _slack(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """What is left over of an image that covers `size`, across and down."""
    scale = _scale(image_size, size)
    return max(0, round(image_size[0] * scale) - size[0]), max(0, round(image_size[1] * scale) - size[1])


def _crop_box(
    image_size: tuple[int, int], size: tuple[int, int], left: int, top: int
) -> tuple[float, float, float, float]:
    """A crop's box in the image's own pixels; left and top are those in the resized image."""
    scale = _scale(image_size, size)
    box_width, box_height = min(image_size[0], size[0] / scale), min(image_size[1], size[1] / scale)
    box_left = min(left / scale, image_size[0] - box_width)
    box_top = min(top / scale, image_size[1] - box_height)
    return (box_left, box_top, box_left + box_width, box_top + box_height)


def prepare_variant(
    image: Image.Image,
    *,
    size: tuple[int, int],
    crop: str,
    flip: bool,
    seed_parts: tuple[int | str, ...] = (),
    mask: Image.Image | None = None,
) -> Variant:
    """Resizes an image to cover `size`, mirrors it if asked, and crops what is left over.

    Args:
        image: RGB, in sRGB or with an ICC profile in its `info`, from which the result is converted.
        size: (width, height) of the result.
        crop: "center", or "random" for a place that is a function of `seed_parts`.
        flip: Mirror left to right.
        seed_parts: The address of the random crop.
        mask: Grey, of the image's size: gets the same crop, each pixel the mean of the area that it covers.
    """
    assert crop in ("center", "random"), crop
    slack_x, slack_y = _slack(image.size, size)
    left, top = slack_x // 2, slack_y // 2
    if crop == "random":
        left = address_seed(*seed_parts, "left") % (slack_x + 1)
        top = address_seed(*seed_parts, "top") % (slack_y + 1)
    # Only the crop is resampled: the whole of a very long image, resized, would not fit into memory.
    seen_left = slack_x - left if flip else left
    box = _crop_box(image.size, size, seen_left, top)
    pixels = _in_srgb(image.resize(size, Image.Resampling.LANCZOS, box=box))
    seen_mask = None if mask is None else mask.resize(size, Image.Resampling.BOX, box=box)
    if flip:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        seen_mask = seen_mask and seen_mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Variant(
        pixels=np.array(pixels),
        original_size=image.size,
        crop_top_left=(top, left),
        mask=None if seen_mask is None else np.array(seen_mask),
    )


def parse_colour(text: str) -> Colour:
    """A colour by name or "#rrggbb".

    Raises:
        UserError: it is neither.
    """
    try:
        colour = ImageColor.getrgb(text)
    except ValueError as error:
        raise UserError(
            f"{text!r} is no colour. Use a name such as white or a code such as #ffffff."
        ) from error
    return colour[:3]
