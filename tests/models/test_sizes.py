"""Sizes that do not divide by all of the UNet's halvings: multiples of 8 pixels are enough."""

import pytest
import torch

from src.inference.generate import require_size
from src.models.adapters import AdapterSettings, attach
from src.models.load import load_model
from tests.models.common import move


# In latent cells of the miniature, halved three times. 1280x720 is 160x90 of SD1.5's: 90, 45, 23, 12.
@pytest.mark.parametrize("size", [(26, 18), (18, 10), (9, 23)])
def test_odd_sizes_train(pocket, size):
    width, height = size
    model = load_model(str(pocket))
    groups = attach(model, AdapterSettings(rank=2, alpha=2.0), seed=1)
    move(groups)
    factor = model.vae_scale_factor
    mean, std = model.encode_images(torch.rand(2, 3, height * factor, width * factor) * 2 - 1)
    assert mean.shape == std.shape == (2, model.latent_channels, height, width)
    hidden, pooled = model.encode_prompts(["a toy", "a house"])
    sizes = {
        "original_sizes": torch.tensor([[720, 1280]] * 2),
        "crop_top_lefts": torch.zeros(2, 2, dtype=torch.int64),
        "target_sizes": torch.tensor([[height * factor, width * factor]] * 2),
    }
    noise = torch.randn_like(mean)
    timesteps = torch.tensor([10, 700])
    prediction = model.denoiser(mean + noise, timesteps, hidden=hidden, pooled=pooled, **sizes)
    assert prediction.shape == mean.shape
    (prediction - noise).square().mean().backward()
    for group in groups:
        for name, parameter in group.parameters:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.abs().sum() > 0 for group in groups for _, parameter in group.parameters)
    require_size(1280, 720)
