"""Which layers get an adapter: endings, patterns, sets; what matches nothing is refused."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from src.errors import UserError
from src.files import read_json
from src.models.adapter_targets import resolve_targets
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
