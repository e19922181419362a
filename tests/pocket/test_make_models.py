"""The pocket models: small, real, reproducible, and loadable by plain diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from src.pocket.make_models import make_pocket, smooth_images
from src.pocket.tokenizer import byte_characters, learn_merges, vocabulary


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_same_seed_same_bytes(architecture, tmp_path, request):
    expected = _files(request.getfixturevalue(f"pocket_{architecture}"))
    torch.randn(3)  # whatever was drawn before does not matter
    make_pocket(tmp_path / "again", architecture=architecture)
    make_pocket(tmp_path / "other", architecture=architecture, seed=1)
    assert _files(tmp_path / "again") == expected
    assert _files(tmp_path / "other") != expected


def test_small(pocket):
    assert sum(len(data) for data in _files(pocket).values()) < 2_100_000


def test_loads_as_what_it_says(pocket):
    pipeline = DiffusionPipeline.from_pretrained(pocket)
    expected = StableDiffusionPipeline if pocket.name == "sd15" else StableDiffusionXLPipeline
    assert type(pipeline) is expected
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.vae_scale_factor == 4
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        "a photo of a toy", num_inference_steps=2, generator=torch.manual_seed(0), output_type="np"
    ).images
    assert images.shape == (1, 64, 64, 3)
    assert torch.isfinite(torch.from_numpy(images)).all()


def test_latents_have_unit_spread(pocket):
    vae = DiffusionPipeline.from_pretrained(pocket).vae
    with torch.no_grad():
        posterior = vae.encode(smooth_images(16, 64, 7)).latent_dist
    latents = posterior.sample(torch.manual_seed(0)) * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=0.15)
    assert (posterior.std < 0.5 * posterior.mean.std()).all(), (
        "the image would drown in the posterior's noise"
    )


def test_the_vocabulary_holds_every_byte():
    tokens, merges = vocabulary()
    assert len(set(byte_characters())) == 256
    assert all(character in tokens and character + "</w>" in tokens for character in byte_characters())
    assert list(tokens.values()) == list(range(len(tokens)))
    assert len(tokens) == 512 + len(merges) + 2


def test_merges_are_learned_by_frequency():
    assert learn_merges("ab ab abc", 2) == [("a", "b</w>"), ("a", "b")]


@pytest.mark.parametrize("text", ["a photo of a toy", "sksToy, 你好! привет 12", "\t\x00 é 🦊", ""])
def test_any_text_can_be_encoded(pocket_sd15, text):
    tokenizer = CLIPTokenizer.from_pretrained(pocket_sd15 / "tokenizer")
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1], "an unknown piece became the end token"
    assert tokenizer.model_max_length == 77
    wanted = "".join(text.lower().split()).replace("\x00", "")
    assert "".join(tokenizer.decode(ids[1:-1]).split()).replace("\x00", "") == wanted


def test_common_words_are_one_token(pocket_sd15):
    tokenizer = CLIPTokenizer.from_pretrained(pocket_sd15 / "tokenizer")
    assert len(tokenizer("a photo of a toy").input_ids) == 7


def test_second_tokenizer_pads_as_sdxl_does(pocket_sdxl):
    settings = json.loads((pocket_sdxl / "tokenizer_2" / "tokenizer_config.json").read_text())
    assert settings["pad_token"] == "!"
    assert CLIPTokenizer.from_pretrained(pocket_sdxl / "tokenizer_2").pad_token_id == 0
