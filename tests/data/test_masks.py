"""Masks: which files they are, what is wrong with them, and that they go the way of their images."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.encode import EncodedDataset, to_cells
from src.data.images import load_alpha, load_image, prepare_variant
from src.data.latent_cache import LatentCache, latent_entry_bytes
from src.data.mask_problems import find_masks, num_unused
from src.data.masks import MaskSource, load_mask, look_at_masks, masks_among
from src.data.order import Draw
from src.data.preflight import survey_dataset
from src.data.readers.imagefolder import read_imagefolder
from src.data.readers.subject import read_subject
from src.data.records import ReadResult, Record
from src.errors import UserError
from src.files import sha256_file
from tests.data.pictures import (
    TinyEncoders,
    noise_image,
    orientation_exif,
    photo_folder,
    quarters,
    save_turning_late,
)

SIZE = (48, 40)


def _grey(values) -> Image.Image:
    return Image.fromarray(np.uint8(values))


def _left_half(size=SIZE) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def _records(folder, num=3):
    return read_subject(path=photo_folder(folder, num)).records


def _with_masks(folder, num=3):
    records = _records(folder, num)
    (folder / "masks").mkdir()
    for record in records:
        _left_half().save(folder / "masks" / f"{record.path.stem}.png")
    return records


def _find(records, folder, kind="files", memo_file=None):
    return find_masks(records, kind=kind, folder=folder, memo_file=memo_file)


# --- Which files are masks


def test_masks_are_files_that_an_image_of_their_name_stands_beside():
    names = [
        "a.jpg",
        "masks/a.png",
        "b.jpg",
        "b-masklabel.png",
        "c/d.heic",
        "c/masks/D.PNG",
        "c/d-masklabel.png",
    ]
    assert masks_among(names) == {"masks/a.png", "b-masklabel.png", "c/masks/D.PNG", "c/d-masklabel.png"}
    # Photographs of masks, and one whose name ends so.
    assert masks_among(["masks/venice.jpg", "masks/mali.jpg", "x-masklabel.png"]) == set()


@pytest.mark.parametrize("place", ["masks/{stem}.png", "{stem}-masklabel.png"])
def test_readers_do_not_take_masks_for_images(place, tmp_path):
    photo_folder(tmp_path, 2, captions=False)
    (tmp_path / "masks").mkdir()
    for stem in ("IMG_0000", "IMG_0001"):
        _left_half().save(tmp_path / place.format(stem=stem))
    for result in (
        read_subject(path=tmp_path, default_caption="a toy"),
        read_imagefolder(path=tmp_path, default_caption="a toy"),
    ):
        assert [record.id for record in result.records] == ["IMG_0000.png", "IMG_0001.png"]
        assert result.problems == []
        assert num_unused(result.records) == 2


def test_every_record_finds_its_mask(tmp_path):
    records = _with_masks(tmp_path)
    (tmp_path / "masks" / "IMG_0001.png").rename(tmp_path / "IMG_0001-masklabel.png")
    found = _find(records, tmp_path)
    assert found.problems == []
    assert {id: source.path.name for id, source in found.sources.items()} == {
        "IMG_0000.png": "IMG_0000.png",
        "IMG_0001.png": "IMG_0001-masklabel.png",
        "IMG_0002.png": "IMG_0002.png",
    }
    assert found.sources["IMG_0001.png"].content == sha256_file(tmp_path / "IMG_0001-masklabel.png")


# --- What is wrong with them


def test_all_that_is_wrong_with_masks_is_listed_at_once(tmp_path):
    records = _with_masks(tmp_path, 7)
    masks = tmp_path / "masks"
    (masks / "IMG_0001.png").unlink()
    _left_half((40, 48)).save(masks / "IMG_0002.png")
    Image.new("L", SIZE, 0).save(masks / "IMG_0003.png")
    (masks / "IMG_0004.png").write_bytes(b"no image")
    _left_half().save(tmp_path / "IMG_0005-masklabel.png")
    _left_half().save(tmp_path.parent / "outside.png")
    (masks / "IMG_0006.png").unlink()
    (masks / "IMG_0006.png").symlink_to(tmp_path.parent / "outside.png")
    found = _find(records, tmp_path)
    assert list(found.sources) == ["IMG_0000.png"]
    messages = {problem.file: problem.message for problem in found.problems}
    assert messages.keys() == {f"IMG_000{number}.png" for number in range(1, 7)}
    for number, words in {
        1: "neither masks/IMG_0001.png nor IMG_0001-masklabel.png is beside it",
        2: "is 48x40 pixels upright, its mask IMG_0002.png 40x48",
        3: "black everywhere",
        4: "cannot be read as an image",
        5: "has several masks: IMG_0005.png, IMG_0005-masklabel.png",
        6: "leads outside the folder",
    }.items():
        assert words in messages[f"IMG_000{number}.png"]
    result = ReadResult(records=records, problems=found.problems)
    report = survey_dataset(result, resolution=SIZE)
    assert [record.id for record in report.records] == ["IMG_0000.png"], "the others can be left out"
    assert all(problem.is_skippable for problem in report.problems)


def test_a_mask_of_labels_is_refused(tmp_path):
    records = _with_masks(tmp_path)
    for record, peak in zip(records, (1, 127, 128), strict=True):
        values = np.asarray(_left_half()) // 255 * peak
        _grey(values).save(tmp_path / "masks" / record.path.name)
    found = _find(records, tmp_path)
    assert list(found.sources) == ["IMG_0002.png"]
    assert "its brightest value is 1 of 255" in found.problems[0].message
    assert "its brightest value is 127 of 255" in found.problems[1].message


def test_a_mask_without_its_image_is_no_image(tmp_path):
    _with_masks(tmp_path, 2)
    (tmp_path / "captions.txt").unlink()
    _left_half().save(tmp_path / "masks" / "lost.png")
    records = read_subject(path=tmp_path, default_caption="a toy").records
    (problem,) = _find(records, tmp_path).problems
    assert problem.file == "masks/lost.png"
    assert "no image of that name" in problem.message


def test_a_mask_without_its_image_among_captions(tmp_path):
    _with_masks(tmp_path, 2)
    _left_half().save(tmp_path / "masks" / "lost.png")
    _left_half().save(tmp_path / "plain.png")
    lost, plain = sorted(read_subject(path=tmp_path, default_caption="a toy").problems, key=lambda p: p.file)
    assert (lost.file, plain.file) == ("masks/lost.png", "plain.png")
    assert lost.message.startswith("is named like a mask, but there is no image of that name.")
    assert "it has no caption. Add the line masks/lost.png|" in lost.message
    assert "mask" not in plain.message


def test_an_alpha_channel_that_is_missing_or_empty(tmp_path):
    records = _records(tmp_path)
    for record, alpha in zip(records, (None, 0, 128), strict=True):
        if alpha is not None:
            image = Image.open(record.path)
            image.putalpha(alpha)
            image.save(record.path)
    found = _find(records, tmp_path, kind="alpha")
    assert list(found.sources) == ["IMG_0002.png"]
    missing, empty = found.problems
    assert "has no alpha channel" in missing.message
    assert "transparent everywhere" in empty.message


def test_what_was_seen_of_masks_is_remembered_until_they_change(tmp_path):
    folder, memo = tmp_path / "photos", tmp_path / "memo.json"
    records = _with_masks(folder)
    first = _find(records, folder, memo_file=memo)
    path = folder / "masks" / "IMG_0001.png"
    seen = look_at_masks([path], is_alpha=False, memo_file=memo)
    assert seen[path].peak == 255
    memo.write_text(memo.read_text().replace('"peak": 255', '"peak": 254'))
    assert look_at_masks([path], is_alpha=False, memo_file=memo)[path].peak == 254, "not decoded again"
    Image.new("L", SIZE, 0).save(path)
    again = _find(records, folder, memo_file=memo)
    assert [problem.file for problem in again.problems] == ["IMG_0001.png"]
    assert again.sources.keys() < first.sources.keys()
    memo.write_text("{")
    assert _find(records, folder, memo_file=memo) == again


def test_a_turn_that_stands_behind_the_pixels(tmp_path):
    save_turning_late(noise_image(0, (48, 40)), tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    for size, is_right in (((48, 40), False), ((40, 48), True)):
        _left_half(size).save(tmp_path / "masks" / "a.png")
        found = _find([Record(path=tmp_path / "a.png", caption="a", id="a.png")], tmp_path)
        assert (set(found.sources) == {"a.png"}) == is_right
        assert is_right or "is 40x48 pixels upright, its mask a.png 48x40" in found.problems[0].message


def test_a_mask_that_changes_after_the_preflight(tmp_path):
    source = MaskSource(path=tmp_path / "m.png", is_alpha=False, content="a")
    _left_half((10, 10)).save(source.path)
    with pytest.raises(UserError, match="changed since both were looked at"):
        load_mask(source, size=(20, 20))


# --- The way of their images


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_alpha_is_turned_with_its_image(orientation, tmp_path):
    """Opaque where the picture is red: so it must be after turning, cropping and mirroring."""
    image = quarters((64, 32)).convert("RGBA")
    green_and_blue = np.asarray(image)[..., 1:3].max(axis=2)
    image.putalpha(_grey(np.where(green_and_blue == 0, 255, 0)))
    image.save(tmp_path / "a.png", exif=orientation_exif(orientation))
    upright, alpha = load_image(tmp_path / "a.png", background=(0, 0, 0)), load_alpha(tmp_path / "a.png")
    assert alpha.size == upright.size == ((32, 64) if orientation in (6, 8) else (64, 32))
    for flip in (False, True):
        variant = prepare_variant(upright, size=(16, 16), crop="center", flip=flip, mask=alpha)
        red = variant.pixels[..., 0].astype(int)
        assert red.max() == 255
        assert np.abs(red - variant.mask).max() < 60, "but for the filters at the edge"
        assert (variant.mask == 255).sum() > 40


def test_a_mask_file_with_an_orientation_of_its_own(tmp_path):
    _left_half((64, 32)).save(tmp_path / "m.png", exif=orientation_exif(6))
    source = MaskSource(path=tmp_path / "m.png", is_alpha=False, content="a")
    mask = np.asarray(load_mask(source, size=(32, 64)))
    assert (mask[:32] == 255).all()
    assert (mask[32:] == 0).all()


@pytest.mark.parametrize("form", ["1", "RGB", "RGBA", "I;16", "P"])
def test_masks_of_any_form_are_grey(form, tmp_path):
    mask = _left_half()
    if form == "I;16":
        saved = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    elif form == "RGBA":
        # What is transparent is black, as it would be on a dark canvas.
        saved = Image.new("RGBA", SIZE, (255, 255, 255, 255))
        saved.putalpha(mask)
    else:
        saved = mask.convert(form)
    saved.save(tmp_path / "m.png")
    source = MaskSource(path=tmp_path / "m.png", is_alpha=False, content="a")
    assert np.array_equal(load_mask(source, size=SIZE), mask)


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (64, 48)])
def test_a_cell_is_the_mean_of_its_area(crop, flip, size):
    """Of the crop of the image, whatever bucket it is in: where the picture is bright the mask is, too."""
    values = np.random.default_rng(0).integers(0, 2, (20, 24)).repeat(8, 0).repeat(8, 1) * 255
    image = _grey(values).convert("RGB")
    variant = prepare_variant(
        image, size=size, crop=crop, flip=flip, seed_parts=(0, "x"), mask=image.convert("L")
    )
    cells = to_cells(variant.mask, torch.Size([size[1] // 8, size[0] // 8]))
    brightness = torch.from_numpy(variant.pixels[..., 0]).float()[None] / 255
    expected = torch.nn.functional.avg_pool2d(brightness, 8)[0]
    assert cells.shape == expected.shape
    assert (cells - expected).abs().max() < 0.05
    assert cells.std() > 0.05


def test_a_white_mask_is_exactly_one():
    cells = to_cells(np.full((40, 56), 255, dtype=np.uint8), torch.Size([5, 7]))
    assert torch.equal(cells, torch.ones(5, 7))


@pytest.fixture
def masked(tmp_path):
    folder = tmp_path / "photos"
    records = _with_masks(folder)
    _grey(np.random.default_rng(0).integers(0, 256, (40, 48))).save(folder / "masks" / "IMG_0001.png")
    hashes = {record.id: sha256_file(record.path) for record in records}

    def make(encoders=None, *, cached=True, precision="fp32", masks=True, **keywords):
        encoders = encoders or TinyEncoders()
        cache = LatentCache(tmp_path / "latents", vae_hash="vae", precision=precision) if cached else None
        settings = {"crop": "random", "flip": True, "num_variants": 3, "seed": 0, **keywords}
        return EncodedDataset(
            records,
            hashes=hashes,
            sizes={record.id: (32, 24) for record in records},
            encode_images=encoders.images,
            encode_text=encoders.text,
            latent_cache=cache,
            masks=_find(records, folder).sources if masks else None,
            **settings,
        )

    return make


def _batch(dataset):
    draws = [Draw(id=id, pass_number=number) for number in range(3) for id in dataset.ids]
    return dataset.batch(draws, [1.0] * len(draws))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cached_masks_are_those_made_on_the_fly(masked, precision):
    fresh = _batch(masked(cached=False))
    encoders = TinyEncoders()
    dataset = masked(encoders, precision=precision)
    dataset.fill()
    num_images = encoders.num_images
    cached = _batch(dataset)
    assert encoders.num_images == num_images, "all came from the cache"
    assert torch.equal(cached.masks, fresh.masks)
    assert cached.masks.dtype == torch.float32
    assert cached.masks.shape == (9, 3, 4)
    assert 0 < cached.masks.mean() < 1
    if precision == "fp32":
        assert torch.equal(cached.mean, fresh.mean)


def test_without_masks_all_is_as_it_was(masked):
    plain = masked(masks=False)
    batch, with_masks = _batch(plain), _batch(masked())
    assert batch.masks is None
    assert torch.equal(batch.mean, with_masks.mean)
    assert torch.equal(batch.std, with_masks.std)
    assert plain.reader.latent_key("IMG_0000.png", 0) == plain.reader.variant_key("IMG_0000.png", 0).hash(
        sha256_file(plain.records[0].path)
    )


def test_another_mask_is_another_entry_and_the_others_stay(masked, tmp_path):
    masked().fill()
    assert masked().num_missing()[0].total() == 0
    _left_half().transpose(Image.Transpose.ROTATE_180).save(tmp_path / "photos" / "masks" / "IMG_0002.png")
    changed = masked()
    assert changed.num_missing()[0].total() == changed.reader.num_variants
    assert masked(masks=False).num_missing()[0].total() == 3 * changed.reader.num_variants


def test_the_room_for_masks_is_projected(masked, tmp_path):
    dataset = masked()
    dataset.fill()
    projected = latent_entry_bytes((32, 24), has_mask=True)
    for file in (tmp_path / "latents").rglob("*.safetensors"):
        assert 0 <= projected - file.stat().st_size < 200


def test_records_without_masks_beside_masked_ones_are_a_bug(masked):
    dataset = masked()
    dataset.reader._masks.pop("IMG_0000.png")
    with pytest.raises(AssertionError, match="without a mask"):
        _batch(dataset)


def test_class_images_have_none(masked, tmp_path):
    folder = tmp_path / "class"
    records = [
        Record(path=path, caption="a toy", id=f"class:{path.name}")
        for path in sorted(photo_folder(folder, 2, captions=False).glob("*.png"))
    ]
    noise_image(50).save(records[0].path)
    dataset = EncodedDataset(
        records,
        hashes={record.id: sha256_file(record.path) for record in records},
        sizes=dict.fromkeys((record.id for record in records), (32, 24)),
        seed=0,
        encode_images=TinyEncoders().images,
        masks=masked().reader._masks,
    )
    assert not dataset.reader.has_masks
    assert _batch(dataset).masks is None
