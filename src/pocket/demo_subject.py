"""The demo set: HEIC photos of an invented toy, rendered, with captions.

Made again by `python -m src.pocket.demo_subject --out data/demo`, pixel by pixel the same.
"""

from __future__ import annotations

import argparse
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from src.files import write_bytes_atomic, write_text_atomic
from src.pocket.rendering.render import Rendering, render
from src.pocket.rendering.scene import Camera, turned, vector
from src.pocket.world.surroundings import SURROUNDINGS, Mood, Surroundings
from src.pocket.world.toy import toy

PLACEHOLDER = "sksToy"
NUM_PHOTOS = 56
_SEED = 2026
_QUALITY = 62
_SIZES = ((640, 640), (640, 640), (768, 576), (640, 640), (576, 768), (640, 640), (640, 640))
# What a phone held sideways or upside down writes, and the turn of the stored pixels that it undoes.
_TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How the toy stands and from where it is taken. Angles in radians; `yaw` > 0 turns it to the right."""

    phrase: str
    yaw: float = 0.0
    elevation: float = 0.1
    closeness: float = 1.0


# Most people photograph a toy from the front, and do not say so.
_FRONT = View(phrase="facing the camera")
_VIEWS = (
    _FRONT,
    View(phrase="turned to the left", yaw=-0.6),
    _FRONT,
    View(phrase="turned to the right", yaw=0.6),
    View(phrase="close up", closeness=1.2),
    _FRONT,
    View(phrase="seen from above", elevation=0.55, yaw=0.15),
    View(phrase="turned to the left, close up", yaw=-0.5, closeness=1.15),
    _FRONT,
    View(phrase="small in the picture", closeness=0.75, yaw=0.2),
    View(phrase="seen from a low angle", elevation=0.0, yaw=-0.25),
    View(phrase="seen from behind", yaw=2.75),
    View(phrase="turned to the right, close up", yaw=0.5, closeness=1.15),
)
_OPENINGS = ("a photo of {toy}", "a photo of a {toy}", "a photo of {toy}", "a picture of {toy}")
_ORDERS = (
    "{opening} {place}, {view}, {light}",
    "{opening} {place}, {light}, {view}",
    "{opening}, {view}, {place}, {light}",
)
_SHORT_ORDERS = ("{opening} {place}, {light}", "{opening} {place}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photo of the set: what is on it, its size, and the EXIF orientation it is stored with."""

    index: int
    name: str
    caption: str
    surroundings: Surroundings
    mood: Mood
    view: View
    width: int
    height: int
    orientation: int


def photo_list(num_photos: int = NUM_PHOTOS) -> list[Photo]:
    """The whole set: every place, view and light comes up about equally often, in ever new combinations."""
    photos = []
    for index in range(num_photos):
        turn, spot = divmod(index, len(SURROUNDINGS))
        surroundings = SURROUNDINGS[spot]
        mood = surroundings.moods[turn % len(surroundings.moods)]
        view = _VIEWS[(index + turn) % len(_VIEWS)]
        width, height = _SIZES[index % len(_SIZES)]
        opening = _OPENINGS[(index + turn) % len(_OPENINGS)].format(toy=f"{PLACEHOLDER} toy")
        orders = _SHORT_ORDERS if view is _FRONT else _ORDERS
        caption = orders[(index + turn) % len(orders)].format(
            opening=opening, place=surroundings.phrase, view=view.phrase, light=mood.phrase
        )
        photos.append(
            Photo(
                index=index,
                name=f"IMG_{index + 1:04d}.HEIC",
                caption=caption,
                surroundings=surroundings,
                mood=mood,
                view=view,
                width=width,
                height=height,
                orientation=(3, 6, 8)[index // 5 % 3] if index % 5 == 3 else 1,
            )
        )
    return photos


def draw(photo: Photo, *, scale: float = 1.0) -> Rendering:
    """Renders one photo, seeded by its place in the set; `scale` changes the number of pixels."""
    rng = np.random.default_rng([_SEED, photo.index])
    view = photo.view
    swing = rng.uniform(-0.2, 0.2)
    yaw = view.yaw + swing + rng.uniform(-0.15, 0.15)
    lean = rng.uniform(-0.04, 0.04)
    rotation = turned(yaw) @ turned(lean, axis=1)
    size = rng.uniform(0.92, 1.06)
    subject = [part.moved(rotation, vector(0, 0, 0), size) for part in toy()]
    low = np.min([part.centre - part.reach() for part in subject], axis=0)
    high = np.max([part.centre + part.reach() for part in subject], axis=0)
    shift = vector(-(low[0] + high[0]) / 2, 0, -low[2])
    subject = [part.moved(np.eye(3, dtype=np.float32), shift, 1.0) for part in subject]
    middle = (high[2] - low[2]) / 2
    field_of_view = 0.62
    narrow = min(1.0, photo.width / photo.height)
    distance = 5.9 / (view.closeness * rng.uniform(0.92, 1.08)) / narrow
    elevation = view.elevation + rng.uniform(0.0, 0.12)
    room = 0.09 * distance if view.closeness <= 1 else 0.03 * distance
    target = vector(rng.uniform(-room, room), 0, middle + rng.uniform(-0.3, 0.6) * room)
    camera = Camera(
        position=target
        + np.float32(distance)
        * vector(
            math.cos(elevation) * math.sin(swing), -math.cos(elevation) * math.cos(swing), math.sin(elevation)
        ),
        target=target,
        field_of_view=field_of_view,
        roll=float(rng.uniform(-0.12, 0.12)),
    )
    azimuth = float(rng.choice([-1, 1]) * rng.uniform(0.35, 1.25))
    return render(
        subject,
        stage=photo.surroundings.stage(rng),
        camera=camera,
        light=photo.mood.light(azimuth=azimuth, bounce=photo.surroundings.bounce),
        width=round(photo.width * scale),
        height=round(photo.height * scale),
        background_blur=scale * float(rng.uniform(1.5, 4.0)),
    )


def encode_heic(pixels: np.ndarray, orientation: int) -> bytes:
    """Encodes upright pixels the way a phone held in that orientation stores them."""
    import pillow_heif

    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x0110] = "Darkroom", "Rendered"
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    buffer = io.BytesIO()
    # Bytes, not the Exif object: pillow-heif resets the orientation of the latter without turning pixels.
    pillow_heif.from_pillow(image).save(buffer, quality=_QUALITY, exif=exif.tobytes())
    return buffer.getvalue()


def write_demo_set(folder: Path, *, num_photos: int = NUM_PHOTOS, scale: float = 1.0) -> list[Photo]:
    """Renders and writes the photos and captions.txt; same pixels on every call."""
    photos = photo_list(num_photos)

    def write(photo: Photo) -> None:
        write_bytes_atomic(
            folder / photo.name, encode_heic(draw(photo, scale=scale).pixels, photo.orientation)
        )

    # numpy works outside Python's lock most of the time, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(write, photos))
    lines = [f"{photo.name}|{photo.caption}" for photo in photos]
    write_text_atomic(folder / "captions.txt", "\n".join(lines) + "\n")
    return photos


def main() -> None:
    """Command line: writes the set into --out."""
    parser = argparse.ArgumentParser(description="Renders the demo photos of the invented toy.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the photos and captions.txt")
    arguments = parser.parse_args()
    photos = write_demo_set(arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{len(photos)} photos, {size / 2**20:.2f} MiB, in {arguments.out}")


if __name__ == "__main__":
    main()
