"""The scores against numbers worked out by hand, and the interval against what it promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.metrics.scores import (
    bootstrap_interval,
    mean_pairwise_cosine,
    mean_self_cosine,
    memorisation,
    paired_cosine,
    scaled,
)
from src.randomness import generator


def _at(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane: cosines are cosines of differences of angles."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def test_mean_pairwise_cosine_is_over_all_pairs():
    expected = (1 + 0.5 + 0 + math.cos(math.radians(30))) / 4
    assert mean_pairwise_cosine(_at(0, 90), _at(0, 60)) == pytest.approx(expected, abs=1e-6)


def test_self_cosine_leaves_the_diagonal_out():
    assert mean_self_cosine(_at(0, 60)) == pytest.approx(0.5, abs=1e-6)
    assert mean_self_cosine(_at(0, 60, 120)) == pytest.approx((0.5 + 0.5 - 0.5) / 3, abs=1e-6)


def test_a_single_photo_has_no_ceiling():
    with pytest.raises(AssertionError):
        mean_self_cosine(_at(0))


def test_paired_cosine_is_not_clamped():
    assert paired_cosine(_at(0, 0, 0), _at(0, 60, 180)).tolist() == pytest.approx([1, 0.5, -1], abs=1e-6)


@pytest.mark.parametrize(
    ("floor", "score", "ceiling", "expected"),
    [
        (0.2, 0.5, 0.8, 0.5),
        (0.2, 0.2, 0.8, 0.0),
        (0.2, 0.1, 0.8, -1 / 6),
        (0.2, 0.9, 0.8, 7 / 6),
        (0.8, 0.9, 0.8, None),
        (0.8, 0.9, 0.7, None),
        (0.8, 0.9, None, None),
        (0.8, 0.9, math.nan, None),
    ],
)
def test_scaled(floor, score, ceiling, expected):
    assert scaled(floor, score, ceiling) == (None if expected is None else pytest.approx(expected))


def test_interval_depends_on_values_and_seed_only():
    values = torch.randn(12, generator=generator("values"))
    torch.randn(7)
    first = bootstrap_interval(values, 3)
    assert first == bootstrap_interval(values, 3)
    assert first != bootstrap_interval(values, 4)
    assert first[0] < values.mean().item() < first[1]


def test_interval_agrees_with_the_normal_one():
    values = torch.randn(400, generator=generator("normal"))
    half = 1.96 * values.std().item() / math.sqrt(400)
    low, high = bootstrap_interval(values, 0)
    assert low == pytest.approx(values.mean().item() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.1 * half)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(torch.randn(30, generator=generator("trial", trial)), 0)
        hits += low <= 0 <= high
    # 0.92 is what percentile intervals of 30 reach; binomial spread of 200 trials is 0.02.
    assert 0.88 <= hits / 200 <= 0.98


def test_images_of_one_prompt_count_less_than_prompts():
    """Four prompts with ten like images each are four observations, not forty."""
    prompts = [f"prompt {index // 10}" for index in range(40)]
    values = torch.tensor([float(index // 10) for index in range(40)])
    alone, grouped = bootstrap_interval(values, 0), bootstrap_interval(values, 0, groups=prompts)
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])
    assert bootstrap_interval(values, 0, groups=["one"] * 40) != (math.nan, math.nan)


def test_groups_of_unequal_size_are_weighted_by_images():
    values = torch.tensor([0.0, 1.0, 1.0, 1.0])
    low, high = bootstrap_interval(values, 0, groups=["a", "b", "b", "b"])
    assert (low, high) == (0.0, 1.0)


def test_one_image_has_no_interval():
    assert all(math.isnan(bound) for bound in bootstrap_interval(torch.tensor([0.5]), 0))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=10))
def test_interval_stays_within_the_values(values):
    low, high = bootstrap_interval(torch.tensor(values), 1)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_memorisation_is_calibrated_on_held_out_photos():
    training = _at(0, 90, 180)
    held_out = _at(*(10 + 0.5 * index for index in range(21)))  # 10 to 20 degrees from a training photo
    result = memorisation(_at(1, 45, 12), training, held_out)
    assert result.nearest.tolist() == pytest.approx(
        [math.cos(math.radians(angle)) for angle in (1, 45, 12)], abs=1e-6
    )
    assert result.share_above == pytest.approx(1 / 3)
    assert memorisation(held_out, training, held_out).share_above <= 0.05
