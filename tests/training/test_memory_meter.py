"""What a piece of work takes at its peak, on the CPU, also where it fails."""

import pytest
import torch

from src.training.memory_meter import MemoryMeter

_MANY = 5_000_000


def test_peaks_of_phases_one_after_the_other():
    meter = MemoryMeter(torch.device("cpu"), limit=None)
    held = torch.nn.Linear(1000, 1000)
    meter.begin([held])
    with meter.phase("large"):
        large = torch.zeros(_MANY)
        del large
    with meter.phase("small"):
        torch.zeros(10)
    own = 4 * 1_001_000
    assert own + 4 * _MANY <= meter.peaks["large"] <= own + 4 * _MANY + 100_000
    assert own <= meter.peaks["small"] <= own + 100_000


def test_a_phase_that_fails_is_measured_and_what_comes_next_as_well():
    meter = MemoryMeter(torch.device("cpu"), limit=4 * _MANY)
    meter.begin([])
    kept = []

    def fail() -> None:
        kept.append(torch.zeros(_MANY))
        raise MemoryError

    with pytest.raises(MemoryError), meter.phase("failing"):
        fail()
    assert meter.exceeded() is None
    with meter.phase("next"):
        kept.append(torch.zeros(10))
    assert 4 * _MANY <= meter.peaks["failing"] <= meter.peaks["next"]
    assert meter.exceeded() == "next"
