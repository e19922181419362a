"""Copies are found, other pictures are not, and both stay where the split put them."""

import hashlib
import json
import shutil
import time
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from src.data import inspection, preflight
from src.data.images import load_image
from src.data.near_duplicates import fingerprint, group_near_duplicates, groups_of
from src.data.preflight import check_dataset
from src.data.readers.subject import read_subject
from src.data.split import split_records, split_warnings
from src.errors import DatasetProblems
from tests.data.pictures import noise_image

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "other quality": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "128 pixels": lambda image: image.resize((128, 128 * image.height // image.width)),
    "a bit off each side": lambda image: image.crop(
        (image.width // 60, image.height // 60, image.width * 59 // 60, image.height * 59 // 60)
    ),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "less colour": lambda image: ImageEnhance.Color(image).enhance(0.7),
}


def demo_photos() -> list[Image.Image]:
    """From the DVC remote inside the repository, whether or not they have been pulled."""
    remote = ROOT / "assets/dvc-remote/files/md5"

    def stored(md5: str) -> Path:
        return remote / md5[:2] / md5[2:]

    digest = (ROOT / "data/demo.dvc").read_text().partition("md5: ")[2].split()[0]
    files = json.loads(stored(digest).read_bytes())
    return [load_image(stored(f["md5"])) for f in files if f["relpath"].endswith(".HEIC")]


@pytest.fixture(scope="module")
def demo() -> list[Image.Image]:
    return demo_photos()


def grouped(images) -> list[list[str]]:
    return groups_of(group_near_duplicates({f"{n}": fingerprint(image) for n, image in enumerate(images)}))


def test_no_two_demo_photos_are_near_duplicates(demo):
    assert len(demo) == 56
    assert grouped(demo) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_copies_of_the_demo_photos_are_found(demo, tmp_path, recipe):
    copies = []
    for number, photo in enumerate(demo[::4]):
        RECIPES[recipe](photo).save(tmp_path / f"{number}.jpg", quality=45)
        copies.append(load_image(tmp_path / f"{number}.jpg"))
    found = grouped([*demo[::4], *copies])
    assert sorted(found) == sorted([f"{n}", f"{n + len(copies)}"] for n in range(len(copies)))


def pictogram(draw) -> Image.Image:
    image = Image.new("RGB", (200, 200), "white")
    draw(ImageDraw.Draw(image))
    return image


PICTOGRAMS = {
    "circle": lambda d: d.ellipse((40, 40, 160, 160), outline="black", width=8),
    "square": lambda d: d.rectangle((40, 40, 160, 160), outline="black", width=8),
    "cross": lambda d: (d.line((40, 40, 160, 160), "black", 10), d.line((160, 40, 40, 160), "black", 10)),
    "plus": lambda d: (d.line((100, 30, 100, 170), "black", 10), d.line((30, 100, 170, 100), "black", 10)),
    "triangle": lambda d: d.polygon((100, 30, 170, 160, 30, 160), outline="black", width=8),
    "up": lambda d: (
        d.line((100, 30, 100, 170), "black", 10),
        d.polygon((100, 20, 140, 70, 60, 70), "black"),
    ),
    "down": lambda d: (
        d.line((100, 30, 100, 170), "black", 10),
        d.polygon((100, 180, 140, 130, 60, 130), "black"),
    ),
    "bar": lambda d: d.rectangle((30, 90, 170, 110), fill="black"),
    "dot": lambda d: d.ellipse((85, 85, 115, 115), fill="black"),
    "happy": lambda d: (
        d.ellipse((20, 20, 180, 180), outline="black", width=8),
        d.arc((60, 60, 140, 140), 20, 160, "black", 8),
    ),
    **{
        f"{colour} disc": lambda d, colour=colour: d.ellipse((40, 40, 160, 160), fill=colour)
        for colour in ("red", "blue", "green", "black")
    },
    **{
        f"flag of {top} and {bottom}": lambda d, top=top, bottom=bottom: (
            d.rectangle((0, 40, 200, 100), fill=top),
            d.rectangle((0, 100, 200, 160), fill=bottom),
        )
        for top, bottom in (("red", "blue"), ("blue", "red"), ("green", "red"), ("black", "yellow"))
    },
    **{
        f"letter {letter}": lambda d, letter=letter: d.text((60, 30), letter, "black", font_size=120)
        for letter in "ABEFX8"
    },
    "nothing": lambda d: None,
}


def test_pictograms_are_not_one_large_group():
    names = list(PICTOGRAMS)
    found = grouped(map(pictogram, PICTOGRAMS.values()))
    # Contrast counts for nothing, so that lighter copies are found.
    assert [[names[int(n)] for n in group] for group in found] == [
        ["green disc", "black disc"],
        ["letter E", "letter F"],
    ]


def test_copies_of_pictograms_are_found():
    images = [pictogram(draw) for name, draw in PICTOGRAMS.items() if name != "nothing"]
    copies = [image.resize((90, 90)) for image in images]
    for image, copy in zip(images, copies, strict=True):
        assert len(grouped([image, copy])) == 1


def test_images_of_one_colour_are_nobodys_near_duplicates():
    colours = ("white", "white", "black", "#fefefe", "red", "#fe0000")
    assert grouped([Image.new("RGB", (64, 64), colour) for colour in colours]) == []


def test_what_is_another_picture(demo):
    for other in (ImageOps.mirror(demo[0]), ImageOps.flip(demo[0]), ImageOps.invert(demo[0])):
        assert grouped([demo[0], other]) == []


def test_groups_join_what_has_common_near_duplicates(demo):
    """The ends of the chain alone would not be found, but its middle must not be on two sides."""
    photo = demo[1]
    chain = [
        photo.crop((step, step, photo.width - step, photo.height - step))
        for step in range(0, photo.width // 12, photo.width // 100)
    ]
    assert grouped([chain[0], chain[-1]]) == []
    assert len(grouped(chain)) == 1


def test_a_large_set_of_equal_images_is_no_trap():
    value = fingerprint(noise_image(1, (64, 64)))
    started = time.monotonic()
    assert len(groups_of(group_near_duplicates({f"{n}": value for n in range(3000)}))) == 1
    assert time.monotonic() - started < 20


# In the preflight and the split


def photos(folder: Path, *numbers: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        noise_image(number, (96, 80)).save(folder / f"IMG_{number:04d}.png")
    return folder


def copy_of(folder: Path, number: int, name: str, quality: int = 60) -> None:
    noise_image(number, (96, 80)).resize((72, 60)).save(folder / name, quality=quality)


def sides(folder: Path, *, near_duplicates: str = "auto", memo_file: Path | None = None):
    """(side by record id, ids left out, all warnings)"""
    result = read_subject(path=folder, placeholder="sksToy")
    report = check_dataset(result, resolution=(32, 32), near_duplicates=near_duplicates, memo_file=memo_file)
    split = split_records(
        result.records,
        report.hashes,
        split_seed=0,
        validation_fraction=0.25,
        split_file=folder.with_suffix(".json"),
        group_keys=report.group_keys,
    )
    named = {record.id: "train" for record in split.train} | {r.id: "validation" for r in split.validation}
    warnings = [*report.warnings, *split_warnings(split, report.group_keys)]
    return named, [record.id for record in split.left_out], warnings[1:]


def test_the_preflight_names_them_and_the_split_keeps_them_together(tmp_path):
    folder = photos(tmp_path / "photos", *range(12))
    for number in range(6):
        copy_of(folder, number, f"copy_{number}.jpg")
    shutil.copy(folder / "copy_5.jpg", folder / "copy_of_copy_5.jpg")
    found, left_out, warnings = sides(folder)
    assert left_out == []
    assert all(found[f"copy_{n}.jpg"] == found[f"IMG_000{n}.png"] for n in range(6))
    assert set(found.values()) == {"train", "validation"}
    assert warnings[0].startswith("1 image is on one side of the split with an exact duplicate")
    assert warnings[1].startswith("12 images are near duplicates, in 6 groups that stay on one side")
    assert "(IMG_0000.png, copy_0.jpg)" in warnings[1]
    assert len(warnings) == 2


def test_a_newcomer_joins_its_near_duplicate_and_moves_nothing(tmp_path):
    folder = photos(tmp_path / "photos", *range(8))
    before, _, _ = sides(folder)
    for number in range(8):
        copy_of(folder, number, f"copy_{number}.jpg")
    photos(folder, *range(20, 24))
    after, left_out, _ = sides(folder)
    assert left_out == []
    assert before.items() <= after.items()
    assert all(after[f"copy_{n}.jpg"] == before[f"IMG_000{n}.png"] for n in range(8))


def test_one_that_joins_both_sides_is_left_out_and_named(tmp_path):
    """A chain of crops whose ends stand on either side; then its middle arrives."""
    whole = noise_image(3, (400, 400)).resize((400, 400))
    folder = photos(tmp_path / "photos", *range(30, 36))
    crops = {step: whole.crop((step, step, 400 - step, 400 - step)) for step in range(0, 80, 4)}
    far = next(
        step for step in crops if step and grouped([crops[0], crops[step]]) == []
    )  # just too far for a near duplicate
    crops[0].save(folder / "near.png")
    for tag in range(40):
        # Another compression is another content: until the split puts them on two sides.
        crops[far].save(folder / "far.jpg", quality=60 + tag)
        before, _, _ = sides(folder)
        if before["near.png"] != before["far.jpg"]:
            break
        folder.with_suffix(".json").unlink()
    middle = next(
        step for step in crops if step and len(grouped([crops[0], crops[step], crops[far]])[0]) == 3
    )
    crops[middle].save(folder / "bridge.png")
    after, left_out, warnings = sides(folder)
    assert left_out == ["bridge.png"]
    assert after == before
    assert any("left out: bridge.png" in warning for warning in warnings)
    assert any("both sides" in warning and "near.png" in warning for warning in warnings)


def test_a_burst_is_not_the_yardstick(tmp_path):
    """Of two motifs, one photographed nine times: the other one is held out."""
    folder = photos(tmp_path / "photos", 1, 2)
    for n in range(9):
        copy_of(folder, 1, f"burst_{n}.jpg", quality=40 + 5 * n)
    found, _, _ = sides(folder)
    assert [name for name, side in found.items() if side == "validation"] == ["IMG_0002.png"]


def test_a_set_of_one_motif_cannot_be_split(tmp_path):
    folder = photos(tmp_path / "photos", 1)
    copy_of(folder, 1, "a.jpg")
    with pytest.raises(DatasetProblems, match=r"all 2 images are near duplicates.*near_duplicates=never"):
        sides(folder)
    assert len(sides(folder, near_duplicates="never")[0]) == 2


def test_fingerprints_are_remembered(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", *range(5))
    copy_of(folder, 1, "copy.jpg")
    memo_file = tmp_path / "memo.json"
    sides(folder, near_duplicates="never", memo_file=memo_file)
    first = sides(folder, memo_file=memo_file)
    assert any("near duplicates" in warning for warning in first[2])
    monkeypatch.setattr(inspection, "load_image", None)
    assert sides(folder, memo_file=memo_file) == first


def test_what_is_remembered_counts_only_where_it_is_asked_for(tmp_path):
    folder = photos(tmp_path / "photos", 1)
    copy_of(folder, 1, "a.jpg")
    memo_file = tmp_path / "memo.json"
    for _ in range(2):
        with pytest.raises(DatasetProblems, match=r"near_duplicates=never"):
            sides(folder, memo_file=memo_file)
        assert len(sides(folder, near_duplicates="never", memo_file=memo_file)[0]) == 2


def test_large_sets_are_searched_only_when_asked(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", *range(5))
    copy_of(folder, 1, "copy.jpg")
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 5)
    assert sides(folder)[2] == []
    assert len(sides(folder, near_duplicates="always")[2]) == 1
    (folder / "copy.jpg").unlink()
    monkeypatch.setattr(preflight, "group_near_duplicates", lambda values: {name: name for name in values})
    assert sides(folder)[2] == []


def test_the_same_groups_whatever_the_order(demo):
    images = {hashlib.sha256(image.tobytes()).hexdigest(): image for image in demo[:6]}
    small = {f"{name}+": image.resize((100, 100)) for name, image in images.items()}
    values = {name: fingerprint(image) for name, image in (images | small).items()}
    there, back = group_near_duplicates(values), group_near_duplicates(dict(reversed(values.items())))
    for one, other in combinations(values, 2):
        assert (there[one] == there[other]) == (back[one] == back[other])
