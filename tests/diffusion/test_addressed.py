"""Noise and timesteps belong to the sample and its place in the run, not to the batch."""

import pytest
import torch

from src.diffusion.noise import addressed_noise, offset_noise
from src.diffusion.timesteps import TimestepSampling, addressed_timesteps, validation_timesteps


def _noise(ids, passes, draws, *, seed=0, purpose="noise") -> torch.Tensor:
    return addressed_noise(ids, passes, draws, seed=seed, shape=(4, 2, 2), purpose=purpose)


def test_noise_does_not_depend_on_the_batch() -> None:
    together = _noise(["a", "b"], [3, 3], [0, 0])
    assert torch.equal(together[1], _noise(["b"], [3], [0])[0])
    torch.randn(5)
    assert torch.equal(together, _noise(["a", "b"], [3, 3], [0, 0]))


def test_every_part_of_the_address_counts() -> None:
    base = _noise(["a"], [0], [0])
    others = [
        _noise(["b"], [0], [0]),
        _noise(["a"], [1], [0]),
        _noise(["a"], [0], [1]),
        _noise(["a"], [0], [0], seed=1),
        _noise(["a"], [0], [0], purpose="posterior"),
    ]
    assert all(not torch.equal(base, other) for other in others)


def test_noise_is_standard_normal() -> None:
    noise = _noise([str(i) for i in range(2000)], [0] * 2000, [0] * 2000)
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


def test_timesteps_are_addressed_and_cover_the_schedule() -> None:
    ids = [str(i) for i in range(1000)]
    timesteps = addressed_timesteps(ids, [0] * 1000, [0] * 1000, seed=0, num_train_timesteps=10)
    assert set(timesteps.tolist()) == set(range(10))
    assert abs(timesteps.float().mean().item() - 4.5) < 0.3
    alone = addressed_timesteps(ids[7:8], [0], [0], seed=0, num_train_timesteps=10)
    assert alone[0] == timesteps[7]
    again = addressed_timesteps(ids, [1] * 1000, [0] * 1000, seed=0, num_train_timesteps=10)
    assert not torch.equal(timesteps, again)


def test_validation_timesteps_are_the_midpoints_of_equal_parts() -> None:
    assert validation_timesteps(8, 1000) == [62, 187, 312, 437, 562, 687, 812, 937]
    assert validation_timesteps(1, 1000) == [500]
    assert validation_timesteps(3, 3) == [0, 1, 2]


def _timesteps(number: int, **sampling) -> torch.Tensor:
    address = [str(i) for i in range(number)], [0] * number, [0] * number
    return addressed_timesteps(
        *address, seed=0, num_train_timesteps=1000, sampling=TimestepSampling(**sampling)
    )


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_timesteps_of_a_range_are_all_of_it_and_nothing_else(distribution) -> None:
    timesteps = _timesteps(1000, distribution=distribution, first=200, end=210)
    assert set(timesteps.tolist()) == set(range(200, 210))


def test_the_whole_range_is_no_range() -> None:
    assert torch.equal(_timesteps(50), _timesteps(50, first=0, end=1000))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5)])
def test_logit_normal_timesteps_have_a_normal_logit(mean, std) -> None:
    timesteps = _timesteps(2000, distribution="logit_normal", mean=mean, std=std)
    logits = torch.logit((timesteps.double() + 0.5) / 1000)
    assert abs(logits.mean().item() - mean) < 0.08
    assert abs(logits.std().item() - std) < 0.05
    third = ((logits - mean) / std).pow(3).mean().item()
    assert abs(third) < 0.3, "no skew"


def test_logit_normal_timesteps_stay_within_the_schedule() -> None:
    assert set(_timesteps(5, distribution="logit_normal", mean=60.0).tolist()) == {999}
    assert set(_timesteps(5, distribution="logit_normal", mean=-60.0).tolist()) == {0}


def test_offset_noise_moves_each_channel_of_a_sample_as_a_whole() -> None:
    ids, passes, draws = [str(i) for i in range(500)], [0] * 500, [0] * 500
    noise = _noise(ids, passes, draws)
    offset = offset_noise(noise, ids, passes, draws, seed=0, strength=0.1) - noise
    assert torch.allclose(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-6)
    assert abs(offset[:, :, 0, 0].std().item() - 0.1) < 0.005
    channels = offset[:, :, 0, 0].T
    assert torch.corrcoef(channels).fill_diagonal_(0).abs().max() < 0.15, "each channel has its own"
    alone = offset_noise(noise[7:8], ["7"], [0], [0], seed=0, strength=0.1)
    assert torch.equal(alone[0], offset_noise(noise, ids, passes, draws, seed=0, strength=0.1)[7])
