"""Room for the caches, settled before encoding, and their limit, held by every run."""

import os

import pytest

from src.models.load import load_model
from src.run.build_data import prepare_data
from src.run.build_training import encode_sides
from src.training.accelerator import Agreement, make_accelerator
from tests.data.pictures import photo_folder
from tests.run.test_cache_keys import configuration


@pytest.fixture
def encode(pocket_sd15, tmp_path):
    """Encodes both sides of a dataset of photos, as a run does."""
    photo_folder(tmp_path / "photos", 5)
    model, accelerator = load_model(str(pocket_sd15)), make_accelerator(device="cpu")

    def sides(*overrides):
        config = configuration(tmp_path, *overrides)
        data = prepare_data(config, size=(32, 32))
        return encode_sides(
            config, data, model=model, accelerator=accelerator, agreement=Agreement(accelerator)
        )

    return sides


def test_a_warm_start_holds_a_limit_that_was_lowered(encode, tmp_path):
    encode()
    (store,) = (tmp_path / "cache" / "latents").iterdir()
    entries = list(store.rglob("*.safetensors"))
    old = store / "00" / "old.safetensors"
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(bytes(5000))
    os.utime(old, (1000, 1000))
    encode("paths.cache_limit_gb=0.01")
    assert old.exists()
    num_bytes = sum(
        -(-path.stat().st_size // 4096) * 4096 for path in (tmp_path / "cache").rglob("*.safetensors")
    )
    encode(f"paths.cache_limit_gb={(num_bytes - 1) / 1e9:.9f}")
    assert not old.exists()
    assert all(path.exists() for path in entries)
