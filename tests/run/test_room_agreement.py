"""Room for the caches, settled before encoding, and their limit, held by every run."""

import io
import logging
import os

import pytest

from src.models.load import load_model
from src.run import build_encoded
from src.run.build_data import prepare_data
from src.run.build_sides import encode_sides
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


@pytest.mark.parametrize("token_embedding", ["train", "frozen"])
def test_it_is_said_when_texts_are_not_kept(encode, tmp_path, caplog, monkeypatch, token_embedding):
    """And how far filling is: all that is missing is counted by the bars."""
    bars = []

    class Bar(build_encoded.tqdm):
        def __init__(self, **settings):
            super().__init__(**{**settings, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(build_encoded, "tqdm", Bar)
    with caplog.at_level(logging.INFO):
        encode(f"adapter.token_embedding={token_embedding}")
    is_trained = token_embedding == "train"
    assert ("Texts are encoded at each step and not kept" in caplog.text) is is_trained
    assert (tmp_path / "cache" / "texts").exists() is not is_trained
    # The last side's texts include the empty prompt, which is there by then.
    assert [(bar.n, bar.total) for bar in bars] == ([(4, 4), (1, 1)] if is_trained else [(9, 9), (2, 2)])


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
