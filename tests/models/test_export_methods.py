"""Adapters of every method, saved: what other programs make of the files, and what is read again here."""

import json
import logging
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from src.errors import UserError
from src.files import read_json
from src.models.adapter_files import KOHYA_FILE, LORA_FILE, LYCORIS_FILE, PEFT_FOLDER, read_adapter_header
from src.models.adapter_strength import merge_adapter, set_adapter_scale
from src.models.adapters import adapter_layers, attach
from src.models.base import is_adapter_weight
from src.models.eight_bit import to_eight_bits
from src.models.export import load_adapter, save_adapter
from src.models.kohya_names import kohya_name
from src.models.load import CONFIGS, load_model
from src.models.safetensors_header import read_header
from tests.models.common import move, pixels, plain_pipeline, settings_for, trained
from tests.models.single_files import unet_name
from tests.models.test_adapter_methods import METHODS, TARGETS, _predict

_PLAIN = {"token_embedding": "frozen", "placeholder": None, "target_modules": TARGETS}
# Some layers of another rank and alpha, in the UNet and in a text encoder.
_PATTERNS = {
    "rank_pattern": {"mid_block.*to_?": 6, "*layers.0.self_attn.q_proj": 2},
    "alpha_pattern": {"mid_block.*to_k": 1.0, "*layers.0.mlp.fc1": 2.0},
}
_FILES = {
    "lora": [LORA_FILE, KOHYA_FILE],
    "dora": [LORA_FILE, KOHYA_FILE],
    "loha": [PEFT_FOLDER, LYCORIS_FILE],
    "lokr": [PEFT_FOLDER, LYCORIS_FILE],
}


def _trained(pocket, method, **changes):
    model, groups = trained(pocket, method=method, text_target_modules=("kohya",), **{**_PLAIN, **changes})
    model.denoiser.eval()
    return model, groups


@pytest.mark.parametrize(
    ("architecture", "method", "changes"),
    [
        ("sd15", "dora", {}),
        ("sdxl", "lora", _PATTERNS),
        ("sd15", "lokr", {"lokr_factor": 4}),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("sd15", "lora", {}),
                ("sdxl", "lora", {}),
                ("sd15", "lora", {"rslora": True}),
                ("sd15", "lora", {"rslora": True, **_PATTERNS}),
                ("sd15", "loha", {}),
                *(("sd15", method, _PATTERNS) for method in ("dora", "loha", "lokr")),
                *(("sdxl", method, {}) for method in ("dora", "loha", "lokr")),
            )
        ),
    ],
)
def test_the_library_it_is_for_gives_our_pixels(architecture, method, changes, request, tmp_path):
    """diffusers reads LoRA (also in kohya's form) and DoRA, peft LoHa and LoKr."""
    pocket = request.getfixturevalue(f"pocket_{architecture}")
    model, _ = _trained(pocket, method, **changes)
    written = save_adapter(model, tmp_path, metadata={})
    assert [path.name for path in written] == _FILES[method]
    ours = pixels(model.pipeline())
    for file in [LORA_FILE] * (method == "dora") + [LORA_FILE, KOHYA_FILE] * (method == "lora"):
        pipeline = plain_pipeline(pocket)
        pipeline.load_lora_weights(tmp_path, weight_name=file)
        # CPU kernels round by how memory is aligned, and weights are used where they lie in the file.
        assert abs(pixels(pipeline) - ours).max() < 1e-5, file
    pipeline = plain_pipeline(pocket)
    if method in ("loha", "lokr"):
        for folder in (tmp_path / PEFT_FOLDER).iterdir():
            setattr(pipeline, folder.name, PeftModel.from_pretrained(getattr(pipeline, folder.name), folder))
        assert abs(pixels(pipeline) - ours).max() < 1e-5
        with pytest.raises((ValueError, KeyError)):
            plain_pipeline(pocket).load_lora_weights(tmp_path, weight_name=LYCORIS_FILE)
    else:
        assert abs(pixels(pipeline) - ours).max() > 0.01, "the base model's pixels are others"


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        *(("sd15", method) for method in METHODS),
        *(pytest.param("sdxl", method, marks=pytest.mark.slow) for method in METHODS),
    ],
)
def test_it_is_read_again_bit_by_bit(architecture, method, request, tmp_path):
    pocket = request.getfixturevalue(f"pocket_{architecture}")
    model, _ = _trained(pocket, method)
    save_adapter(model, tmp_path, metadata={})
    loaded = load_model(str(pocket))
    base = _predict(loaded).detach()
    load_adapter(loaded, tmp_path)
    ours, theirs = (dict(each.denoiser.named_parameters()) for each in (model, loaded))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(parameter.requires_grad for parameter in theirs.values())
    whole = _predict(loaded)
    assert torch.equal(whole, _predict(model))
    set_adapter_scale(loaded, 0.0)
    assert torch.equal(_predict(loaded), base), "0 is the base exactly"
    set_adapter_scale(loaded, 0.5)
    half = _predict(loaded)
    assert abs(half - whole).max() > 1e-3
    assert abs(half - base).max() > 1e-3
    assert not any(parameter.requires_grad for parameter in theirs.values())
    merge_adapter(loaded)
    assert not any(is_adapter_weight(name) for name, _ in loaded.denoiser.named_parameters())
    assert abs(_predict(loaded) - half).max() < 1e-4
    set_adapter_scale(model, 1.0)
    merge_adapter(model)
    assert abs(_predict(model) - whole).max() < 1e-4


def _as_comfyui_reads_it(weight, part, rank_of_lokr=None):
    """The weight that ComfyUI makes of a layer's tensors, by its arithmetic (comfy/weight_adapter)."""
    alpha = part["alpha"].item()
    if "hada_w1_a" in part:
        product = (part["hada_w1_a"] @ part["hada_w1_b"]) * (part["hada_w2_a"] @ part["hada_w2_b"])
        return weight + alpha / len(part["hada_w1_b"]) * product.reshape(weight.shape)
    if "lokr_w1" in part:
        scale, second = 1.0, part.get("lokr_w2")
        if second is None:
            scale, second = alpha / len(part["lokr_w2_b"]), part["lokr_w2_a"] @ part["lokr_w2_b"]
        first = part["lokr_w1"][(...,) + (None,) * (second.dim() - 2)]
        return weight + scale * torch.kron(first, second).reshape(weight.shape)
    up, down = part["lora_up.weight"], part["lora_down.weight"]
    delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * (alpha / len(down))
    if "dora_scale" not in part:
        return weight + delta
    assert part["dora_scale"].shape[0] == weight.shape[0], "lengths of output rows"
    norm = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight + delta) * (part["dora_scale"] / norm)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", {"rslora": True}),
        ("lora", {"rslora": True, **_PATTERNS}),
        ("dora", {}),
        ("loha", {}),
        ("loha", _PATTERNS),
        ("lokr", {"rank": 2}),
        ("lokr", {"rank": 32}),  # both factors whole
    ],
)
@torch.no_grad()
def test_comfyuis_arithmetic_gives_our_weights(method, changes, pocket_sd15, tmp_path):
    model, _ = _trained(pocket_sd15, method, **changes)
    *_, file = save_adapter(model, tmp_path, metadata={})
    tensors, seen = load_file(file), set()
    for name, prefix in (("unet", "lora_unet"), ("text_encoder", "lora_te_text_model")):
        component = getattr(model.denoiser, name)
        layers = {n: m for n, m in component.named_modules() if m in adapter_layers(component)}
        for path, layer in layers.items():
            # text_model is gone from newer transformers' names, and part of older ones'.
            key = f"{prefix}_{path.removeprefix('text_model.').replace('.', '_')}."
            part = {k.removeprefix(key): value for k, value in tensors.items() if k.startswith(key)}
            seen |= {k for k in tensors if k.startswith(key)}
            theirs = _as_comfyui_reads_it(layer.get_base_layer().weight.clone(), part)
            before = layer.get_base_layer().weight.clone()
            layer.merge()
            torch.testing.assert_close(theirs, layer.get_base_layer().weight, atol=2e-5, rtol=1e-4)
            assert not torch.equal(layer.get_base_layer().weight, before)
    assert seen == set(tensors), "no tensor without a layer"


def test_sdxl_layers_have_the_original_checkpoints_names():
    """Of the real UNet, all of its layers; the original names are written down anew for the tests of loading."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(read_json(CONFIGS / "sdxl" / "unet" / "config.json"))
    has_attention = ["Attn" in block for block in unet.config.up_block_types]
    layers = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) > 700
    settings = {
        "layers_per_block": unet.config.layers_per_block,
        "up_block_types": unet.config.up_block_types,
    }
    for layer in layers:
        original = unet_name(f"{layer}.weight", has_attention=has_attention).removesuffix(".weight")
        name = kohya_name("unet", layer, architecture="sdxl", **settings)
        assert name == f"lora_unet_{original.replace('.', '_')}"
        assert (
            kohya_name("unet", layer, architecture="sd15", **settings)
            == f"lora_unet_{layer.replace('.', '_')}"
        )
    for component, prefix in (("text_encoder", "lora_te1"), ("text_encoder_2", "lora_te2")):
        for layer in ("encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"):
            name = kohya_name(component, layer, architecture="sdxl", **settings)
            assert name == f"{prefix}_text_model_encoder_layers_0_mlp_fc1"


def test_headers_say_what_tools_ask(pocket_sdxl, tmp_path):
    model, _ = _trained(pocket_sdxl, "lokr", lokr_factor=4, text_encoder="frozen", text_encoder_2="frozen")
    metadata = {"darkroom.run": "toy", "darkroom.resolution": "512x768", "darkroom.seed": "3"}
    save_adapter(model, tmp_path, metadata=metadata)
    header = read_header(tmp_path / LYCORIS_FILE).metadata
    assert header["ss_network_module"] == "lycoris.kohya"
    assert json.loads(header["ss_network_args"]) == {"algo": "lokr", "factor": "4"}
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "6.0")
    assert header["ss_base_model_version"] == "sdxl_base_v1-0"
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert (header["ss_output_name"], header["ss_resolution"], header["ss_seed"]) == (
        "toy",
        "(512, 768)",
        "3",
    )
    assert read_adapter_header(tmp_path / LYCORIS_FILE)["architecture"] == "sdxl"
    config = read_json(tmp_path / PEFT_FOLDER / "unet" / "adapter_config.json")
    assert (config["peft_type"], config["r"], config["alpha"]) == ("LOKR", 4, 6.0)


def test_rslora_has_the_alpha_of_its_scale(pocket_sd15, tmp_path):
    model, _ = _trained(pocket_sd15, "lora", rslora=True)
    save_adapter(model, tmp_path, metadata={})
    alphas = {value.item() for name, value in load_file(tmp_path / KOHYA_FILE).items() if "alpha" in name}
    assert alphas == {12.0}, "6 / sqrt(4) = 12 / 4"
    assert read_adapter_header(tmp_path / LORA_FILE)["alpha"] == 12.0
    assert read_header(tmp_path / KOHYA_FILE).metadata["ss_network_alpha"] == "12.0"


@pytest.mark.parametrize(
    ("method", "precision"),
    [*((method, None) for method in METHODS[1:]), ("dora", "int8"), ("dora", "fp8")],
)
def test_nothing_learned_is_said(method, precision, pocket_sd15, tmp_path, caplog):
    model = load_model(str(pocket_sd15))
    settings = settings_for("sd15", **{**_PLAIN, "method": method, "text_encoder": "frozen"})
    groups = attach(model, settings, seed=0)
    if precision is not None:
        to_eight_bits(model.unet, precision)
    with caplog.at_level(logging.WARNING):
        save_adapter(model, tmp_path, metadata={})
    assert "learned nothing" in caplog.text
    with pytest.raises(UserError, match="has no effect"):
        load_adapter(load_model(str(pocket_sd15)), tmp_path)
    caplog.clear()
    move(groups)
    save_adapter(model, tmp_path, metadata={})
    assert "learned nothing" not in caplog.text


def test_a_dora_that_learned_lengths_alone_has_an_effect(pocket_sd15, tmp_path):
    model = load_model(str(pocket_sd15))
    attach(model, settings_for("sd15", **{**_PLAIN, "method": "dora", "text_encoder": "frozen"}), seed=0)
    for name, parameter in model.denoiser.named_parameters():
        if ".lora_magnitude_vector." in name:
            parameter.data *= 1.5
    save_adapter(model, tmp_path, metadata={})
    loaded = load_model(str(pocket_sd15))
    load_adapter(loaded, tmp_path)
    assert torch.equal(_predict(loaded), _predict(model))


def test_files_that_are_read_otherwise_are_refused(pocket_sd15, pocket_sdxl, tmp_path):
    save_adapter(_trained(pocket_sd15, "dora", text_encoder="frozen")[0], tmp_path / "dora", metadata={})
    save_adapter(_trained(pocket_sd15, "loha", text_encoder="frozen")[0], tmp_path / "loha", metadata={})
    model = load_model(str(pocket_sd15))
    # diffusers would leave the lengths out without an error.
    with pytest.raises(UserError, match=f"is a DoRA in kohya's form.*{LORA_FILE}"):
        load_adapter(model, tmp_path / "dora" / KOHYA_FILE)
    alone = tmp_path / LYCORIS_FILE
    shutil.copy(tmp_path / "loha" / LYCORIS_FILE, alone)
    with pytest.raises(UserError, match="read from the folder peft/"):
        load_adapter(model, alone)
    save_file(load_file(alone), alone)
    with pytest.raises(UserError, match="is a LoHa or LoKr of another program"):
        load_adapter(model, alone)
    with pytest.raises(UserError, match="trained for sd15, the base model is sdxl"):
        load_adapter(load_model(str(pocket_sdxl)), tmp_path / "loha")
    load_adapter(model, tmp_path / "loha" / LYCORIS_FILE)
    assert adapter_layers(model.denoiser)
