"""Long prompts: where they are split, and that chunks are encoded as transformers' own encoders do."""

import pytest
import torch

from src.models.chunks import num_chunks_needed, split_prompt, unseen_text
from src.models.clip_vocabulary import write_clip_tokenizers
from src.models.load import load_model
from src.models.prompts import cut_warnings, tokenize
from src.models.token_embedding import add_placeholder
from tests.models.common import plain_pipeline, sizes, trained

SHORT = "a photo of a red toy"
LONG = "a red toy on a table, two dogs and a blue cup, " * 10


@pytest.fixture
def model(pocket):
    return load_model(str(pocket))


@pytest.fixture(scope="module")
def clip_tokenizers(tmp_path_factory):
    """CLIP's own vocabulary, as real models have it; the second pads with "!"."""
    return write_clip_tokenizers(tmp_path_factory.mktemp("clip"), count=2)


def parts(tokenizer, prompt):
    """Each chunk's text."""
    starts = [chunk.start for chunk in split_prompt(tokenizer, prompt)]
    return [prompt[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]


def test_a_chunk_ends_after_a_near_comma(clip_tokenizers):
    tokenizer = clip_tokenizers[0]
    # 60 words and a comma, of 75: 14 tokens are left empty.
    near = "cat " * 59 + "cat, " + "dog " * 30
    assert parts(tokenizer, near) == [("cat " * 60).strip() + ",", ("dog " * 30).strip()]
    # 50 words and a comma: 24 would be, so that the next words fill the chunk.
    far = "cat " * 49 + "cat, " + "dog " * 40
    assert [len(chunk.token_ids) for chunk in split_prompt(tokenizer, far)] == [75, 16]
    assert parts(tokenizer, near.replace("cat, ", "1,5 "))[0].endswith("dog"), "no comma of a number"
    assert parts(tokenizer, ("red,green," * 30))[0].endswith(","), "a list of tags without spaces"


def test_no_word_is_torn(clip_tokenizers):
    tokenizer = clip_tokenizers[0]
    prompt = "hyperparathyroidism sks-toy don't photographed café 東京の猫 " * 20
    words = [word for part in parts(tokenizer, prompt) for word in part.split()]
    assert words == prompt.split()
    assert all(len(chunk.token_ids) <= 75 for chunk in split_prompt(tokenizer, prompt))
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert [id for chunk in split_prompt(tokenizer, prompt) for id in chunk.token_ids] == ids


def test_only_a_word_that_no_chunk_holds_is_torn(clip_tokenizers):
    tokenizer = clip_tokenizers[0]
    chunks = split_prompt(tokenizer, "one " + "xq" * 200 + " two")
    assert len(chunks[0].token_ids) == 1
    assert len(chunks[1].token_ids) == 75


def test_the_placeholder_stays_whole(pocket_sd15):
    model = load_model(str(pocket_sd15))
    prompt = "sksToy toy " * 70
    assert "sksToy toy" in parts(model.tokenizers[0], prompt)[1], "several tokens of one word"
    add_placeholder(model, "sksToy", initializer_word="toy")
    chunks = split_prompt(model.tokenizers[0], prompt)
    assert sum(len(chunk.token_ids) for chunk in chunks) == 140
    assert parts(model.tokenizers[0], prompt)[0].split().count("sksToy") == 38


@pytest.mark.parametrize("prompt", ["", "   ", SHORT, "word " * 75, LONG])
def test_what_fits_is_one_chunk_and_as_without_long_prompts(prompt, clip_tokenizers):
    plain = torch.stack(
        [
            tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
            for tokenizer in clip_tokenizers
        ]
    )
    assert torch.equal(tokenize(clip_tokenizers, [prompt]), plain)
    if prompt != LONG:
        assert num_chunks_needed(clip_tokenizers, prompt) == 1
        two = tokenize(clip_tokenizers, [prompt], 2)
        assert torch.equal(two[..., :77], plain)
        assert torch.equal(two[..., 77:], tokenize(clip_tokenizers, [""]))


def test_chunks_are_encoded_by_themselves(model, pocket):
    """A concatenation made by hand, from transformers' encoders and each chunk's text."""
    pipeline = plain_pipeline(pocket)
    texts = parts(pipeline.tokenizer, LONG)
    assert len(texts) == 2
    hidden, pooled = model.encode_prompts([LONG], 3)
    assert hidden.shape[:2] == (1, 231)
    expected = [
        pipeline.encode_prompt(
            text,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        for text in [*texts, ""]
    ]
    torch.testing.assert_close(hidden, torch.cat([each[0] for each in expected], dim=1))
    if pocket.name == "sdxl":
        torch.testing.assert_close(pooled, expected[0][2])
        assert not torch.equal(pooled, expected[1][2])


def test_a_batch_is_its_prompts_one_by_one(model):
    prompts = [SHORT, LONG, ""]
    hidden, pooled = model.encode_prompts(prompts, 2)
    for index, prompt in enumerate(prompts):
        alone = model.encode_prompts([prompt], 2)
        torch.testing.assert_close(hidden[index : index + 1], alone[0])
        assert pooled is None or torch.allclose(pooled[index : index + 1], alone[1], atol=1e-5)
    if model.architecture == "sdxl":
        assert not hidden[2].any(), "empty in all chunks: zero, as the model was trained"
        assert hidden[0, 77:].any(), "an empty chunk behind another"


def test_gradients_come_through_all_chunks(pocket):
    model, groups = trained(pocket)
    filler = "toy " * 100
    for prompt in (f"sksToy {filler}", f"{filler} sksToy"):
        ids = model.tokenize([prompt], 2)
        noisy, timesteps = torch.ones(1, 4, 16, 16), torch.tensor([500])
        model.denoiser(noisy, timesteps, token_ids=ids, **sizes(1)).square().sum().backward()
        for group in groups:
            for name, parameter in group.parameters:
                assert parameter.grad is not None, name
                assert parameter.grad.any() or "lora" in name, name
        model.denoiser.zero_grad()


def test_numbers_of_chunks(model):
    assert (model.num_chunks, model.max_chunks) == (1, 1)
    assert model.chunks_of(LONG) == 1, "off by default"
    model.use_chunks(1, max_chunks=3)
    assert [model.chunks_of(text) for text in (SHORT, LONG, LONG * 9)] == [1, 2, 3]
    assert model.chunks_of(SHORT, LONG) == 2, "a prompt and its negative one are of the same length"
    model.use_chunks(2, max_chunks=3)
    assert model.chunks_of(SHORT) == 2
    assert model.tokenize([SHORT]).shape[2] == 154


def test_the_text_that_is_lost(clip_tokenizers):
    words = [f"w{index:03d}x" for index in range(100)]
    prompt = " ".join(words)
    seen = tokenize(clip_tokenizers, [prompt])[0, 0]
    told = clip_tokenizers[0].decode(seen, skip_special_tokens=True).replace(" ", "")
    lost = unseen_text(clip_tokenizers, prompt, 1)
    first = words.index(lost.split()[0])
    assert prompt.endswith(lost)
    assert told.startswith("".join(words[:first])), "all before it is seen"
    assert not told.startswith("".join(words[: first + 1])), "and it is not, or not whole"
    assert unseen_text(clip_tokenizers, LONG, 2) == ""
    assert unseen_text(clip_tokenizers, LONG * 2, 2) in LONG * 2


def test_warnings_say_which_text_what_is_lost_and_what_helps(pocket_sd15):
    model = load_model(str(pocket_sd15))
    texts = [("IMG_1.jpg", SHORT), ("IMG_2.jpg", "toy " * 75 + "a cup")]
    assert cut_warnings(model, texts) == [
        "IMG_2.jpg: 77 tokens are more than fit. Not seen: 'a cup'.",
        "The text encoder takes 75 tokens: shorten the texts, or set model.long_prompts=true.",
    ]
    model.use_chunks(1, max_chunks=2)
    assert cut_warnings(model, texts) == []
    lines = cut_warnings(model, [(str(index), "toy " * 151) for index in range(14)])
    assert len(lines) == 12
    assert lines[10] == "4 more texts do not fit."
    assert "2 chunks of 75 tokens" in lines[11]
    assert "model.max_prompt_chunks" in lines[11]


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "猫" * 2_000, "a cat, " * 1_500, ",," * 5_000, "\u0344" * 75, " " * 10_000]
)
def test_very_long_texts(text, clip_tokenizers, pocket_sd15):
    chunks = split_prompt(clip_tokenizers[0], text)
    ids = clip_tokenizers[0](text, add_special_tokens=False, verbose=False).input_ids
    assert [id for chunk in chunks for id in chunk.token_ids] == ids
    assert tokenize(clip_tokenizers, [text], 3).shape == (2, 1, 231)
    model = load_model(str(pocket_sd15))
    assert all(len(line) < 1_000 for line in cut_warnings(model, [("text", text)]))
