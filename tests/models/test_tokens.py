"""Token counts without the model: the same as the model's own."""

import subprocess
import sys

import pytest

from src.errors import UserError
from src.models.load import load_model
from src.models.token_embedding import add_placeholder
from src.models.tokens import token_counter
from tests.models.single_files import checkpoint_shapes, write_checkpoint

PROMPTS = ["", "a photo of sksToy toy", "word " * 200, "фото ёлки, 写真", "sksToysksToy SKSTOY"]


def test_counts_are_those_of_the_model(pocket):
    model, counter = load_model(str(pocket)), token_counter(str(pocket))
    assert counter is not None
    assert counter.chunk_size == model.chunk_size == 75
    assert [counter.count(prompt) for prompt in PROMPTS] == [model.count_tokens(prompt) for prompt in PROMPTS]


def test_a_trained_word_is_one_token(pocket):
    model = load_model(str(pocket))
    before = model.count_tokens("a photo of sksToy toy")
    add_placeholder(model, "sksToy", initializer_word="toy")
    counter = token_counter(str(pocket), placeholder="sksToy")
    assert counter is not None
    counts = [counter.count(prompt) for prompt in PROMPTS]
    assert counts == [model.count_tokens(prompt) for prompt in PROMPTS]
    assert counter.count("a photo of sksToy toy") < before


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_a_single_file_has_the_vocabulary_of_clip(tmp_path, architecture):
    write_checkpoint(tmp_path / "model.safetensors", checkpoint_shapes(architecture), random=False)
    counter = token_counter(str(tmp_path / "model.safetensors"))
    assert counter is not None
    assert counter.chunk_size == 75
    assert counter.count("a photo of a cat") == 5


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nobody/has-this-model"])
def test_a_model_that_is_not_here(path):
    assert token_counter(path) is None


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError):
        token_counter(str(tmp_path))


def test_counting_and_inspecting_take_no_torch():
    code = "import sys, src.models.tokens, src.run.inspect, src.run.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
