"""The model's arithmetic against diffusers' own pipelines, to the last bit."""

import collections
import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.errors import UserError
from src.models.load import load_model
from src.models.schedulers import make_scheduler
from tests.models.common import pixels, plain_pipeline, sizes

_PROMPTS = ["a photo of a red toy", "two dogs, " * 60]


@pytest.fixture
def model(pocket):
    return load_model(str(pocket))


def test_text_equals_diffusers(model, pocket):
    pipeline = plain_pipeline(pocket)
    hidden, pooled = model.encode_prompts(_PROMPTS)
    expected = pipeline.encode_prompt(
        _PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(hidden, expected[0])
    if pocket.name == "sdxl":
        assert torch.equal(pooled, expected[2])
    else:
        assert pooled is None


def test_prediction_equals_diffusers(model, pocket):
    unet = plain_pipeline(pocket).unet
    noisy, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([5, 900])
    hidden, pooled = model.encode_prompts(_PROMPTS)
    conditions = None
    if pocket.name == "sdxl":
        time_ids = torch.tensor([[80.0, 70, 3, 5, 64, 64]] * 2)
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
    with torch.no_grad():
        expected = unet(noisy, timesteps, hidden, added_cond_kwargs=conditions).sample
        assert torch.equal(
            model.denoiser(noisy, timesteps, hidden=hidden, pooled=pooled, **sizes(2)), expected
        )
        token_ids = model.tokenize(_PROMPTS)
        assert torch.equal(model.denoiser(noisy, timesteps, token_ids=token_ids, **sizes(2)), expected)


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_pixels_equal_diffusers(model, pocket, size):
    assert (pixels(model.pipeline()) == pixels(plain_pipeline(pocket))).all()


def test_empty_prompts_are_zero_where_the_model_was_trained_so(pocket_sdxl, pocket_sd15):
    model = load_model(str(pocket_sdxl))
    hidden, pooled = model.encode_prompts(["", "a toy", ""])
    assert not hidden[[0, 2]].any()
    assert not pooled[[0, 2]].any()
    assert torch.equal(hidden[1:2], model.encode_prompts(["a toy"])[0])
    assert load_model(str(pocket_sd15)).encode_prompts([""])[0].any()


def test_images_are_encoded_to_scaled_posteriors(model, pocket):
    vae = plain_pipeline(pocket).vae
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    mean, std = model.encode_images(images)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    assert torch.equal(mean, posterior.mean * vae.config.scaling_factor)
    assert torch.equal(std, posterior.std * vae.config.scaling_factor)
    assert mean.shape == (
        2,
        model.latent_channels,
        64 // model.vae_scale_factor,
        48 // model.vae_scale_factor,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode_images(images)[0], mean)


def test_numbers_of_the_model(model):
    assert model.native_resolution == 64
    assert model.prediction_type == "epsilon"
    assert model.alphas_cumprod.shape == (1000,)
    assert model.alphas_cumprod[0] == pytest.approx(1 - 0.00085)
    assert model.chunk_size == 75
    assert model.count_tokens("a photo of a toy") == 5
    assert model.count_tokens(_PROMPTS[1]) > 75


def test_the_vae_follows_to_fp16_only_where_safe(model):
    model.vae.register_to_config(force_upcast=True)
    model.to_device("cpu", torch.float16)
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    model.vae.register_to_config(force_upcast=False)
    model.to_device("cpu", torch.bfloat16)
    assert (model.unet.dtype, model.vae.dtype) == (torch.bfloat16, torch.float32)
    assert model.pipeline().vae.dtype == torch.bfloat16, "diffusers decodes in the UNet's precision"
    assert model.pipeline().vae is model.pipeline().vae
    model.to_device("cpu", torch.float16)
    assert model.vae.dtype == torch.float16
    assert model.pipeline().vae is model.vae


def test_bf16_generates(model):
    model.to_device("cpu", torch.bfloat16)
    images = pixels(model.pipeline())
    assert images.shape == (1, 64, 64, 3)
    assert images.std() > 0.01


def test_gradient_checkpointing_changes_no_gradient(model):
    gradients = []
    for _ in range(2):
        model.denoiser.train().requires_grad_(True)
        noisy, timesteps = torch.ones(1, 4, 16, 16), torch.tensor([500])
        model.denoiser(noisy, timesteps, token_ids=model.tokenize(["a toy"]), **sizes(1)).sum().backward()
        gradients.append({n: p.grad for n, p in model.denoiser.named_parameters() if p.grad is not None})
        model.denoiser.zero_grad()
        model.enable_gradient_checkpointing()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("name", ["dpmpp_2m", "euler", "ddim", "unipc"])
def test_schedulers_come_from_the_models_configuration(name, model):
    scheduler = model.pipeline(name).scheduler
    assert scheduler.config.beta_start == 0.00085
    assert scheduler.config.timestep_spacing == "leading"
    assert pixels(model.pipeline(name)).std() > 0.01
    made = make_scheduler(name, {**model.scheduler_config, "prediction_type": "v_prediction"})
    assert made.config.prediction_type == "v_prediction"
    assert not made.config.get("clip_sample", False)


def test_an_unknown_scheduler(model):
    with pytest.raises(UserError, match=r"scheduler=heun is not one of: dpmpp_2m"):
        model.pipeline("heun")


class _Moves(TorchDispatchMode):
    """Counts the numbers of each precision that go to the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: collections.Counter[torch.dtype] = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.is_meta and args and not args[0].is_meta:
            self.moved[made.dtype] += made.numel() if made.is_floating_point() else 0
        return made


def test_frozen_weights_are_cast_before_they_move(model):
    # The device never holds the whole model in the files' precision.
    small, exact = (
        sum(tensor.numel() for tensor in part.parameters()) for part in (model.denoiser, model.vae)
    )
    with _Moves() as moves:
        model.to_device("meta", torch.bfloat16)
    assert +moves.moved == {torch.bfloat16: small, torch.float32: exact}


def test_loading_in_a_precision_is_casting_to_it(pocket):
    loaded, cast = load_model(str(pocket), torch_dtype=torch.bfloat16), load_model(str(pocket))
    cast.to_device("cpu", torch.bfloat16)
    loaded.to_device("cpu", torch.bfloat16)
    for ours, theirs in ((loaded.denoiser, cast.denoiser), (loaded.vae, cast.vae)):
        expected = theirs.state_dict()
        for name, tensor in ours.state_dict().items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name]), name


def test_hashes_name_the_contents(pocket, pocket_sd15, tmp_path):
    import shutil

    copied = load_model(str(shutil.copytree(pocket, tmp_path / "elsewhere")))
    model = load_model(str(pocket))
    assert (copied.base_hash, copied.vae_hash, copied.text_hash) == (
        model.base_hash,
        model.vae_hash,
        model.text_hash,
    )
    assert len({model.base_hash, model.vae_hash, model.text_hash}) == 3
    changed = tmp_path / "elsewhere" / "vae" / "config.json"
    changed.write_text(changed.read_text() + "\n")
    other = load_model(str(tmp_path / "elsewhere"))
    assert other.vae_hash != model.vae_hash
    assert other.base_hash != model.base_hash
    assert other.text_hash == model.text_hash


def test_the_tokenizers_hash_sees_added_tokens(model):
    before = model.tokenizer_hash
    model.tokenizers = copy.deepcopy(model.tokenizers)
    assert model.tokenizer_hash == before
    model.tokenizers[0].add_tokens("sksToy")
    assert model.tokenizer_hash != before
