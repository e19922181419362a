"""What is attached: which parameters, in which precision, from which start."""

import pytest
import torch

from src.errors import UserError
from src.models.adapters import (
    AdapterSettings,
    adapter_disabled,
    attach,
    load_trainable_state,
    trainable_state,
)
from src.models.load import load_model
from src.models.token_embedding import add_placeholder, token_embeddings
from tests.models.common import move, pixels, plain_pipeline, settings_for, sizes, trained


def _predict(model, prompt="a photo of sksToy"):
    noisy = torch.linspace(-1, 1, 1024).reshape(1, 4, 16, 16)
    ids = model.tokenize([prompt])
    return model.denoiser(noisy, torch.tensor([300]), token_ids=ids, **sizes(1))


def test_groups_and_precision(pocket):
    model = load_model(str(pocket), torch_dtype=torch.bfloat16)
    groups = attach(model, settings_for(pocket.name), seed=0)
    expected = {"unet_lora", "text_encoder_lora", "token_embedding"}
    expected |= {"text_encoder_2_lora"} if pocket.name == "sdxl" else set()
    assert {group.name for group in groups} == expected
    listed = {name for group in groups for name, _ in group.parameters}
    freed = {name for name, p in model.denoiser.named_parameters() if p.requires_grad}
    assert listed == freed
    assert all(p.dtype == torch.float32 for group in groups for _, p in group.parameters)
    assert model.unet.conv_in.weight.dtype == torch.bfloat16
    model.to_device("cpu", torch.bfloat16)
    assert all(p.dtype == torch.float32 for group in groups for _, p in group.parameters)
    _predict(model).float().sum().backward()
    assert all(p.grad is not None for group in groups for _, p in group.parameters)
    frozen = [p for p in model.denoiser.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)


def test_a_new_lora_changes_nothing(pocket):
    base = load_model(str(pocket))
    expected = _predict(base)
    attach(base, settings_for(pocket.name, token_embedding="frozen", placeholder=None), seed=0)
    assert torch.equal(_predict(base), expected)


def test_the_start_is_seeded_and_disturbs_nobody(pocket_sd15):
    starts = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(starts))
        before = torch.get_rng_state()
        model = load_model(str(pocket_sd15))
        torch.set_rng_state(before)
        attach(model, AdapterSettings(rank=2), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        starts.append({name: value.clone() for name, value in trainable_state(model).items()})
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert any(not torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_full_training_frees_what_a_component_uses(component, pocket):
    model = load_model(str(pocket), torch_dtype=torch.bfloat16)
    settings = {"unet": "frozen", component: "full"}
    (group,) = attach(model, AdapterSettings(**settings), seed=0)
    assert (group.name, group.kind) == (component, "full")
    model.to_device("cpu", torch.bfloat16)
    _predict(model).sum().backward()
    for name, p in model.denoiser.named_parameters():
        # SDXL's first text encoder ends one layer early; data-parallel training waits for every gradient.
        is_expected = name.startswith(f"{component}.") and model.denoiser.is_used(name)
        assert (p.grad is not None) == p.requires_grad == is_expected, name
        assert p.dtype == (torch.float32 if name.startswith(f"{component}.") else torch.bfloat16)
    num_unused = sum(not model.denoiser.is_used(name) for name, _ in model.denoiser.named_parameters())
    assert (num_unused > 0) == (pocket.name == "sdxl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 0}, r"adapter\.rank=0"),
        ({"rank": -3}, r"adapter\.rank=-3"),
        ({"alpha": 0.0}, r"adapter\.alpha"),
        ({"dropout": 1.0}, r"adapter\.dropout"),
        ({"token_embedding": "train"}, r"dataset\.placeholder"),
    ],
)
def test_settings_are_checked(changes, said):
    with pytest.raises(UserError, match=said):
        AdapterSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_encoder_2": "lora"}, r"sd15 has no text_encoder_2"),
        ({"target_modules": ("to_q", "to_x")}, "target module to_x matches nothing in the unet"),
        ({"text_encoder": "lora", "text_target_modules": ("qkv",)}, "target module qkv matches nothing"),
        ({"unet": "frozen"}, "nothing to train"),
        ({"token_embedding": "train", "placeholder": "toy", "initializer_word": "toy"}, "knows already"),
        ({"token_embedding": "train", "placeholder": "two words", "initializer_word": "toy"}, "not one word"),
        ({"token_embedding": "train", "placeholder": "sksToy"}, "initializer_word"),
    ],
)
def test_what_cannot_be_attached(changes, said, pocket_sd15):
    with pytest.raises(UserError, match=said):
        attach(load_model(str(pocket_sd15)), AdapterSettings(**changes), seed=0)


def test_the_placeholder_starts_from_a_word(pocket):
    model = load_model(str(pocket))
    add_placeholder(model, "sksToy", initializer_word="toy")
    plain = load_model(str(pocket))
    for ours, expected in zip(
        model.encode_prompts(["a photo of sksToy"]), plain.encode_prompts(["a photo of toy"]), strict=True
    ):
        assert (ours is None) == (expected is None)
        assert ours is None or torch.equal(ours, expected)
    with pytest.raises(UserError, match="already has the placeholder"):
        add_placeholder(model, "other", initializer_word="toy")


@pytest.mark.parametrize(
    "text", ["a sksToy here", "SKSTOY.", "skstoys", "no toy", "sksToy sksToy", "(sksToy:1)"]
)
def test_the_placeholder_is_matched_as_by_diffusers(text, pocket_sd15):
    model = load_model(str(pocket_sd15))
    row = next(iter(add_placeholder(model, "sksToy", initializer_word="toy").values()))
    pipeline = plain_pipeline(pocket_sd15)
    pipeline.load_textual_inversion({"sksToy": row.detach()[None]})
    ids = pipeline.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(model.tokenize([text])[0], ids)
    assert (ids == len(pipeline.tokenizer) - 1).sum() == text.lower().count("skstoy")


def test_only_the_placeholders_row_gets_gradients(pocket):
    model = load_model(str(pocket))
    attach(
        model,
        AdapterSettings(unet="frozen", token_embedding="train", placeholder="sksToy", initializer_word="toy"),
        seed=0,
    )
    _predict(model, "no such word here").sum().backward()
    for embedding in token_embeddings(model).values():
        assert not embedding.row.grad.any()
        assert embedding.table.weight.grad is None
    _predict(model).sum().backward()
    assert all(embedding.row.grad.any() for embedding in token_embeddings(model).values())


def test_trained_state_goes_round(pocket):
    model, _ = trained(pocket)
    state = {name: value.clone() for name, value in trainable_state(model).items()}
    expected = _predict(model)
    other = load_model(str(pocket))
    attach(other, settings_for(pocket.name), seed=9)
    load_trainable_state(other, state)
    assert torch.equal(_predict(other), expected)
    assert all(value.requires_grad for name, value in other.denoiser.named_parameters() if name in state)


def test_state_of_another_shape_is_refused(pocket_sd15):
    model, _ = trained(pocket_sd15)
    state = trainable_state(trained(pocket_sd15, rank=8)[0])
    with pytest.raises(UserError, match="does not fit what is trained now"):
        load_trainable_state(model, state)
    with pytest.raises(UserError, match="does not fit"):
        load_trainable_state(model, dict(list(trainable_state(model).items())[1:]))


def test_the_base_shows_through(pocket):
    model, groups = trained(pocket)
    adapted = pixels(model.pipeline())
    freed = {name for name, p in model.denoiser.named_parameters() if p.requires_grad}
    with adapter_disabled(model):
        assert (pixels(model.pipeline()) == pixels(plain_pipeline(pocket))).all()
    assert {name for name, p in model.denoiser.named_parameters() if p.requires_grad} == freed
    assert (pixels(model.pipeline()) == adapted).all()
    move(groups)
    assert (pixels(model.pipeline()) != adapted).any()
