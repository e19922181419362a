from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.buckets import (
    assign_buckets,
    bucket_counts,
    bucket_of,
    bucket_rules,
    bucket_sizes,
    crop_share,
    describe_buckets,
    upscale,
)
from src.data.images import prepare_variant
from src.data.preflight import check_dataset
from src.data.readers.subject import read_subject
from src.errors import DatasetProblems, UserError
from tests.data.pictures import noise_image, orientation_exif

SIDES = st.integers(1, 400)
SIZES = st.tuples(SIDES, SIDES)
RULES = st.builds(
    bucket_rules,
    st.sampled_from([(64, 64), (128, 128), (160, 88), (72, 40)]),
    step=st.sampled_from([None, 8, 16]),
    min_side=st.sampled_from([None, 16, 32]),
    max_upscale=st.sampled_from([0.5, 1.0, 1.5, 4.0]),
    max_crop=st.sampled_from([0.0, 0.05, 0.1, 0.5]),
)


@cache
def all_sizes(rules):
    """Every size that the settings allow, by trying all."""
    longest = rules.area // max(rules.min_side, 8)
    sides = [side for side in range(8, longest + 1, 8) if side >= rules.min_side and not side % rules.step]
    return {(w, h) for w in sides for h in sides if w * h <= rules.area}


@settings(max_examples=100, deadline=None)
@given(size=SIZES, rules=RULES)
def test_a_bucket_keeps_every_limit_and_is_missing_only_where_none_does(size, rules):
    bucket = bucket_of(size, rules)
    sizes = all_sizes(rules)
    # The share of the image that a crop leaves, written out in pixels of the enlarged image.
    possible = set()
    for width, height in sizes:
        scale = max(width / size[0], height / size[1])
        left = width * height / (size[0] * scale * size[1] * scale)
        if scale <= rules.max_upscale and 1 - left <= rules.max_crop + 1e-9:
            possible.add((width, height))
    if bucket is None:
        assert not {b for b in possible if crop_share(size, b) < rules.max_crop}
        return
    assert bucket in possible
    full = possible & set(bucket_sizes(rules))
    if bucket in full:
        assert crop_share(size, bucket) == pytest.approx(min(crop_share(size, b) for b in full))
    else:
        assert not {b for b in full if crop_share(size, b) < rules.max_crop}
        inside = {b for b in possible if crop_share(size, b) < rules.max_crop}
        assert bucket[0] * bucket[1] >= max((w * h for w, h in inside), default=0)


@settings(max_examples=100, deadline=None)
@given(size=SIZES, rules=RULES)
def test_turning_an_image_turns_its_bucket(size, rules):
    turned = bucket_of(size[::-1], rules)
    if size[0] != size[1]:
        assert bucket_of(size, rules) == (turned and turned[::-1])


@settings(max_examples=50, deadline=None)
@given(rules=RULES)
def test_full_buckets_are_those_that_cannot_grow(rules):
    sizes = all_sizes(rules)
    grown = {(w, h): {(w + rules.step, h), (w, h + rules.step)} for w, h in sizes}
    assert set(bucket_sizes(rules)) == {size for size in sizes if not grown[size] & sizes}


@settings(max_examples=25, deadline=None)
@given(sizes=st.dictionaries(st.text(max_size=3), SIZES, max_size=8), rules=RULES)
def test_each_image_has_a_bucket_or_a_problem(sizes, rules):
    buckets, problems = assign_buckets(sizes, rules)
    assert buckets.keys() | problems.keys() == sizes.keys()
    assert not buckets.keys() & problems.keys()
    assert buckets == {id: bucket_of(size, rules) for id, size in sizes.items() if id in buckets}
    assert sum(bucket_counts(buckets).values()) == len(buckets)


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(20, 90), st.integers(20, 90)), flip=st.booleans(), number=st.integers(0, 9))
def test_a_crop_of_a_bucket_lies_inside_the_image(size, flip, number):
    bucket = bucket_of(size, bucket_rules((64, 64), max_upscale=4.0, max_crop=0.9))
    variant = prepare_variant(
        noise_image(number, size), size=bucket, crop="random", flip=flip, seed_parts=(number,)
    )
    assert variant.pixels.shape == (bucket[1], bucket[0], 3)
    scale = upscale(size, bucket)
    top, left = variant.crop_top_left
    assert 0 <= left <= size[0] * scale - bucket[0] + 0.5
    assert 0 <= top <= size[1] * scale - bucket[1] + 0.5


@pytest.mark.parametrize(
    ("resolution", "size", "expected"),
    [
        (512, (4032, 3024), (576, 448)),
        (512, (3024, 4032), (448, 576)),
        (512, (1920, 1080), (640, 384)),
        (512, (640, 480), (576, 448)),
        (512, (1000, 1000), (512, 512)),
        # Between two full buckets, each of which would crop more than a tenth.
        (512, (1134, 1000), (512, 448)),
        # Too small for a full one, and for any.
        (512, (400, 300), (320, 256)),
        (512, (300, 200), None),
        (512, (3000, 500), None),
        (1024, (4032, 3024), (1152, 896)),
        (1024, (1920, 1080), (1344, 768)),
        (64, (768, 576), (72, 56)),
    ],
)
def test_examples(resolution, size, expected):
    assert bucket_of(size, bucket_rules((resolution, resolution))) == expected


def test_steps_follow_the_resolution():
    steps = {side: bucket_rules((side, side)).step for side in (32, 64, 128, 256, 512, 768, 1024, 2048)}
    assert steps == {32: 8, 64: 8, 128: 16, 256: 32, 512: 64, 768: 64, 1024: 64, 2048: 64}
    assert bucket_rules((1280, 720), step=80).step == 80


def test_sdxl_gets_the_range_of_its_own_buckets():
    """512 to 2048 pixels a side (arXiv 2307.01952, appendix I)."""
    sides = [side for size in bucket_sizes(bucket_rules((1024, 1024))) for side in size]
    assert (min(sides), max(sides)) == (512, 2048)


def test_settings_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match=r"step=128 .* leave no size within the 4096 pixels"):
        bucket_rules((64, 64), step=128)
    with pytest.raises(UserError, match="min_side=72 leave no size"):
        bucket_rules((64, 64), min_side=72)


def test_counts_and_their_line():
    buckets = {"a": (64, 64), "b": (72, 56), "c": (64, 64), "d": (56, 72)}
    assert bucket_counts(buckets) == {(64, 64): 2, (56, 72): 1, (72, 56): 1}
    line = describe_buckets(buckets, batch_size=2)
    assert line == "Buckets: 64x64 (2), 56x72 (1), 72x56 (1); 2 of 3 batches of 2 are not full"


def preflight(folder, *, on_problem="refuse", **rules):
    result = read_subject(path=folder, placeholder="sksToy", default_caption="a toy")
    return check_dataset(
        result,
        resolution=(64, 64),
        bucket_rules=bucket_rules((64, 64), **rules),
        on_problem=on_problem,
    )


def test_the_preflight_assigns_by_upright_size(tmp_path):
    noise_image(0, (90, 90)).save(tmp_path / "square.png")
    noise_image(1, (96, 72)).save(tmp_path / "wide.jpg")
    for suffix in ("jpg", "heic", "png", "tiff"):
        noise_image(ord(suffix[0]), (96, 72)).save(
            tmp_path / f"turned_{suffix}.{suffix}", exif=orientation_exif(6)
        )
    report = preflight(tmp_path)
    tall = {f"turned_{suffix}.{suffix}": (56, 72) for suffix in ("jpg", "heic", "png", "tiff")}
    assert report.training_sizes == {"square.png": (64, 64), "wide.jpg": (72, 56), **tall}
    assert not any("enlarged" in warning for warning in report.warnings)


def test_the_preflight_lists_what_fits_no_bucket_with_everything_else(tmp_path):
    for name, size in {"a": (90, 90), "b": (96, 72), "long": (400, 50), "tiny": (20, 20)}.items():
        noise_image(ord(name[0]), size).save(tmp_path / f"{name}.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DatasetProblems) as caught:
        preflight(tmp_path)
    problems = sorted(caught.value.problems)
    assert [problem.split(":")[0] for problem in problems] == ["empty.png", "long.png", "tiny.png"]
    assert "400x50 would lose 50% of its pixels" in problems[1]
    assert "dataset.buckets.max_crop" in problems[1]
    assert "20x20 would be enlarged 1.60 times" in problems[2]
    assert "dataset.buckets.max_upscale" in problems[2]
    skipping = preflight(tmp_path, on_problem="skip")
    assert list(skipping.training_sizes) == [record.id for record in skipping.records] == ["a.png", "b.png"]
    (tmp_path / "empty.png").unlink()
    report = preflight(tmp_path, max_upscale=1.6, max_crop=0.5)
    assert report.training_sizes["tiny.png"] == (32, 32)
    assert any("1 image is smaller than their buckets" in warning for warning in report.warnings)
