"""Losses of each method are those of earlier versions.

They change when the arithmetic of training, the order of samples, noise or initial weights change, and then on
purpose only: `python -m tests.training.golden` writes golden.json anew, and its diff shows what has changed.
"""

import json
from itertools import combinations

import pytest

from tests.training.golden import FILE, METHODS, SLOW, TOLERANCE, measure

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_method_is_kept():
    assert GOLDEN.keys() == METHODS.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS]
)
def test_losses_are_those_of_earlier_versions(name):
    seen = measure(name)
    assert seen == pytest.approx(GOLDEN[name], rel=TOLERANCE), seen


def test_each_method_is_another():
    """A switch that does nothing would pass the test above."""
    for (name, one), (other_name, other) in combinations(GOLDEN.items(), 2):
        assert one != pytest.approx(other, rel=10 * TOLERANCE), f"{name} and {other_name}"
