"""Tiny real image files and encoders for the tests of src/data."""

from pathlib import Path

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageCms
from torch import Tensor

from src.data.records import Record
from src.files import sha256_file

pillow_heif.register_heif_opener()

# Display P3's primaries, adapted to D50, as an ICC profile holds them (s15Fixed16).
_P3 = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def noise_image(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Smooth colours that are different for each number."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def quarters(size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right: shows turns and mirrors."""
    image = Image.new("RGB", size, (255, 255, 255))
    width, height = size[0] // 2, size[1] // 2
    image.paste((255, 0, 0), (0, 0, width, height))
    image.paste((0, 255, 0), (width, 0, size[0], height))
    image.paste((0, 0, 255), (0, height, width, size[1]))
    return image


def orientation_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def display_p3() -> bytes:
    """The profile of a phone: lcms's sRGB with other primaries, and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(int.from_bytes(data[128:132], "big")):
        tag = data[132 + 12 * index : 144 + 12 * index]
        name, place, size = bytes(tag[:4]), int.from_bytes(tag[4:8], "big"), int.from_bytes(tag[8:12], "big")
        if name in _P3:
            for number, value in enumerate(_P3[name]):
                at = place + 8 + 4 * number
                data[at : at + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
        elif name == b"desc":
            data[place : place + size] = bytes(data[place : place + size]).replace(
                "sRGB".encode("utf-16-be"), "P3 D".encode("utf-16-be")
            )
    return bytes(data)


def photo_folder(folder: Path, num_photos: int, *, captions: bool = True, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"IMG_{number:04d}.{suffix}" for number in range(num_photos)]
    for number, name in enumerate(names):
        noise_image(number).save(folder / name)
    if captions:
        lines = [f"{name}|a photo of sksToy number {number}" for number, name in enumerate(names)]
        (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def photo_records(folder: Path, num_photos: int) -> tuple[list[Record], dict[str, str]]:
    """Records of a fresh folder, and the hashes of their contents."""
    photo_folder(folder, num_photos, captions=False)
    records = [
        Record(path=path, caption=f"caption of {path.stem}", id=path.name)
        for path in sorted(folder.glob("*.png"))
    ]
    return records, {record.id: sha256_file(record.path) for record in records}


def truncate(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


class TinyEncoders:
    """A real convolution for a VAE and a real embedding for a text encoder; counts what it encodes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(8, 3, 8, 8, generator=generator) / 8
        self.words = torch.randn(256, 6, generator=generator)
        self.num_images = 0
        self.num_texts = 0

    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.num_images += len(pixels)
        moments = torch.nn.functional.conv2d(pixels, self.weight, stride=8)
        return moments[:, :4], moments[:, 4:].exp()

    def text(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        self.num_texts += len(prompts)
        ids = torch.tensor(
            [[*prompt.encode()[:5], *[0] * (5 - len(prompt.encode()[:5])), len(prompt)] for prompt in prompts]
        )
        hidden = self.words[ids % 256]
        return hidden, hidden.mean(dim=1)


def save_turning_late(image: Image.Image, path: Path) -> None:
    """Saves a PNG that is turned by a quarter, and says so behind its pixels only."""
    image.save(path, exif=orientation_exif(6))
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
