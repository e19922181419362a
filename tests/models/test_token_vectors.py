"""A placeholder of several vectors: the same ids as diffusers' pipelines, only its rows trained, read again."""

import pytest
import torch

from src.config.adapter_schema import AdapterConfig
from src.config.dataset_schema import DatasetConfig
from src.config.schema import ModelConfig, TrainConfig
from src.errors import UserError
from src.models.adapter_files import EMBEDDING_FILE
from src.models.adapters import AdapterSettings, attach, trainable_state
from src.models.chunks import spelled_out, split_prompt
from src.models.export import load_adapter, save_adapter
from src.models.load import load_model
from src.models.token_embedding import add_placeholder, token_embeddings
from src.models.tokens import token_counter
from tests.models.common import move, pixels, plain_pipeline
from tests.models.test_export import load_textual_inversion

TEXTS = (
    "a skstoy here",
    "skstoys",
    "no toy",
    "skstoy skstoy",
    "(skstoy:1)",
    "skstoy_1",
    "a,skstoy",
)


def test_ids_are_those_of_diffusers(pocket_sd15):
    model = load_model(str(pocket_sd15))
    add_placeholder(model, "skstoy", initializer_word="toy", num_vectors=3)
    pipeline = plain_pipeline(pocket_sd15)
    (embedding,) = token_embeddings(model).values()
    pipeline.load_textual_inversion({"skstoy": embedding.rows.detach()})
    first = len(pipeline.tokenizer) - 3
    for text in TEXTS:
        # What every pipeline does with its prompt.
        converted = pipeline.maybe_convert_prompt(text, pipeline.tokenizer)
        ids = pipeline.tokenizer(
            converted, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        assert torch.equal(model.tokenize([text])[0], ids), text
        assert model.count_tokens(text) == len(pipeline.tokenizer(converted).input_ids) - 2, text
        assert (ids == first + 2).sum() == text.count("skstoy") - text.count("skstoy_1"), text
        # Chunks of longer prompts hold the same ids.
        (chunk,) = model.tokenize([text], 1)[0].tolist()
        assert model.tokenize([text], 2)[0, 0, : len(chunk)].tolist() == chunk, text


def test_captions_in_another_case_bring_all_vectors(pocket_sd15):
    """diffusers' pipelines would use the first alone: the tokenizer finds it, and their replacing does not."""
    model = load_model(str(pocket_sd15))
    add_placeholder(model, "skstoy", initializer_word="toy", num_vectors=3)
    for text in ("a photo of sksToy toy", "SKSTOY.", "a,SksToys sksTOY", "(SKSTOY:1) skstoy"):
        ids = model.tokenize([text])
        assert torch.equal(ids, model.tokenize([text.lower()])), text
        assert (ids == len(model.tokenizers[0]) - 1).sum() == text.lower().count("skstoy"), text
        assert model.count_tokens(text) == model.count_tokens(text.lower())


def test_only_the_rows_get_gradients_and_start_apart(pocket):
    model = load_model(str(pocket))
    settings = AdapterSettings(
        unet="frozen",
        token_embedding="train",
        placeholder="skstoy",
        initializer_word="toy",
        num_token_vectors=3,
    )
    attach(model, settings, seed=0)
    assert {name.rsplit(".", 1)[1] for name in trainable_state(model)} == {"row"}
    for embedding in token_embeddings(model).values():
        word = embedding.table.weight[model.base_tokenizers[0]("toy").input_ids[1]]
        assert torch.equal(embedding.rows[0], word), "the first is the word itself"
        assert not torch.equal(embedding.rows[1], embedding.rows[2])
        assert (embedding.rows - word).abs().max() < word.std()
    hidden, _ = model.encode_text(model.tokenize(["a skstoy"]))
    hidden.sum().backward()
    for embedding in token_embeddings(model).values():
        assert (embedding.row.grad.abs().sum(dim=1) > 0).all()
        assert embedding.table.weight.grad is None


def test_several_vectors_are_read_again(pocket, tmp_path):
    model = load_model(str(pocket))
    settings = AdapterSettings(
        rank=2,
        target_modules=("mid_block.*to_q",),
        token_embedding="train",
        placeholder="skstoy",
        initializer_word="toy",
        num_token_vectors=3,
    )
    move(attach(model, settings, seed=0))
    save_adapter(model, tmp_path, metadata={})
    loaded = load_model(str(pocket))
    load_adapter(loaded, tmp_path)
    one, two = token_embeddings(model), token_embeddings(loaded)
    assert all(torch.equal(one[name].rows, two[name].rows) for name in one)
    assert torch.equal(model.tokenize(["a skstoy"]), loaded.tokenize(["a skstoy"]))
    pipeline = plain_pipeline(pocket)
    pipeline.load_lora_weights(tmp_path)
    load_textual_inversion(pipeline, tmp_path, "skstoy")
    assert abs(pixels(pipeline) - pixels(model.pipeline())).max() < 1e-5
    (tmp_path / "only").mkdir()
    (tmp_path / EMBEDDING_FILE).rename(tmp_path / "only" / EMBEDDING_FILE)
    alone = load_model(str(pocket))
    load_adapter(alone, tmp_path / "only")
    assert torch.equal(alone.tokenize(["a skstoy"]), model.tokenize(["a skstoy"]))


def test_captions_are_counted_with_all_vectors(pocket_sd15):
    counter = token_counter(str(pocket_sd15), placeholder="skstoy", num_vectors=4)
    assert counter.count("a skstoy") == 5
    # Six letters, 32 tokens: the length of the text says nothing.
    many = token_counter(str(pocket_sd15), placeholder="skstoy", num_vectors=32, max_chunks=1)
    assert many.unseen("skstoy skstoy skstoy") != ""
    assert spelled_out(many.tokenizers[0], "no such word") == "no such word"


def test_long_prompts_keep_the_vectors_together(pocket_sd15):
    counter = token_counter(str(pocket_sd15), placeholder="skstoy", num_vectors=4, max_chunks=2)
    (tokenizer,) = counter.tokenizers
    words = " ".join(["toy"] * 73)
    first, second = split_prompt(tokenizer, f"{words} sksToy here")
    assert len(first.token_ids) == 73, "two of the four would have had room"
    assert second.token_ids[:4] == tokenizer.convert_tokens_to_ids(
        ["skstoy", "skstoy_1", "skstoy_2", "skstoy_3"]
    )
    assert counter.unseen(f"{words} {words} toy toy skstoy") == "skstoy skstoy_1 skstoy_2 skstoy_3"


def test_capital_letters_are_refused():
    """diffusers' pipelines would use the first vector alone, without a word."""
    adapter = AdapterConfig(token_embedding="train", num_token_vectors=2)
    dataset = DatasetConfig(name="a", path="b", placeholder="sksToy")
    model = ModelConfig(name="a", path="b")
    with pytest.raises(UserError, match=r"needs a placeholder in small letters.*dataset\.placeholder=skstoy"):
        TrainConfig(adapter=adapter, dataset=dataset, model=model)
    dataset.placeholder = "skstoy"
    TrainConfig(adapter=adapter, dataset=dataset, model=model)
