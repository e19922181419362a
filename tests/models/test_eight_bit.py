"""Frozen weights in 8 bits: how near, how small, and what they leave alone."""

import copy
from collections import Counter

import pytest
import torch
from peft import LoKrConfig, LoraConfig
from torch import nn
from torch.nn.functional import cosine_similarity

from src.models.adapters import AdapterSettings, adapter_disabled, attach, trainable_state
from src.models.eight_bit import (
    EightBitConv2d,
    EightBitLinear,
    dequantise,
    is_eight_bit,
    quantise,
    to_eight_bits,
)
from src.models.load import load_model
from tests.models.common import move, sizes

TARGETS = ["to_q", "conv1", "proj_in"]
PRECISIONS = ("int8", "fp8")
# Half a step of the coarsest numbers: of 127 in int8, of a three-bit mantissa in float8_e4m3fn.
LARGEST_ERROR = {"int8": 0.5 / 127, "fp8": 2.0**-4}


def attached(folder, *, precision=None, **changes):
    model = load_model(str(folder))
    groups = attach(model, AdapterSettings(**{"rank": 4, "alpha": 4.0, **changes}), seed=0)
    move(groups)
    if precision is not None:
        to_eight_bits(model.unet, precision)
    return model


def inputs(model, num=2):
    generator = torch.Generator().manual_seed(5)
    hidden, pooled = model.encode_prompts(["a photo of a toy"] * num)
    noisy = torch.randn(num, 4, 8, 8, generator=generator)
    given = {"hidden": hidden, "pooled": pooled, **sizes(num)}
    return (noisy, torch.tensor([300, 700][:num])), given


def predict(model):
    arguments, given = inputs(model)
    return model.denoiser(*arguments, **given)


def gradients(model):
    predict(model).square().mean().backward()
    found = [p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]
    assert found
    return torch.cat(found)


def num_bytes(module):
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(6, 20), (5, 3, 3, 3)])
def test_each_channel_is_rounded_within_half_a_step(precision, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[1] *= 1000  # a loud channel costs the others nothing
    weight[2] = 0
    stored, scale = quantise(weight, precision)
    assert stored.element_size() == 1
    assert scale.shape == (shape[0], *[1] * (len(shape) - 1))
    error = (dequantise(stored, scale, torch.float32) - weight).abs().flatten(1).amax(dim=1)
    assert (error <= 1.001 * LARGEST_ERROR[precision] * weight.abs().flatten(1).amax(dim=1)).all()
    assert error[2] == 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 8), (2, 3, 6)),
        (nn.Linear(6, 8, bias=False), (2, 6)),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 7, 8)),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (2, 4, 8, 8)),
    ],
    ids=["linear", "without bias", "strided", "groups"],
)
def test_a_layer_is_an_ordinary_one_with_the_rounded_weight(precision, layer, shape):
    layer = copy.deepcopy(layer).requires_grad_(False)
    holder = nn.ModuleList([layer])
    to_eight_bits(holder, precision)
    assert isinstance(layer, EightBitLinear | EightBitConv2d)
    plain = copy.deepcopy(layer)
    plain.__class__ = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    plain.register_parameter("weight", nn.Parameter(layer.weight, requires_grad=False))
    results = []
    for each in (layer, plain):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = each(x)
        (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        results.append((y.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "error", "likeness"),
    [("int8", 0.02, 0.999), pytest.param("fp8", 0.08, 0.93, marks=pytest.mark.slow)],
)
def test_a_model_is_nearly_the_same(pocket, precision, error, likeness):
    exact, rounded = attached(pocket), attached(pocket, precision=precision)
    expected, seen = predict(exact), predict(rounded)
    assert 0 < (seen - expected).norm() / expected.norm() < error
    assert cosine_similarity(gradients(exact), gradients(rounded), dim=0) > likeness


def test_it_takes_a_quarter_of_the_memory(pocket_sdxl):
    exact, rounded = attached(pocket_sdxl), attached(pocket_sdxl, precision="int8")
    layers = [layer for layer in rounded.unet.modules() if isinstance(layer, EightBitLinear | EightBitConv2d)]
    weights = sum(layer.stored.numel() for layer in layers)
    scales = sum(layer.scale.nbytes for layer in layers)
    assert sum(layer.stored.nbytes for layer in layers) == weights
    assert num_bytes(exact.unet) - num_bytes(rounded.unet) == 3 * weights - scales
    # Most of what is frozen: the pocket is small, and its layers that stay are a larger part than in SD1.5.
    frozen = sum(p.nbytes for p in exact.unet.parameters() if not p.requires_grad)
    assert 4 * weights > 0.8 * frozen


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_what_the_graph_keeps(precision):
    """For the backward pass autograd keeps the weights of ordinary layers, and 8-bit numbers only of ours."""
    layers = nn.Sequential(
        nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64, bias=False), nn.Unflatten(1, (4, 4, 4))
    )
    layers.append(nn.Conv2d(4, 64, 4)).requires_grad_(False)
    if precision is not None:
        to_eight_bits(layers, precision)
    kept = Counter()

    def pack(tensor):
        kept[tensor.dtype] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layers(torch.randn(1, 64, requires_grad=True)).sum().backward()
    weights = 3 * 64 * 64
    eight_bit = kept[torch.int8] + kept[torch.float8_e4m3fn]
    assert eight_bit == (0 if precision is None else weights)
    assert (kept[torch.float32] >= weights) == (precision is None)
    assert precision is None or kept[torch.float32] < weights / 16, "activations and scales"


def test_what_stays_as_it_is(pocket_sdxl):
    model = attached(pocket_sdxl, precision="int8", target_modules=tuple(TARGETS))
    names = {
        name for name, part in model.unet.named_modules() if isinstance(part, EightBitLinear | EightBitConv2d)
    }
    assert any(name.endswith("to_q.base_layer") for name in names)
    assert any(name.endswith("conv1.base_layer") for name in names)
    assert not any("lora_" in name for name in names)
    assert not {name.split(".")[0] for name in names} & {
        "conv_in",
        "conv_out",
        "time_embedding",
        "add_embedding",
    }
    assert is_eight_bit(model.unet)
    assert not any(is_eight_bit(encoder) for encoder in model.text_encoders.values())
    assert not is_eight_bit(model.vae)
    exact = attached(pocket_sdxl, target_modules=tuple(TARGETS))
    ours, theirs = trainable_state(model), trainable_state(exact)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "adapters start as without it"


def test_bf16_and_checkpointing(pocket_sd15):
    plain, checkpointed = (attached(pocket_sd15, precision="int8") for _ in range(2))
    checkpointed.enable_gradient_checkpointing()
    found = []
    for model in (plain, checkpointed):
        before = [buffer.clone() for buffer in model.unet.buffers()]
        model.to_device("cpu", torch.bfloat16)
        for now, then in zip(model.unet.buffers(), before, strict=True):
            assert torch.equal(now, then)
            assert now.dtype == then.dtype
        model.denoiser.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(gradients(model))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found)
    exact = attached(pocket_sd15)
    assert cosine_similarity(gradients(exact), found[0], dim=0) > 0.98


def test_the_base_shows_through(pocket_sd15):
    model = attached(pocket_sd15, precision="int8")
    adapted = predict(model)
    with adapter_disabled(model):
        base = predict(model)
    untouched = load_model(str(pocket_sd15))
    to_eight_bits(untouched.unet, "int8")
    assert torch.equal(base, predict(untouched))
    assert torch.equal(predict(model), adapted)


@pytest.mark.parametrize(
    "method",
    [
        LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, use_dora=True),
        LoKrConfig(r=4, target_modules=TARGETS, init_weights=False),
    ],
    ids=["DoRA", "LoKr"],
)
def test_pefts_other_methods(pocket_sd15, method):
    models = [load_model(str(pocket_sd15)) for _ in range(2)]
    for model in models:
        torch.manual_seed(0)
        model.unet.add_adapter(method)
    to_eight_bits(models[1].unet, "int8")
    expected, seen = (predict(model) for model in models)
    assert 0 < (seen - expected).norm() / expected.norm() < 0.03
    assert cosine_similarity(*(gradients(model) for model in models), dim=0) > 0.995
