"""Which layers get an adapter: endings, patterns, sets; what matches nothing is refused."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from src.errors import UserError
from src.files import read_json
from src.models.adapter_targets import LayerSizes, layer_sizes, matched_layers, resolve_targets
from src.models.adapters import AdapterSettings, adapter_layers, attach
from src.models.load import CONFIGS, load_model


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def unet(request):
    """The real UNet, without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(read_json(CONFIGS / request.param / "unet" / "config.json"))


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def _matched(module: nn.Module, targets: list[str]) -> set[str]:
    """As peft matches them."""
    return {name for name in _layers(module) if any(name == t or name.endswith(f".{t}") for t in targets)}


def test_the_set_kohya_is_all_linear_and_1x1_of_the_transformers(unet):
    expected = set()
    for name, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            for path, layer in _layers(module).items():
                if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1):
                    expected.add(f"{name}.{path}")
    assert _matched(unet, resolve_targets("unet", unet, ["kohya"])) == expected
    attention = _matched(unet, resolve_targets("unet", unet, ["diffusers"]))
    assert attention < expected
    assert {name.rsplit(".", 1)[1] for name in attention} == {"to_q", "to_k", "to_v", "0"}


def test_the_set_kohya_of_a_text_encoder():
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(num_hidden_layers=2))
    targets = resolve_targets("text_encoder", encoder, ["kohya"])
    assert _matched(encoder, targets) == set(_layers(encoder))
    assert resolve_targets("text_encoder", encoder, ["*layers.1.mlp.fc?"]) == [
        name for name in _layers(encoder) if "layers.1.mlp.fc" in name
    ]


def test_patterns_are_over_whole_names(unet):
    matched = resolve_targets("unet", unet, ["up_blocks.*attn2.to_k"])
    assert matched == [n for n in _layers(unet) if n.startswith("up_blocks.") and n.endswith("attn2.to_k")]
    both = resolve_targets("unet", unet, ["mid_block.*", "conv_in"])
    assert set(both) == {n for n in _layers(unet) if n.startswith("mid_block.")} | {"conv_in"}
    assert resolve_targets("unet", unet, ["to_q", "to_k"]) == ["to_q", "to_k"], "endings stay endings"
    with pytest.raises(UserError, match="matches nothing"):
        resolve_targets("unet", unet, ["attn2.*"])


@pytest.mark.parametrize(
    ("entry", "near"),
    [("to_qq", "to_q"), ("attn3.to_k", "attn1.to_k"), ("kohia", "kohya"), ("to_out", "to_out.0")],
)
def test_what_matches_nothing_is_refused_with_near_names(entry, near, unet):
    with pytest.raises(UserError, match=rf"adapter\.target_modules: .*{entry} matches nothing") as caught:
        resolve_targets("unet", unet, ["to_q", entry])
    assert near in str(caught.value)


def test_a_pattern_reaches_the_layers(pocket_sd15):
    model = load_model(str(pocket_sd15))
    settings = AdapterSettings(
        method="lokr", rank=2, target_modules=("up_blocks.*attn2.to_k", "mid_block.resnets.0.conv1")
    )
    attach(model, settings, seed=0)
    adapted = {n for n, m in model.unet.named_modules() if m in adapter_layers(model.unet)}
    expected = {n for n in adapted if n.startswith("up_blocks.") and n.endswith("attn2.to_k")}
    assert expected
    assert adapted == expected | {"mid_block.resnets.0.conv1"}


_LAYERS = {"unet": ["mid.to_q", "mid.to_k", "up.0.to_k"], "text_encoder": ["layers.0.fc1", "layers.1.fc1"]}


def _sizes(ranks, alphas):
    return layer_sizes(_LAYERS, rank=8, alpha=4.0, rank_pattern=ranks, alpha_pattern=alphas)


def test_layers_with_a_rank_or_an_alpha_of_their_own():
    assert _sizes({}, {}) == {"unet": {}, "text_encoder": {}}
    # alpha / rank stays where nothing is said of alpha; the last match counts.
    assert _sizes({"mid.*": 16, "to_k": 2}, {}) == {
        "unet": {
            "mid.to_q": LayerSizes(rank=16, alpha=8.0),
            "mid.to_k": LayerSizes(rank=2, alpha=1.0),
            "up.0.to_k": LayerSizes(rank=2, alpha=1.0),
        },
        "text_encoder": {},
    }
    assert _sizes({"mid.*": 16}, {"mid.to_k": 3.0, "*.1.fc1": 1.0}) == {
        "unet": {
            "mid.to_q": LayerSizes(rank=16, alpha=8.0),
            "mid.to_k": LayerSizes(rank=16, alpha=3.0),
        },
        "text_encoder": {"layers.1.fc1": LayerSizes(rank=8, alpha=1.0)},
    }


def test_rslora_scales_by_the_rank_itself():
    sizes = layer_sizes(
        _LAYERS,
        rank=8,
        alpha=4.0,
        rank_pattern={"mid.*": 16},
        alpha_pattern={"mid.to_k": 3.0},
        keeps_alpha=True,
    )
    assert sizes["unet"] == {
        "mid.to_q": LayerSizes(rank=16, alpha=4.0),
        "mid.to_k": LayerSizes(rank=16, alpha=3.0),
    }


@pytest.mark.parametrize("ending", ["0", "2", "proj"])
def test_endings_that_also_fit_blocks_reach_layers_alone(ending, unet):
    resolved = resolve_targets("unet", unet, [ending])
    layers = {name for name in _layers(unet) if name.endswith(f".{ending}")}
    assert _matched(unet, resolved) == layers
    everything = {name for name, _ in unet.named_modules() if name}
    assert {n for n in everything if any(n == t or n.endswith(f".{t}") for t in resolved)} == layers


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_of_no_adapted_layer_is_refused(key):
    arguments = {"rank_pattern": {}, "alpha_pattern": {}, key: {"to_k": 4, "to_qq": 4}}
    with pytest.raises(UserError, match=rf"adapter\.{key}: to_qq matches none of the layers.*to_q"):
        layer_sizes(_LAYERS, rank=8, alpha=4.0, **arguments)


@pytest.mark.parametrize("targets", [("to_q", "kohya"), ("mid_block.*to_?", "conv_in")])
def test_the_layers_that_get_an_adapter_are_named_as_peft_finds_them(targets, unet):
    resolved = resolve_targets("unet", unet, targets)
    assert set(matched_layers(unet, resolved)) == _matched(unet, resolved)


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_ranks_and_alphas_reach_the_layers(method, pocket_sd15):
    model = load_model(str(pocket_sd15))
    settings = AdapterSettings(
        method=method,
        text_encoder="lora",
        rank=2,
        alpha=2.0,
        rank_pattern={"mid_block.*": 4, "*layers.0.self_attn.q_proj": 3},
        alpha_pattern={"mid_block.*to_k": 1.0},
    )
    attach(model, settings, seed=0)
    layers = {n: m for n, m in model.denoiser.named_modules() if isinstance(m, BaseTunerLayer)}
    assert any("mid_block" in name for name in layers)
    for name, layer in layers.items():
        is_mid, is_first = "mid_block" in name, "layers.0" in name and name.endswith("q_proj")
        assert layer.r["default"] == (4 if is_mid else 3 if is_first else 2), name
        scale = 0.25 if is_mid and name.endswith("to_k") else 1.0
        assert layer.scaling["default"] == pytest.approx(scale), name
    refused = AdapterSettings(rank_pattern={"q_proj": 4})
    with pytest.raises(UserError, match=r"rank_pattern: q_proj matches none"):
        attach(load_model(str(pocket_sd15)), refused, seed=0)
