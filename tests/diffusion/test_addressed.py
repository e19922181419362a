"""Noise and timesteps belong to the sample and its place in the run, not to the batch."""

import torch

from src.diffusion.noise import addressed_noise
from src.diffusion.timesteps import addressed_timesteps, validation_timesteps


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
