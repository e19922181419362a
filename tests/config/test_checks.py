import pytest

from src.checks import require_choice
from src.config.checks import parse_size, require_positive
from src.errors import UserError


def test_a_size_is_a_number_or_a_pair():
    assert parse_size("dataset.resolution", 512) == (512, 512)
    assert parse_size("dataset.resolution", [1280, 720]) == (1280, 720)


@pytest.mark.parametrize(
    "value", ["512", 512.0, True, [512], [512, 512, 512], None, ["a", "b"], {"width": 8}]
)
def test_anything_else_is_no_size(value):
    with pytest.raises(UserError, match=r"dataset\.resolution.*whole number or \[width, height\]"):
        parse_size("dataset.resolution", value)


def test_a_size_that_is_not_divisible_names_the_nearest():
    with pytest.raises(UserError, match="96 and 104"):
        parse_size("dataset.resolution", 100)
    with pytest.raises(UserError, match="not a positive multiple"):
        parse_size("dataset.resolution", 0)


def test_a_wrong_choice_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean lora"):
        require_choice("adapter.unet", "lor", ("lora", "full", "frozen"))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_means_positive_and_finite(value):
    with pytest.raises(UserError, match="positive"):
        require_positive("optimizer.lr", value)
