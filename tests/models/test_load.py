"""Loading: folder, hub id, single file; another VAE; what is wrong is said."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.models.clip_vocabulary import write_clip_tokenizers
from src.models.hub import fetch_from_hub, wanted_files
from src.models.load import load_model
from src.models.weight_files import choose
from tests.models.single_files import checkpoint_shapes, vae_shapes, write_checkpoint

_ROOT = Path(__file__).parents[2]


def test_loads_frozen_and_in_eval_mode(pocket):
    model = load_model(str(pocket))
    assert model.architecture == pocket.name
    modules = [model.vae, *model.denoiser.modules()]
    assert not any(module.training for module in modules)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert model.unet.dtype == model.vae.dtype == torch.float32
    half = load_model(str(pocket), torch_dtype=torch.bfloat16)
    assert half.unet.dtype == half.text_encoders["text_encoder"].dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32


def test_another_architecture_than_asked_for(pocket_sd15):
    with pytest.raises(UserError, match=r"is sd15, but model\.architecture=sdxl"):
        load_model(str(pocket_sd15), architecture="sdxl")


@pytest.fixture
def broken(pocket_sd15, tmp_path) -> Path:
    return Path(shutil.copytree(pocket_sd15, tmp_path / "broken"))


def test_truncated_weights(broken):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged, truncated"):
        load_model(str(broken))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_missing_and_foreign_weights(part, broken):
    (file,) = (broken / part).glob("*.safetensors")
    state = load_file(file)
    name = sorted(name for name in state if name.endswith("bias"))[0]
    save_file({key: value for key, value in state.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=part):
        load_model(str(broken))
    save_file({**state, name: torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=part):
        load_model(str(broken))


def test_pickled_and_absent_weights(broken):
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="pickle files only"):
        load_model(str(broken))
    file.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match="no safetensors weights"):
        load_model(str(broken))


def test_variants(broken):
    for file in broken.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    load_model(str(broken))
    with pytest.raises(UserError, match=r"model\.variant"):
        load_model(str(broken), variant="none")


def test_unknown_prediction_type(broken):
    file = broken / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    assert load_model(str(broken)).prediction_type == "v_prediction"
    file.write_text(json.dumps(config | {"prediction_type": "sample"}))
    with pytest.raises(UserError, match="prediction_type=sample"):
        load_model(str(broken))


@pytest.mark.parametrize("path", ["./nowhere", "nowhere.safetensors", "a/b/c", "/nowhere/at/all"])
def test_missing_paths(path):
    with pytest.raises(UserError, match=r"model\.path=.* does not exist"):
        load_model(path)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_an_uncached_hub_id_fails_in_seconds(offline, tmp_path):
    # The port is closed: as without a network, on any machine.
    code = (
        "import time; from src.models.hub import fetch_from_hub; from src.errors import UserError\n"
        "start = time.monotonic()\n"
        "try: fetch_from_hub('nobody/nothing', revision=None, variants=('none',))\n"
        "except UserError as error: print(time.monotonic() - start, error)"
    )
    environment = {"HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, message = result.stdout.split(" ", 1)
    assert float(seconds) < 10
    assert "not in the local cache" in message
    assert "local diffusers folder" in message


@pytest.fixture
def snapshot(pocket_sdxl, tmp_path, monkeypatch) -> Path:
    """The hub cache's copy of someone/pocket, without a network."""
    repository = tmp_path / "hub" / "models--someone--pocket"
    folder = repository / "snapshots" / ("0" * 40)
    shutil.copytree(pocket_sdxl, folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def test_a_cached_hub_model_loads_offline(snapshot):
    assert load_model("someone/pocket").architecture == "sdxl"
    shutil.rmtree(snapshot / "vae")
    with pytest.raises(UserError, match="not in the local cache"):
        load_model("someone/pocket")


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
        "text_encoder_2",
        "tokenizer_2/tokenizer_config.json",
        "tokenizer",
        "scheduler/scheduler_config.json",
    ],
)
def test_an_interrupted_download_goes_on(missing, snapshot):
    def fetched():
        return fetch_from_hub("someone/pocket", revision=None, variants=("fp16", "none"))

    assert fetched() == snapshot
    path = snapshot / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    # What is left is not taken for the model: the hub is asked, which cannot be reached here.
    with pytest.raises(UserError, match="the hub cannot be reached"):
        fetched()


def test_an_interrupted_download_of_shards_goes_on(snapshot):
    def fetched():
        return fetch_from_hub("someone/pocket", revision=None, variants=("none",))

    unet = UNet2DConditionModel.from_pretrained(snapshot / "unet")
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(snapshot / "unet", max_shard_size="200KB")
    shards = sorted((snapshot / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert fetched() == snapshot
    for file in (shards[-1], snapshot / "unet" / "diffusion_pytorch_model.safetensors.index.json"):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match="the hub cannot be reached"):
            fetched()
        file.write_bytes(content)
    assert load_model("someone/pocket").architecture == "sdxl"


def test_a_vae_that_cannot_be_fetched_can_be_left_out(pocket_sdxl):
    with pytest.raises(UserError, match=r"point model\.vae_path .* model\.vae_path=null takes the VAE"):
        load_model(str(pocket_sdxl), vae_path="someone/vae")


def test_only_the_needed_files_are_downloaded():
    names = [
        "model_index.json",
        "README.md",
        "v1-5-pruned.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "text_encoder/model.safetensors",
        "safety_checker/model.fp16.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ]
    wanted = ["model_index.json", "unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    half = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors"]
    assert sorted(wanted_files(names, ("fp16", "none"))) == sorted(wanted + half)


def test_shards_belong_together():
    names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "model.fp16-00001-of-00001.safetensors",
        "model.safetensors.index.fp16.json",
    ]
    assert choose(names, ("none",)) == ("none", [*names[:2], names[2]])
    assert choose(names, ("fp16", "none")) == ("fp16", [names[3], names[4]])
    assert choose(["other.safetensors"], ("none",)) is None


def test_another_vae_from_a_folder(pocket_sd15, pocket_sdxl):
    base, other = (
        load_model(str(pocket_sd15)),
        load_model(str(pocket_sd15), vae_path=str(pocket_sdxl / "vae")),
    )
    assert other.vae_hash != base.vae_hash
    assert other.text_hash == base.text_hash
    whole = load_model(str(pocket_sd15), vae_path=str(pocket_sdxl))
    assert whole.vae_hash == other.vae_hash == load_model(str(pocket_sdxl)).vae_hash


def test_a_vae_that_has_not_the_variant_of_the_base(broken, pocket_sd15):
    # As on the hub: SDXL has fp16 files, the VAE that goes with it has plain ones only.
    for file in broken.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    model = load_model(str(broken), variant="fp16", vae_path=str(pocket_sd15 / "vae"))
    assert model.vae_hash == load_model(str(pocket_sd15)).vae_hash


def test_a_vae_of_another_kind(pocket_sd15, tmp_path):
    vae = AutoencoderKL(latent_channels=16, block_out_channels=(8,), norm_num_groups=8)
    vae.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="16 channels"):
        load_model(str(pocket_sd15), vae_path=str(tmp_path))


@pytest.mark.parametrize("form", ["original", "diffusers"])
def test_a_vae_from_a_single_file(form, pocket_sd15, tmp_path):
    if form == "original":
        file = write_checkpoint(tmp_path / "vae.safetensors", vae_shapes("sd15"))
    else:
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config("src/models/configs/sd15/vae"))
        vae.half().save_pretrained(tmp_path)
        file = tmp_path / "diffusion_pytorch_model.safetensors"
    model = load_model(str(pocket_sd15), vae_path=str(file))
    assert model.vae_scale_factor == 8
    assert model.vae.config.scaling_factor == 0.18215
    mean, std = model.encode_images(torch.zeros(1, 3, 16, 16))
    assert mean.shape == std.shape == (1, 4, 2, 2)
    expected = load_file(file)["decoder.conv_in.weight"].float()
    assert torch.equal(model.vae.decoder.conv_in.weight, expected)


def test_no_vae_in_the_file(pocket_sd15, tmp_path):
    file = write_checkpoint(tmp_path / "x.safetensors", {"something": (3,)})
    with pytest.raises(UserError, match="no VAE for sd15"):
        load_model(str(pocket_sd15), vae_path=str(file))


@pytest.mark.parametrize("text", ["a photo of an astronaut, 4k", "Фото кота.", "it's  ünïcode 🦊 你好", ""])
def test_clips_full_vocabulary(text, tmp_path):
    first, second = write_clip_tokenizers(tmp_path, count=2)
    source = SimpleTokenizer()
    expected = [source.sot_token_id, *source.encode(text), source.eot_token_id]
    assert first(text).input_ids == second(text).input_ids == expected
    # As the published ones: the second pads with "!", and takes one in a prompt for padding.
    assert (first("!").input_ids[1], second("!").input_ids[1]) == (256, 0)
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)
    assert first.model_max_length == 77


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_single_files_of_full_shape_load_offline(architecture, tmp_path):
    marks = {"v_pred": (0,), "ztsnr": (0,)} if architecture == "sd15" else {}
    file = write_checkpoint(tmp_path / "model.safetensors", checkpoint_shapes(architecture) | marks)
    start = time.monotonic()
    model = load_model(str(file), torch_dtype=torch.float16)
    assert time.monotonic() - start < 60
    assert model.architecture == architecture
    assert model.prediction_type == ("v_prediction" if marks else "epsilon")
    assert model.noise_scheduler.config.rescale_betas_zero_snr == bool(marks)
    assert model.native_resolution == (512 if architecture == "sd15" else 1024)
    assert model.tokenize(["a photo"])[0, 0, :4].tolist() == [49406, 320, 1125, 49407]
    if architecture == "sdxl":
        assert model.tokenize(["a photo"])[1, 0, 4] == 0
    stored = load_file(file)
    unet, vae = model.unet, model.vae
    name = "model.diffusion_model.input_blocks.8.1.transformer_blocks.0.attn1.to_q.weight"
    attention = unet.down_blocks[2].attentions[1].transformer_blocks[0].attn1
    assert torch.equal(attention.to_q.weight, stored[name])
    stored_mid = stored["first_stage_model.encoder.mid.attn_1.q.weight"][..., 0, 0].float()
    assert torch.equal(vae.encoder.mid_block.attentions[0].to_q.weight, stored_mid)
    if architecture == "sdxl":
        encoder = model.text_encoders["text_encoder_2"]
        projection = stored["conditioner.embedders.1.model.text_projection"]
        assert torch.equal(encoder.text_projection.weight, projection.T)
