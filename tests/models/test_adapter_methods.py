"""Every method trains what it should and nothing else, goes on exactly, and shows the base when it is off."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import inject_adapter_in_model

from src.errors import UserError
from src.models.adapter_settings import peft_config, plain_alpha
from src.models.adapters import (
    AdapterSettings,
    adapter_disabled,
    adapter_layers,
    attach,
    load_trainable_state,
    trainable_state,
)
from src.models.base import is_adapter_weight
from src.models.load import load_model
from tests.models.common import settings_for, sizes

METHODS = ("lora", "dora", "loha", "lokr")
# Linear layers, 1x1 and 3x3 convolutions.
TARGETS = ("mid_block.*to_?", "mid_block.*ff.net.2", "mid_block.*proj_in", "mid_block.resnets.0.conv?")


def _attached(pocket, method, *, seed=0, model=None, **changes):
    model = load_model(str(pocket)) if model is None else model
    values = {
        "method": method,
        "target_modules": TARGETS,
        "text_target_modules": ("kohya",),
        "num_token_vectors": 2,
    }
    groups = attach(model, settings_for(pocket.name, **{**values, **changes}), seed=seed)
    return model, groups


def _predict(model, prompt="a photo of sksToy"):
    noisy = torch.linspace(-1, 1, 1024).reshape(1, 4, 16, 16)
    return model.denoiser(noisy, torch.tensor([300]), token_ids=model.tokenize([prompt]), **sizes(1))


def _optimizer(groups):
    parameters = [parameter for group in groups for _, parameter in group.parameters]
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0)


def _step(model, optimizer):
    model.denoiser.train()
    optimizer.zero_grad()
    # Towards something that no layer gives already.
    (_predict(model).float() - 1).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_moves_and_all_else_stays(method, pocket):
    model = load_model(str(pocket))
    base = _predict(model, "a toy").detach()
    _, groups = _attached(pocket, method, model=model)
    assert torch.equal(_predict(model, "a toy"), base), "a new adapter changes nothing"
    before = {name: value.detach().clone() for name, value in model.denoiser.named_parameters()}
    optimizer = _optimizer(groups)
    for _ in range(2):
        _step(model, optimizer)
    after = dict(model.denoiser.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(trainable_state(model))
    expected = {"unet_lora", "text_encoder_lora", "token_embedding"}
    expected |= {"text_encoder_2_lora"} if pocket.name == "sdxl" else set()
    assert {group.name for group in groups} == expected
    model.denoiser.eval()
    assert not torch.equal(_predict(model, "a toy"), base)
    with adapter_disabled(model):
        assert torch.equal(_predict(model, "a toy"), base), "off, it is the base exactly"


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_exactly(method, pocket_sd15):
    changes = {"rank_dropout": 0.2} if method in ("loha", "lokr") else {"dropout": 0.2}
    changes["target_modules"] = TARGETS[:1]
    model, groups = _attached(pocket_sd15, method, **changes)
    optimizer = _optimizer(groups)
    torch.manual_seed(5)
    _step(model, optimizer)
    state = {name: value.clone() for name, value in trainable_state(model).items()}
    moments = copy.deepcopy(optimizer.state_dict())
    other, other_groups = _attached(pocket_sd15, method, seed=9, **changes)
    load_trainable_state(other, state)
    resumed = _optimizer(other_groups)
    resumed.load_state_dict(moments)
    for each, its_optimizer in ((model, optimizer), (other, resumed)):
        torch.manual_seed(6)
        _step(each, its_optimizer)
    one, two = trainable_state(model), trainable_state(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], state[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_a_base_in_half_precision(method, pocket_sd15):
    model = load_model(str(pocket_sd15), torch_dtype=torch.bfloat16)
    base = _predict(model, "a toy").detach()
    _, groups = _attached(pocket_sd15, method, model=model)
    assert torch.allclose(_predict(model, "a toy"), base, atol=1e-2)
    _step(model, _optimizer(groups))
    adapter = [p for name, p in model.denoiser.named_parameters() if is_adapter_weight(name)]
    assert {p.dtype for p in adapter} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in adapter)
    assert model.unet.conv_in.weight.dtype == torch.bfloat16


def test_scales_of_the_methods(pocket_sd15):
    """alpha / rank, and alpha / sqrt(rank) for rsLoRA; the export must say the same of them."""
    layers = load_model(str(pocket_sd15)).unet.mid_block
    for changes, scale, alpha in (
        ({"method": "lora"}, 1.5, 6.0),
        ({"method": "lora", "rslora": True}, 3.0, 12.0),
        ({"method": "dora", "rslora": True}, 3.0, 12.0),
        ({"method": "loha"}, 1.5, 6.0),
        ({"method": "lokr"}, 1.5, 6.0),
    ):
        config = peft_config(AdapterSettings(rank=4, alpha=6.0, **changes), ["to_q"])
        adapted = inject_adapter_in_model(config, copy.deepcopy(layers))
        assert {layer.scaling["default"] for layer in adapter_layers(adapted)} == {scale}
        assert plain_alpha(config) == alpha


def test_the_size_of_lokrs_small_factor(pocket_sd15):
    sizes_of = {}
    for factor in (None, 2):
        model = load_model(str(pocket_sd15))
        settings = AdapterSettings(method="lokr", lokr_factor=factor, target_modules=("mid_block.*to_q",))
        attach(model, settings, seed=0)
        sizes_of[factor] = adapter_layers(model.denoiser)[0].lokr_w1["default"].shape
    # Of 16 channels: 2 x 8, and 4 x 4.
    assert (sizes_of[2], sizes_of[None]) == ((2, 2), (4, 4))


def test_what_dora_cannot_train_is_refused(pocket_sd15):
    conv = AdapterSettings(method="dora", dropout=0.1, target_modules=("conv1",))
    with pytest.raises(UserError, match=r"adapter\.dropout=0\.1 cannot train convolutions, such as unet\."):
        attach(load_model(str(pocket_sd15)), conv, seed=0)
    model = load_model(str(pocket_sd15))
    model.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q").weight.data[3] = 0
    with pytest.raises(UserError, match="a row of its weights is zero"):
        attach(model, AdapterSettings(method="dora"), seed=0)


def test_a_loha_that_may_leave_out_all_rows_is_refused(pocket_sd15):
    few = AdapterSettings(method="loha", rank_dropout=0.2, target_modules=("conv_out", "to_q"))
    with pytest.raises(
        UserError, match=r"rank_dropout=0\.2 cannot train unet\.conv_out: it has 4 output rows"
    ):
        attach(load_model(str(pocket_sd15)), few, seed=0)
    attach(load_model(str(pocket_sd15)), replace(few, target_modules=("to_q",)), seed=0)
    attach(load_model(str(pocket_sd15)), replace(few, method="lokr"), seed=0)
