"""Saved adapters: plain diffusers gives our pixels; what does not belong is refused."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.models.adapter_files import EMBEDDING_FILE, KOHYA_FILE, LORA_FILE
from src.models.adapters import attach
from src.models.export import (
    load_adapter,
    merge_adapter,
    read_adapter_header,
    save_adapter,
    set_adapter_scale,
)
from src.models.export_pipeline import base_state
from src.models.load import load_model
from tests.models.common import move, pixels, plain_pipeline, settings_for, trained

_PLAIN = {"token_embedding": "frozen", "placeholder": None}


def load_textual_inversion(pipeline, folder, token="sksToy") -> None:
    """As our documentation tells users to."""
    if not hasattr(pipeline, "text_encoder_2"):
        pipeline.load_textual_inversion(folder / EMBEDDING_FILE)
        return
    rows = load_file(folder / EMBEDDING_FILE)
    pipeline.load_textual_inversion(rows["clip_l"], token=token)
    pipeline.load_textual_inversion(
        rows["clip_g"], token=token, text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
    )


def test_plain_diffusers_gives_our_pixels(pocket, tmp_path):
    model, _ = trained(pocket)
    written = save_adapter(model, tmp_path, metadata={"run": "test"})
    assert written == [tmp_path / LORA_FILE, tmp_path / KOHYA_FILE, tmp_path / EMBEDDING_FILE]
    pipeline = plain_pipeline(pocket)
    base = pixels(pipeline)
    pipeline.load_lora_weights(tmp_path)
    load_textual_inversion(pipeline, tmp_path)
    ours = pixels(model.pipeline())
    assert (ours == pixels(pipeline)).all()
    assert abs(ours - base).max() > 0.02

    loaded = load_model(str(pocket))
    load_adapter(loaded, tmp_path)
    assert (pixels(loaded.pipeline()) == ours).all()
    assert not any(parameter.requires_grad for parameter in loaded.denoiser.parameters())
    merge_adapter(loaded)
    assert abs(pixels(loaded.pipeline()) - ours).max() < 1e-4

    unscaled = load_model(str(pocket))
    load_adapter(unscaled, tmp_path, scale=0.0, with_token_embedding=False)
    assert (pixels(unscaled.pipeline()) == base).all()
    set_adapter_scale(unscaled, 1.0)
    pipeline = plain_pipeline(pocket)
    pipeline.load_lora_weights(tmp_path)
    assert (pixels(unscaled.pipeline()) == pixels(pipeline)).all()


def test_the_header_says_what_it_is(pocket, tmp_path):
    model, _ = trained(pocket)
    save_adapter(model, tmp_path, metadata={"run": "test"})
    components = (
        ["text_encoder", "unet"] if pocket.name == "sd15" else ["text_encoder", "text_encoder_2", "unet"]
    )
    header = read_adapter_header(tmp_path / LORA_FILE)
    assert {key: header[key] for key in ("architecture", "components", "rank", "alpha", "placeholder")} == {
        "architecture": pocket.name,
        "components": components,
        "rank": 4,
        "alpha": 6,
        "placeholder": "sksToy",
    }
    assert header["metadata"]["run"] == "test"
    assert header["metadata"]["darkroom.base_model_hash"] == model.base_hash
    assert list(header["metadata"].values()).count(model.base_hash) == 1
    assert header["metadata"]["format"] == "pt"
    assert read_adapter_header(tmp_path / EMBEDDING_FILE)["placeholder"] == "sksToy"
    names = load_file(tmp_path / LORA_FILE)
    assert any(name.startswith("text_encoder.text_model.encoder.layers.0") for name in names)


def test_equal_adapters_are_equal_bytes(pocket_sd15, tmp_path):
    for name in ("a", "b"):
        save_adapter(trained(pocket_sd15)[0], tmp_path / name, metadata={str(i): "x" for i in range(20)})
    for file in (LORA_FILE, EMBEDDING_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_kohyas_form_loads(architecture, request, tmp_path):
    """Files as kohya's scripts and most of the web have them: other names, alpha as tensors."""
    pocket = request.getfixturevalue(f"pocket_{architecture}")
    model, _ = trained(pocket, text_encoder="frozen", text_encoder_2="frozen", **_PLAIN)
    save_adapter(model, tmp_path, metadata={})
    state = {}
    for name, tensor in load_file(tmp_path / LORA_FILE).items():
        place, _, end = name.removeprefix("unet.").rpartition(".lora_")
        key = f"lora_unet_{place.replace('.', '_')}"
        direction = {"A.weight": "down", "B.weight": "up"}[end]
        state[f"{key}.lora_{direction}.weight"] = tensor
        state[f"{key}.alpha"] = torch.tensor(6.0)
    save_file(state, tmp_path / "kohya.safetensors")
    loaded = load_model(str(pocket))
    load_adapter(loaded, tmp_path / "kohya.safetensors")
    assert (pixels(loaded.pipeline()) == pixels(model.pipeline())).all()


def test_full_components_are_a_plain_model(pocket, tmp_path):
    changes = {"unet": "full", "text_encoder": "lora", "text_encoder_2": "frozen"}
    model, _ = trained(pocket, **changes)
    written = save_adapter(model, tmp_path, metadata={"run": "test"})
    assert [path.name for path in written] == [LORA_FILE, KOHYA_FILE, EMBEDDING_FILE, "model"]
    save_adapter(model, tmp_path, metadata={"run": "again"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(KOHYA_FILE, EMBEDDING_FILE, "model", LORA_FILE)
    ]
    ours = pixels(model.pipeline())

    pipeline = plain_pipeline(tmp_path / "model")
    pipeline.load_lora_weights(tmp_path)
    load_textual_inversion(pipeline, tmp_path)
    # fp32 weights are used where they lie in the file, and CPU kernels round by how memory is aligned.
    assert abs(pixels(pipeline) - ours).max() < 1e-5

    loaded = load_model(str(pocket))
    load_adapter(loaded, tmp_path)
    assert (pixels(loaded.pipeline()) == ours).all()
    unscaled = load_model(str(pocket))
    load_adapter(unscaled, tmp_path, scale=0.0, with_token_embedding=False)
    assert (pixels(unscaled.pipeline()) == pixels(plain_pipeline(pocket))).all()
    assert load_model(str(tmp_path / "model")).architecture == pocket.name


def test_a_full_text_encoder_beside_a_trained_token(pocket, tmp_path):
    model, _ = trained(pocket, unet="frozen", text_encoder="full", text_encoder_2="frozen")
    assert [path.name for path in save_adapter(model, tmp_path, metadata={})] == [EMBEDDING_FILE, "model"]
    loaded = load_model(str(pocket))
    load_adapter(loaded, tmp_path)
    assert (pixels(loaded.pipeline()) == pixels(model.pipeline())).all()


@pytest.mark.parametrize("stored_in", [torch.float32, torch.float16])
def test_what_was_frozen_in_half_precision_is_exported_with_all_digits(stored_in, pocket_sdxl, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(pocket_sdxl, base)
    for file in base.rglob("*.safetensors"):
        save_file(
            {key: t.to(stored_in) for key, t in load_file(file).items()}, file, metadata={"format": "pt"}
        )
    model = load_model(str(base))
    changes = {"unet": "lora", "text_encoder": "full", "text_encoder_2": "lora"}
    move(attach(model, settings_for("sdxl", **changes), seed=1))
    model.to_device("cpu", torch.bfloat16)
    assert model.unet.dtype == torch.bfloat16
    save_adapter(model, tmp_path / "adapter", metadata={})
    exported, expected = load_model(str(tmp_path / "adapter" / "model")), load_model(str(base))
    for name in ("unet", "text_encoder_2"):
        ours, theirs = getattr(exported.denoiser, name), getattr(expected.denoiser, name).state_dict()
        for key, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs[key]), f"{name} {key}"
    trained_part = base_state(model.text_encoders["text_encoder"])
    for key, tensor in exported.text_encoders["text_encoder"].state_dict().items():
        assert torch.equal(trained_part[key], tensor), key
    written = (tmp_path / "adapter" / "model").rglob("*.safetensors")
    assert {t.dtype for file in written for t in load_file(file).values()} == {torch.float32}


def test_half_strength_of_full_weights_is_halfway(pocket_sd15, tmp_path):
    model, _ = trained(pocket_sd15, unet="full", text_encoder="frozen", **_PLAIN)
    save_adapter(model, tmp_path, metadata={})
    base, half = load_model(str(pocket_sd15)), load_model(str(pocket_sd15))
    load_adapter(half, tmp_path, scale=0.5)
    middle = (base.unet.conv_in.weight + model.unet.conv_in.weight) / 2
    torch.testing.assert_close(half.unet.conv_in.weight, middle)


def test_another_architecture_is_refused(pocket_sd15, pocket_sdxl, tmp_path):
    for source, target in ((pocket_sd15, pocket_sdxl), (pocket_sdxl, pocket_sd15)):
        folder = tmp_path / source.name
        save_adapter(trained(source)[0], folder, metadata={})
        with pytest.raises(UserError, match=f"trained for {source.name}, the base model is {target.name}"):
            load_adapter(load_model(str(target)), folder)
        # The same without our header: names and shapes tell.
        bare = tmp_path / f"bare_{source.name}"
        bare.mkdir()
        save_file(load_file(folder / LORA_FILE), bare / LORA_FILE)
        with pytest.raises(UserError, match=f"does not fit the {target.name}|trained for sdxl"):
            load_adapter(load_model(str(target)), bare)


@pytest.mark.parametrize(
    ("shapes", "architecture"),
    [
        ({"unet.x.attn2.to_k.lora.down.weight": (4, 768)}, "sd15"),
        ({"unet.x.attn2.to_v.lora_A.weight": (4, 2048)}, "sdxl"),
        ({"unet.x.attn2.processor.to_k_lora.down.weight": (4, 768)}, "sd15"),
        ({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 2048)}, "sdxl"),
        (
            {
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (
                    4,
                    1024,
                )
            },
            "Stable Diffusion 2.x",
        ),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280)}, "sdxl"),
        (
            {"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 3072)},
            "Stable Diffusion 3 or FLUX",
        ),
        ({"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 768)}, None),
    ],
)
def test_the_architecture_of_foreign_adapters(shapes, architecture, tmp_path):
    file = tmp_path / "adapter.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    assert read_adapter_header(file)["architecture"] == architecture


def test_foreign_and_misfitting_tensors_are_refused(pocket_sd15, tmp_path):
    save_adapter(trained(pocket_sd15, text_encoder="frozen", **_PLAIN)[0], tmp_path, metadata={})
    whole = load_file(tmp_path / LORA_FILE)
    name = next(iter(whole))
    file = tmp_path / "other.safetensors"
    for change in ({name.replace("unet.", "unet.nowhere."): torch.ones(4, 7)}, {name: torch.ones(4, 7)}):
        save_file({**whole, **change}, file)
        with pytest.raises(UserError, match="does not fit the sd15 base model"):
            load_adapter(load_model(str(pocket_sd15)), file)
    save_file({"something": torch.ones(3)}, file)
    with pytest.raises(UserError, match=r"other\.safetensors"):
        load_adapter(load_model(str(pocket_sd15)), file)


def test_a_file_of_unknown_names_is_refused_in_one_line(pocket_sd15, tmp_path):
    names = [
        f"lora_unet_down_blocks_{i}_attentions_0_attn1_to_k_lora.{side}.weight"
        for i in (0, 1)
        for side in ("down", "up")
    ]
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="no LoRA that can be read") as caught:
        load_adapter(load_model(str(pocket_sd15)), tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value)


def test_nothing_learned_is_said(pocket_sd15, tmp_path, caplog):
    model = load_model(str(pocket_sd15))
    attach(model, settings_for("sd15", text_encoder="frozen", **_PLAIN), seed=0)
    with caplog.at_level(logging.WARNING):
        save_adapter(model, tmp_path, metadata={})
    assert "learned nothing" in caplog.text
    assert read_adapter_header(tmp_path / LORA_FILE)["metadata"]["darkroom.nothing_learned"] == "true"
    with pytest.raises(UserError, match="has no effect"):
        load_adapter(load_model(str(pocket_sd15)), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_not_saved(value, pocket_sd15, tmp_path):
    model, groups = trained(pocket_sd15)
    groups[0].parameters[5][1].data[0, 0] = value
    with pytest.raises(UserError, match="Not saved: 1 trained tensors hold NaN or infinity"):
        save_adapter(model, tmp_path / "adapter", metadata={})
    assert not (tmp_path / "adapter").exists()


def test_files_of_an_adapter_belong_together(pocket_sd15, tmp_path):
    model, _ = trained(pocket_sd15)
    save_adapter(model, tmp_path, metadata={})
    expected = pixels(model.pipeline())
    by_file = load_model(str(pocket_sd15))
    load_adapter(by_file, tmp_path / LORA_FILE)
    assert (pixels(by_file.pipeline()) == expected).all()
    (tmp_path / EMBEDDING_FILE).unlink()
    with pytest.raises(UserError, match="is not beside it"):
        load_adapter(load_model(str(pocket_sd15)), tmp_path / LORA_FILE)


def test_missing_adapters(pocket_sd15, tmp_path):
    model = load_model(str(pocket_sd15))
    with pytest.raises(UserError, match="does not exist"):
        load_adapter(model, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no adapter"):
        load_adapter(model, tmp_path)


def test_a_full_disk_is_told_before_writing(pocket_sd15, tmp_path, monkeypatch):
    model, _ = trained(pocket_sd15, unet="full")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="Not enough disk space"):
        save_adapter(model, tmp_path / "adapter", metadata={})
    assert not list(tmp_path.rglob("*.safetensors"))
