"""What a model on disk is, told from its configurations or its keys and shapes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from src.errors import UserError
from src.models.detect import detect_folder, detect_single_file
from tests.models.single_files import checkpoint_shapes, write_checkpoint


def _configs(source: Path, target: Path) -> Path:
    """A model folder without its weights."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*")))


def _change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_pocket_folders(pocket_sd15, pocket_sdxl):
    assert detect_folder(pocket_sd15) == "sd15"
    assert detect_folder(pocket_sdxl) == "sdxl"


@pytest.mark.parametrize(
    ("base", "file", "changes", "said"),
    [
        ("sd15", "unet/config.json", {"in_channels": 9}, "inpainting"),
        ("sd15", "unet/config.json", {"in_channels": 8}, "InstructPix2Pix"),
        ("sd15", "unet/config.json", {"time_cond_proj_dim": 256}, "LCM"),
        ("sd15", "unet/config.json", {"cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
        ("sd15", "unet/config.json", {"class_embed_type": "projection"}, "conditioning of another kind"),
        ("sd15", "unet/config.json", {"cross_attention_dim": 64}, "expects text of width 64"),
        ("sd15", "text_encoder/config.json", {"model_type": "xlm-roberta"}, "another kind"),
        ("sdxl", "unet/config.json", {"in_channels": 9}, "inpainting"),
        ("sdxl", "model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "LCM"),
    ],
)
def test_other_folders_are_refused_by_name(base, file, changes, said, tmp_path, request):
    folder = _configs(request.getfixturevalue(f"pocket_{base}"), tmp_path / "model")
    _change(folder / file, **changes)
    with pytest.raises(UserError, match=said):
        detect_folder(folder)


def test_latents_of_more_channels_are_another_vae_and_no_other_architecture(pocket_sd15, tmp_path):
    folder = _configs(pocket_sd15, tmp_path / "model")
    _change(folder / "unet/config.json", in_channels=8, out_channels=8)
    assert detect_folder(folder) == "sd15"


def test_the_refiner_is_refused(pocket_sdxl, tmp_path):
    folder = _configs(pocket_sdxl, tmp_path / "model")
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(UserError, match=r"refiner.*Supported: Stable Diffusion 1\.x"):
        detect_folder(folder)


@pytest.mark.parametrize(
    ("class_name", "said"), [("StableDiffusion3Pipeline", "Stable Diffusion 3"), ("FluxPipeline", "FLUX")]
)
def test_transformers_are_refused(class_name, said, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    with pytest.raises(UserError, match=said):
        detect_folder(tmp_path)


def test_no_model_folder(tmp_path):
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        detect_folder(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        detect_folder(tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(UserError, match="adapter"):
        detect_folder(tmp_path)


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_single_files_of_full_shape(architecture, tmp_path):
    file = write_checkpoint(tmp_path / "m.safetensors", checkpoint_shapes(architecture), random=False)
    assert detect_single_file(file) == architecture


_UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}, "adapter file"),
        ({"unet.mid_block.attentions.0.to_q.lora.down.weight": (4, 320)}, "adapter file"),
        ({"clip_l": (1, 768), "clip_g": (1, 1280)}, "token embedding"),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "ControlNet"),
        ({f"{_UNET}joint_blocks.0.x_block.attn.qkv.weight": (8, 8)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "FLUX"),
        ({f"{_UNET}time_embed.cond_proj.weight": (320, 256)}, "LCM"),
        ({f"{_UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}, "inpainting"),
        ({f"{_UNET}input_blocks.0.0.weight": (320, 8, 3, 3)}, "InstructPix2Pix"),
        ({f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}, "Diffusion 2"),
        ({f"{_UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280)}, "refiner"),
        ({"decoder.conv_in.weight": (8, 4, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3)}, "bare VAE"),
        ({"down_blocks.0.resnets.0.conv1.weight": (8, 8)}, "one part of a diffusers folder"),
        ({"something": (1,)}, "no architecture known here"),
    ],
)
def test_other_single_files_are_refused_by_name(shapes, said, tmp_path):
    file = write_checkpoint(tmp_path / "m.safetensors", shapes)
    with pytest.raises(UserError, match=said):
        detect_single_file(file)


def test_a_pruned_model_is_told_apart(tmp_path):
    shapes = checkpoint_shapes("sdxl")
    pruned = {name: shape for name, shape in shapes.items() if "middle_block" not in name}
    with pytest.raises(UserError, match=r"nearly sdxl, but .*middle_block.* is missing"):
        detect_single_file(write_checkpoint(tmp_path / "m.safetensors", pruned, random=False))


def test_an_lcm_of_full_shape_is_refused(tmp_path):
    shapes = checkpoint_shapes("sd15") | {f"{_UNET}time_embed.cond_proj.weight": (320, 256)}
    with pytest.raises(UserError, match="LCM"):
        detect_single_file(write_checkpoint(tmp_path / "m.safetensors", shapes, random=False))


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt"])
def test_pickles_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"Convert it to \.safetensors"):
        detect_single_file(tmp_path / name)


def test_damaged_files(tmp_path):
    file = tmp_path / "m.safetensors"
    save_file({"a": zeros(100)}, file)
    whole = file.read_bytes()
    cases = (
        whole[:-1],
        whole[:20],
        whole[:4],
        b"",
        whole + b"x",
        b"<html>" * 100,
        whole.replace(b"[100]", b"[101]"),
    )
    for data in cases:
        file.write_bytes(data)
        with pytest.raises(UserError, match="damaged, truncated or no safetensors"):
            detect_single_file(file)
    with pytest.raises(UserError, match="Cannot read"):
        detect_single_file(tmp_path / "missing.safetensors")


def test_detection_needs_no_torch():
    code = "import sys, src.models.detect, src.models.adapter_files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
