import multiprocessing
import time
from dataclasses import fields
from itertools import islice

import pytest
import torch

from src.data import loader
from src.data.batches import Batch
from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache
from src.data.loader import step_batches
from src.data.order import Draw, Position, micro_batches
from src.data.samples import num_effective_variants
from src.data.text_cache import TextCache
from src.errors import UserError
from src.files import sha256_file
from tests.data.pictures import TinyEncoders, noise_image, photo_records

SIZE = (32, 24)


@pytest.fixture
def photos(tmp_path):
    return photo_records(tmp_path / "photos", 7)


@pytest.fixture
def make(photos, tmp_path):
    """Makes a dataset over the photos, with or without caches."""

    def dataset(encoders=None, *, cached=True, text=True, precision="fp32", **keywords):
        encoders = encoders or TinyEncoders()
        settings = {"seed": 0, "crop": "random", "flip": True, "num_variants": 3, **keywords}
        settings.setdefault("sizes", {record.id: SIZE for record in photos[0]})
        caches = {}
        if cached:
            caches["latent_cache"] = LatentCache(tmp_path / "latents", vae_hash="vae", precision=precision)
            if text:
                caches["text_cache"] = TextCache(tmp_path / "text", text_hash="text", precision=precision)
        return EncodedDataset(
            photos[0],
            hashes=photos[1],
            encode_images=encoders.images,
            encode_text=encoders.text if text else None,
            **caches,
            **settings,
        )

    return dataset


def draws_of(dataset, passes=3):
    return [Draw(id=id, pass_number=number) for number in range(passes) for id in dataset.ids]


def assert_equal(one: Batch, other: Batch):
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "embeddings":
            assert (a is None) == (b is None)
            if a is not None:
                assert torch.equal(a.hidden, b.hidden)
                assert torch.equal(a.pooled, b.pooled)
        elif isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b), field.name
        else:
            assert a == b, field.name


def test_a_batch_says_what_it_is(make):
    dataset = make(crop="center", flip=False, num_variants=1)
    draws = [Draw(id="IMG_0002.png", pass_number=4), Draw(id="IMG_0000.png", pass_number=4, draw=1)]
    batch = dataset.batch(draws, [1.0, 0.0])
    assert batch.ids == ["IMG_0002.png", "IMG_0000.png"]
    assert (batch.pass_numbers, batch.draws) == ([4, 4], [0, 1])
    assert batch.mean.shape == batch.std.shape == (2, 4, 3, 4)
    assert batch.mean.dtype == torch.float32
    assert batch.captions == ["caption of IMG_0002", "caption of IMG_0000"]
    assert batch.embeddings.hidden.shape == (2, 6, 6)
    assert batch.embeddings.pooled.shape == (2, 6)
    assert batch.weights.tolist() == [1.0, 0.0]
    # 48x40 covers 32x24 as 32x27: (height, width), and (top, left).
    assert batch.original_sizes.tolist() == [[40, 48]] * 2
    assert batch.crop_top_lefts.tolist() == [[1, 0]] * 2
    assert batch.target_sizes.tolist() == [[24, 32]] * 2


def test_cached_equals_on_the_fly(make):
    cached, fresh = make(), make(cached=False)
    cached.fill()
    draws = draws_of(cached)
    assert_equal(cached.batch(draws, [1.0] * len(draws)), fresh.batch(draws, [1.0] * len(draws)))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_the_same_when_first_made_and_when_read(make, precision):
    made = make(precision=precision)
    draws = draws_of(made)
    first = made.batch(draws, [1.0] * len(draws))
    assert_equal(made.batch(draws, [1.0] * len(draws)), first)
    fresh = make(cached=False).batch(draws, [1.0] * len(draws))
    assert torch.allclose(first.mean, fresh.mean, rtol=1e-2, atol=1e-3)


def test_one_batch_equals_its_samples(make):
    dataset = make(cached=False)
    draws = draws_of(dataset, passes=1)
    whole = dataset.batch(draws, [1.0] * len(draws))
    for index, draw in enumerate(draws):
        assert torch.equal(dataset.batch([draw], [1.0]).mean[0], whole.mean[index])


def test_fill_encodes_each_variant_once(make):
    encoders = TinyEncoders()
    calls = []
    dataset = make(encoders)
    assert dataset.fill(lambda done, total: calls.append((done, total))) == 7 * 3 + 8
    assert (encoders.num_images, encoders.num_texts) == (21, 8)
    assert calls == [(number, 29) for number in range(1, 30)]
    draws = draws_of(dataset, passes=5)
    dataset.batch(draws, [1.0] * len(draws))
    assert make(encoders, seed=5).fill() == 0
    assert make(encoders, seed=5).batch(draws, [1.0] * len(draws))
    assert (encoders.num_images, encoders.num_texts) == (21, 8)


def test_ranks_share_the_filling(make):
    encoders = TinyEncoders()
    # One after the other: a rank that starts late still does its own share, not a share of what is left.
    assert make(encoders).fill(rank=0, world_size=2) == 4 * 3 + 4 + 1
    assert make(encoders).fill(rank=1, world_size=2) == 3 * 3 + 3
    assert (encoders.num_images, encoders.num_texts) == (21, 8)
    assert make(encoders).fill() == 0


def test_copies_share_entries(make, photos):
    records, hashes = photos
    noise_image(0).save(records[1].path)
    hashes["IMG_0001.png"] = sha256_file(records[1].path)
    encoders = TinyEncoders()
    dataset = make(encoders, text=False)
    dataset.fill()
    assert encoders.num_images == 6 * 3


def test_a_damaged_entry_is_made_again(make, caplog):
    dataset = make()
    dataset.fill()
    draws = draws_of(dataset)
    whole = dataset.batch(draws, [1.0] * len(draws))
    for number, folder in enumerate((dataset.reader.latent_cache, dataset.reader.text_cache)):
        for path in sorted(folder._store._folder.rglob("*.safetensors")):
            path.write_bytes(path.read_bytes()[: 100 if number else -3])
    assert_equal(dataset.batch(draws, [1.0] * len(draws)), whole)
    assert "damaged and will be made again" in caplog.text
    caplog.clear()
    assert_equal(dataset.batch(draws, [1.0] * len(draws)), whole)
    assert "damaged" not in caplog.text


def test_passes_pick_variants_and_seeds_pick_others(make):
    dataset, other = make(num_variants=4), make(num_variants=4, seed=1)

    def corners(of, number):
        draws = [Draw(id=id, pass_number=number) for id in of.ids]
        return of.batch(draws, [1.0] * len(draws)).mean

    assert not torch.equal(corners(dataset, 0), corners(dataset, 1))
    assert not torch.equal(corners(dataset, 0), corners(other, 0))


def test_flips_are_encoded_from_mirrored_pixels(make):
    encoders = TinyEncoders()
    dataset = make(encoders, crop="center", flip=True, num_variants=1, cached=False)
    assert dataset.reader.num_variants == 2
    draws = [Draw(id="IMG_0000.png", pass_number=number) for number in range(20)]
    means = {tuple(mean.flatten().tolist()) for mean in dataset.batch(draws, [1.0] * 20).mean}
    assert len(means) == 2


@pytest.mark.parametrize(
    ("crop", "flip", "num_variants", "expected"),
    [("center", False, 5, 1), ("center", True, 5, 2), ("random", False, 5, 5), ("random", True, 1, 2)],
)
def test_effective_variants(crop, flip, num_variants, expected):
    assert num_effective_variants(crop=crop, flip=flip, num_variants=num_variants) == expected


def test_caption_dropout_is_addressed_and_as_often_as_asked(make):
    dataset = make(caption_dropout=0.3)
    draws = draws_of(dataset, passes=60)
    captions = dataset.batch(draws, [1.0] * len(draws)).captions
    assert 0.2 < captions.count("") / len(captions) < 0.4
    assert dataset.batch(draws[50:60], [1.0] * 10).captions == captions[50:60]
    assert make(caption_dropout=1.0).batch(draws[:9], [1.0] * 9).captions == [""] * 9
    assert "" not in make().batch(draws[:50], [1.0] * 50).captions


@pytest.mark.parametrize("cached", [True, False])
def test_a_dropped_caption_is_the_empty_one_cached_and_live(make, cached):
    """The same draws lose theirs, whether embeddings are kept, made each time, or left to the loop."""
    encoders = TinyEncoders()
    live = make(text=False, cached=cached, caption_dropout=0.5)
    draws = draws_of(live)
    weights = [1.0] * len(draws)
    captions = live.batch(draws, weights).captions
    assert 0 < captions.count("") < len(captions)
    dataset = make(encoders, cached=cached, caption_dropout=0.5)
    if cached:
        dataset.fill()
    batch = dataset.batch(draws, weights)
    assert batch.captions == captions
    hidden, pooled = encoders.text(captions)
    assert torch.equal(batch.embeddings.hidden, hidden)
    assert torch.equal(batch.embeddings.pooled, pooled)


def test_without_a_text_encoder_there_are_no_embeddings(make):
    dataset = make(text=False)
    dataset.fill()
    assert dataset.batch(draws_of(dataset), [1.0] * 21).embeddings is None


def test_an_image_that_breaks_after_the_preflight_is_named(make, photos):
    photos[0][3].path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"IMG_0003\.png cannot be read"):
        make().fill()


def test_a_vae_that_overflows_is_named(make):
    encoders = TinyEncoders()
    encoders.weight *= float("inf")
    with pytest.raises(UserError, match=r"NaN or infinity for IMG_0000\.png.*vae_path"):
        make(encoders).fill()


@pytest.mark.parametrize("cached", [True, False])
def test_workers_change_nothing(make, cached):
    dataset = make(cached=cached, caption_dropout=0.2)
    if cached:
        dataset.fill()
    start = Position(pass_number=1, index=1)
    found = {}
    global_rng = torch.get_rng_state()
    for num_workers in (0, 2):
        batches = step_batches(dataset, seed=3, batch_size=3, start=start, num_workers=num_workers)
        found[num_workers] = list(islice(batches, 7))
        batches.close()
    assert torch.equal(torch.get_rng_state(), global_rng)
    for (plan, batch), (plan_of_workers, batch_of_workers) in zip(found[0], found[2], strict=True):
        assert plan == plan_of_workers
        assert [draw.id for draw in plan.draws] == batch.ids
        assert_equal(batch, batch_of_workers)
    assert found[0][0][0].position == start
    assert len(found[0][1][1].ids) == 1  # the last of a pass


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_plan_that_ends_ends_the_batches(make, monkeypatch, num_workers):
    monkeypatch.setattr(
        loader, "micro_batches", lambda *args, **kwargs: islice(micro_batches(*args, **kwargs), 2)
    )
    batches = step_batches(make(), seed=0, batch_size=3, start=Position(), num_workers=num_workers)
    assert len(list(batches)) == 2


def test_world_size_changes_neither_samples_nor_their_content(make):
    dataset = make(caption_dropout=0.3)

    def content(world_size, batch_size):
        found = []
        for rank in range(world_size):
            batches = step_batches(
                dataset, seed=0, batch_size=batch_size, start=Position(), rank=rank, world_size=world_size
            )
            for plan, batch in batches:
                if plan.position.pass_number == 2:
                    break
                addresses = zip(
                    batch.pass_numbers, batch.ids, batch.captions, batch.mean, batch.weights, strict=True
                )
                found += [
                    (p, i, c, tuple(m.flatten().tolist())) for p, i, c, m, weight in addresses if weight
                ]
        return sorted(found)

    assert content(1, 4) == content(2, 2) == content(3, 1)
    assert len(content(2, 4)) == 14


def test_errors_in_workers_keep_to_one_line(make, photos):
    photos[0][3].path.write_bytes(b"x")
    for num_workers in (0, 1):
        batches = step_batches(make(), seed=0, batch_size=7, start=Position(), num_workers=num_workers)
        with pytest.raises(UserError, match=r"IMG_0003\.png cannot be read") as caught:
            next(batches)
        assert "\n" not in str(caught.value)


def _fill(dataset: EncodedDataset) -> None:
    # A forked process has none of its parent's threads, and would wait for them.
    torch.set_num_threads(1)
    dataset.fill()


def test_two_jobs_fill_one_cache_and_one_is_killed(make, tmp_path):
    context = multiprocessing.get_context("fork")
    first, second = (context.Process(target=_fill, args=(make(),)) for _ in range(2))
    first.start()
    second.start()
    deadline = time.monotonic() + 20
    while len(list(tmp_path.rglob("*.safetensors"))) < 8 and time.monotonic() < deadline:
        time.sleep(0.001)
    first.kill()
    first.join()
    second.join()
    assert second.exitcode == 0
    dataset = make()
    assert dataset.num_missing() == ({}, 0)
    draws = draws_of(dataset)
    fresh = make(cached=False)
    assert_equal(dataset.batch(draws, [1.0] * len(draws)), fresh.batch(draws, [1.0] * len(draws)))
