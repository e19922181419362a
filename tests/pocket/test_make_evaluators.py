"""The pocket evaluators: small, reproducible, and of the form that timm and open_clip load themselves."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from src.metrics.features import ClipExtractor, DinoExtractor
from src.pocket.make_evaluators import make_clip, make_dino
from src.pocket.make_models import smooth_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluators")
    make_dino(folder / "dino")
    make_clip(folder / "clip")
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "make"), [("dino", make_dino), ("clip", make_clip)])
def test_same_seed_same_bytes(folder, tmp_path, name, make):
    torch.randn(3)  # whatever was drawn before does not matter
    make(tmp_path / "again")
    make(tmp_path / "other", seed=1)
    assert _files(tmp_path / "again") == _files(folder / name)
    assert _files(tmp_path / "other") != _files(folder / name)


def test_small_enough_for_the_repository(folder):
    for name in ("dino", "clip"):
        assert sum(len(data) for data in _files(folder / name).values()) < 2_000_000


def test_loads_without_us(folder):
    model = timm.create_model(f"local-dir:{folder / 'dino'}", pretrained=True).eval()
    assert timm.data.resolve_model_data_config(model)["input_size"] == [3, 64, 64]
    clip, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'clip'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")(["a photo of a toy"])
    assert tokens.shape == (1, 77)
    with torch.no_grad():
        assert clip.encode_text(tokens).shape == (1, 64)
        assert clip.encode_image(preprocess(Image.new("RGB", (80, 64)))[None]).shape == (1, 64)


@pytest.mark.parametrize(("name", "extractor"), [("dino", DinoExtractor), ("clip", ClipExtractor)])
def test_features_tell_images_apart(folder, name, extractor):
    """Untrained features are of use only if the same picture, a little noisy, is nearer than another."""
    judge = extractor(model=str(folder / name), label="pocket-random")
    pixels = ((smooth_images(8, 64, 3).permute(0, 2, 3, 1) + 1) * 127.5).numpy()
    noise = np.random.default_rng(0).normal(0, 8, pixels.shape)
    clean = judge.images([Image.fromarray(image.astype(np.uint8)) for image in pixels])
    noisy = judge.images([Image.fromarray(image.clip(0, 255).astype(np.uint8)) for image in pixels + noise])
    cosines = clean @ noisy.T
    assert cosines.argmax(dim=1).tolist() == list(range(8))
    others = cosines[~torch.eye(8, dtype=torch.bool)]
    assert cosines.diagonal().min() > 0.9
    assert others.std() > 0.1, "every image looks the same to it"
