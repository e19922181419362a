"""Batches of images of several shapes: one shape each, whoever reads them."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.buckets import assign_buckets, bucket_rules
from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache
from src.data.loader import step_batches
from src.data.order import Draw, Position, num_micro_batches
from src.data.records import Record
from src.files import sha256_file
from src.randomness import address_seed
from tests.data.pictures import TinyEncoders, noise_image
from tests.data.test_encode import assert_equal

SHAPES = ((100, 60), (60, 100), (64, 64))
RULES = bucket_rules((40, 40), min_side=24, max_crop=0.2)


@pytest.fixture
def records(tmp_path):
    made = []
    for number in range(11):
        path = tmp_path / f"{number:02d}.png"
        noise_image(number, SHAPES[number % 3]).save(path)
        made.append(Record(path=path, caption=f"caption {number}", id=path.name))
    return made


@pytest.fixture
def make(records, tmp_path):
    def dataset(encoders=None, *, cached=False, sizes=None, **keywords):
        encoders = encoders or TinyEncoders()
        shapes = {record.id: Image.open(record.path).size for record in records}
        buckets, problems = assign_buckets(shapes, RULES)
        assert not problems
        return EncodedDataset(
            records,
            hashes={record.id: sha256_file(record.path) for record in records},
            sizes=sizes or buckets,
            encode_images=encoders.images,
            encode_text=encoders.text,
            latent_cache=LatentCache(tmp_path / "latents", vae_hash="vae") if cached else None,
            **{"seed": 0, "crop": "random", "flip": True, "num_variants": 3, **keywords},
        )

    return dataset


def passes(dataset, num_passes=2, *, start=None, **keywords):
    batches = step_batches(dataset, seed=3, start=start or Position(), **{"batch_size": 3, **keywords})
    found = []
    for plan, batch in batches:
        if plan.position.pass_number == num_passes:
            batches.close()
            return found
        found.append((plan, batch))


def test_every_batch_has_one_bucket_and_every_image_its_own(make):
    dataset = make()
    assert set(dataset.sizes.values()) == {(48, 32), (32, 48), (40, 40)}
    found = passes(dataset)
    assert (
        len(found) == 2 * num_micro_batches(dataset.ids, global_batch_size=3, bucket_of=dataset.sizes) == 10
    )
    for plan, batch in found:
        [(width, height)] = {dataset.sizes[id] for id in batch.ids}
        assert batch.mean.shape[2:] == (height // 8, width // 8)
        assert batch.target_sizes.tolist() == [[height, width]] * len(batch.ids)
        assert [draw.id for draw in plan.draws] == batch.ids
    for number in range(2):
        ids = [id for plan, batch in found if plan.position.pass_number == number for id in batch.ids]
        assert sorted(ids) == sorted(dataset.ids)
    # 4, 4 and 3 images: two batches of a single image close each pass.
    assert sorted(len(batch.ids) for _, batch in found[:5]) == [1, 1, 3, 3, 3]
    assert [len(batch.ids) for _, batch in found[3:5]] == [1, 1]


def test_workers_and_caches_change_nothing(make):
    cached = make(cached=True)
    cached.fill()
    start = Position(pass_number=0, index=2)
    expected = passes(make(), start=start)
    for dataset in (make(), cached):
        for num_workers in (0, 1, 2):
            found = passes(dataset, start=start, num_workers=num_workers)
            assert [plan for plan, _ in found] == [plan for plan, _ in expected]
            for (_, batch), (_, other) in zip(found, expected, strict=True):
                assert_equal(batch, other)


def test_another_size_is_another_entry(make):
    encoders = TinyEncoders()
    dataset = make(encoders, cached=True)
    assert dataset.num_missing()[0] == {(48, 32): 4 * 3, (32, 48): 4 * 3, (40, 40): 3 * 3}
    assert dataset.fill() == 33
    assert make(cached=True).num_missing()[0].total() == 0
    square = make(cached=True, sizes=dict.fromkeys(dataset.ids, (40, 40)))
    assert square.num_missing()[0] == {(40, 40): 8 * 3}, "the square ones are there"


def content(dataset, *, world_size, batch_size):
    """What each global micro-batch holds, and the address, size and content of each sample."""
    plans, samples = {}, []
    for rank in range(world_size):
        for plan, batch in passes(dataset, rank=rank, world_size=world_size, batch_size=batch_size):
            assert plans.setdefault(plan.position, plan) == plan
            assert 1 <= len(batch.ids) <= batch_size
            rows = zip(batch.pass_numbers, batch.ids, batch.mean, batch.weights, strict=True)
            samples += [(p, id, m.flatten().tolist()) for p, id, m, weight in rows if weight]
    return plans, sorted(samples)


def test_world_size_changes_nothing_with_the_same_global_batch(make):
    dataset = make()
    assert content(dataset, world_size=2, batch_size=2) == content(dataset, world_size=1, batch_size=4)
    # Another global batch: other company, but each image as often and with the same draws.
    assert content(dataset, world_size=3, batch_size=1)[1] == content(dataset, world_size=1, batch_size=4)[1]


@pytest.mark.parametrize("number", range(6))
def test_sdxl_is_told_where_a_bucketed_flipped_random_crop_lies(make, number):
    """By hand: 100x60 in a bucket of 48x32 is scaled by 32/60 to 53x32, and 5 columns are left over.

    Width and height, top and left as diffusers' SDXL script has them: the image is resized, mirrored, and
    then cropped at (top, left).
    """
    dataset = make(crop="random", num_variants=6)
    path = next(record.path for record in dataset.records if record.id == "00.png")
    left = address_seed(0, "crop", sha256_file(path), number, "left") % 6
    draws = (Draw(id="00.png", pass_number=n) for n in range(500))
    key = dataset.reader.latent_key("00.png", number)
    draw = next(d for d in draws if dataset.reader.read([d], [1.0])[0].latent_key == key)
    batch = dataset.batch([draw], [1.0])
    assert batch.original_sizes.tolist() == [[60, 100]]
    assert batch.crop_top_lefts.tolist() == [[0, left]]
    assert batch.target_sizes.tolist() == [[32, 48]]

    whole = Image.open(path).resize((53, 32), Image.Resampling.LANCZOS)
    if number % 2 == 1:
        whole = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = np.asarray(whole.crop((left, 0, left + 48, 32))).astype(int)
    [sample] = dataset.reader.read([draw], [1.0])
    # 53 columns are a third of a column less than 100 x 32/60: what is resampled lies as little beside.
    assert np.abs(sample.latent.pixels.astype(int) - expected).mean() < 2


def test_the_measured_side_is_never_mirrored_or_cropped_at_random(make):
    dataset = make(crop="center", flip=False, num_variants=1)
    draws = [
        Draw(id=id, pass_number=n) for n in range(4) for id in dataset.ids if dataset.sizes[id] == (48, 32)
    ]
    batch = dataset.batch(draws, [1.0] * len(draws))
    assert batch.crop_top_lefts.tolist() == [[0, 2]] * len(draws)
    assert torch.equal(batch.mean[:4], batch.mean[4:8])
