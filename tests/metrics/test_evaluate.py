"""Scores with their scale: values worked out from the judges' features, and the names loggers see."""

import weakref

import pytest
import torch
from PIL import Image

from src.metrics.evaluate import evaluate_samples, measure_photos, score_lines, table_rows, words_for_clip
from src.pocket.make_models import smooth_images


def _images(count: int, seed: int) -> list[Image.Image]:
    pixels = ((smooth_images(count, 64, seed).permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy()
    return [Image.fromarray(image) for image in pixels]


PROMPTS = ["a dog", "a dog", "a red car", "a red car"]


@pytest.fixture(scope="module")
def photos():
    return _images(5, 1)


@pytest.fixture(scope="module")
def reference(dino, photos):
    return measure_photos(photos, dino=dino, clip=None)


def test_every_score_has_its_scale(dino, clip, photos):
    samples, base = _images(4, 2), _images(4, 3)
    fidelity, prompt = evaluate_samples(
        samples=samples,
        prompts=PROMPTS,
        base_samples=base,
        held_out=measure_photos(iter(photos), captions=["a dog"] * 5, dino=dino, clip=clip),
        dino=dino,
        clip=clip,
    )
    real = dino.images(photos)
    assert (fidelity.name, fidelity.label, fidelity.title) == ("dino", "pocket-random", "dino[pocket-random]")
    assert fidelity.value == pytest.approx((dino.images(samples) @ real.T).mean().item(), abs=1e-6)
    assert fidelity.floor == pytest.approx((dino.images(base) @ real.T).mean().item(), abs=1e-6)
    others = (real @ real.T)[~torch.eye(5, dtype=torch.bool)]
    assert fidelity.ceiling == pytest.approx(others.mean().item(), abs=1e-6)
    assert fidelity.low <= fidelity.value <= fidelity.high
    assert fidelity.gain_low <= fidelity.gain <= fidelity.gain_high
    texts = clip.texts(PROMPTS)
    assert prompt.title == "clip_t[pocket-random]"
    assert prompt.value == pytest.approx((clip.images(samples) * texts).sum(1).mean().item(), abs=1e-6)
    expected = (clip.images(photos) @ clip.texts(["a dog"]).T).mean().item()
    assert prompt.ceiling == pytest.approx(expected, abs=1e-6)


def test_the_photos_themselves_close_the_gap(dino, photos, reference):
    score = evaluate_samples(
        samples=photos[:4], prompts=PROMPTS, base_samples=_images(4, 3), held_out=reference, dino=dino
    )[0]
    assert score.gap_closed is not None
    assert score.gap_closed > 1, (
        "photos are compared with themselves here, the ceiling leaves the diagonal out"
    )
    way = score.ceiling - score.floor
    assert score.gap_low == pytest.approx(score.gain_low / way)
    assert score.gap_high == pytest.approx(score.gain_high / way)
    assert score.gap_low < score.gap_closed < score.gap_high
    told = f"{100 * score.gap_closed:.0f} % ({100 * score.gap_low:.0f} to {100 * score.gap_high:.0f} %)"
    assert score_lines([score])[0].endswith(f", {told} of the gap closed")
    assert table_rows([score])[0]["gap closed"] == told


def test_the_base_model_against_itself_gains_exactly_nothing(dino, clip, reference):
    base = _images(4, 3)
    for score in evaluate_samples(
        samples=base, prompts=PROMPTS, base_samples=base, held_out=reference, dino=dino, clip=clip
    ):
        assert (score.gain, score.gain_low, score.gain_high) == (0, 0, 0)


def test_what_cannot_be_had_is_left_out(dino, clip, photos):
    samples = _images(1, 2)
    assert evaluate_samples(samples=samples, prompts=["a dog"], dino=dino) == []
    (only,) = evaluate_samples(samples=samples, prompts=["a dog"], clip=clip)
    assert only.scalars() == {"clip_t[pocket-random]/samples": only.value}
    (one_photo,) = evaluate_samples(
        samples=samples,
        prompts=["a dog"],
        held_out=measure_photos(photos[:1], dino=dino, clip=None),
        dino=dino,
    )
    assert one_photo.ceiling is None
    assert one_photo.low is None


def test_names_and_rows(dino, reference):
    scores = evaluate_samples(
        samples=_images(4, 2), prompts=PROMPTS, base_samples=_images(4, 3), held_out=reference, dino=dino
    )
    names = {key.partition("/")[2] for key in scores[0].scalars()}
    assert {"samples", "samples_low", "samples_high", "base", "held_out"} <= names
    (row,) = table_rows(scores)
    assert row["score"] == "dino[pocket-random]"
    assert row["adapted"] == f"{scores[0].value:.3f}"
    (bare,) = table_rows(
        evaluate_samples(samples=_images(1, 2), prompts=["x"], held_out=reference, dino=dino)
    )
    assert bare["base (floor)"] == bare["95 % interval"] == bare["gap closed"] == "-"


def test_the_seed_fixes_the_interval(dino, reference):
    def interval(seed: int) -> tuple[float, float]:
        (score,) = evaluate_samples(
            samples=_images(8, 2),
            prompts=[str(i) for i in range(8)],
            held_out=reference,
            dino=dino,
            seed=seed,
        )
        return score.low, score.high

    assert interval(0) == interval(0) != interval(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of sksToy on a table", "a photo of toy on a table"),
        ("sksToy, and sksToys", "toy, and sksToys"),
        ("nothing", "nothing"),
        ("a sksToy toy, a sksToy toyland", "a toy, a toy toyland"),
    ],
)
def test_clip_reads_the_class_word(text, expected):
    assert words_for_clip(text, placeholder="sksToy", class_word="toy") == expected


def test_a_placeholder_may_hold_signs():
    assert words_for_clip("a <toy> here", placeholder="<toy>", class_word=r"\1 cup") == r"a \1 cup here"
    assert words_for_clip("a toy", placeholder=None, class_word="cup") == "a toy"


def test_photos_are_read_a_few_at_a_time(dino, clip):
    """A folder of large photos does not fit into memory all at once."""
    photos, alive = _images(20, 1), []

    def read():
        for photo in photos:
            alive.append(weakref.ref(copy := photo.copy()))
            assert sum(reference() is not None for reference in alive) <= 17
            yield copy

    measured = measure_photos(read(), captions=[str(i) for i in range(20)], dino=dino, clip=clip)
    torch.testing.assert_close(measured.dino, dino.images(photos))
    assert measured.clip_t.shape == (20,)
