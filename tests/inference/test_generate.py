"""Generation with the pocket models: what fixes an image, what does not, and what is left as it was."""

import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from src.errors import UserError
from src.inference.generate import generate, noise_seed, plan_images
from src.models.load import load_model
from src.randomness import generator
from tests.models.common import trained

SETTINGS = {"num_steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def model(pocket_sd15):
    return load_model(str(pocket_sd15))


def _pixels(images):
    return torch.stack([torch.tensor(list(image.image.getdata())) for image in images])


def test_plain_diffusers_gives_the_same_pixels(pocket):
    """The noise seed in a PNG is enough to make the image again without us."""
    images = generate(
        load_model(str(pocket)),
        prompts=["a dog", "a cup"],
        num_images=1,
        seed=3,
        negative_prompt="blurry",
        **SETTINGS,
    )
    pipeline = DiffusionPipeline.from_pretrained(pocket)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        ["a dog", "a cup"],
        negative_prompt=["blurry"] * 2,
        num_inference_steps=2,
        guidance_scale=5.0,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(image.params["noise_seed"]) for image in images],
    ).images
    assert [image.image.tobytes() for image in images] == [image.tobytes() for image in expected]


LONG = "a red toy on a table, two dogs and a blue cup, " * 10


def test_long_prompts_are_drawn_as_diffusers_draws_our_embeddings(pocket):
    model = load_model(str(pocket))
    model.use_chunks(1, max_chunks=3)
    image = generate(model, prompts=[LONG], negative_prompt="blurry", **SETTINGS)[0]
    assert image.params["prompt_chunks"] == 2
    pipeline = DiffusionPipeline.from_pretrained(pocket)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    hidden, pooled = model.encode_prompts([LONG], 2)
    negative_hidden, negative_pooled = model.encode_prompts(["blurry"], 2)
    extra = {}
    if pooled is not None:
        extra = {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    expected = pipeline(
        prompt_embeds=hidden,
        negative_prompt_embeds=negative_hidden,
        num_inference_steps=2,
        width=64,
        height=64,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(image.params["noise_seed"]),
        **extra,
    ).images[0]
    assert image.image.tobytes() == expected.tobytes()
    cut = generate(load_model(str(pocket)), prompts=[LONG], negative_prompt="blurry", **SETTINGS)[0]
    assert cut.image.tobytes() != image.image.tobytes()


def test_a_short_prompt_is_drawn_the_same_with_and_without_long_prompts(pocket):
    model = load_model(str(pocket))
    off = generate(model, prompts=["a dog"], negative_prompt="blurry", **SETTINGS)[0]
    model.use_chunks(1, max_chunks=3)
    # A batch of its own, whatever its neighbours: they would change its conditions.
    on, _ = generate(model, prompts=["a dog", LONG], negative_prompt="blurry", **SETTINGS)
    assert on.image.tobytes() == off.image.tobytes()
    longer, _ = generate(model, prompts=["a dog", "a cup"], negative_prompt=LONG, **SETTINGS)
    assert longer.params["prompt_chunks"] == 2, "as many as the negative prompt"


def test_an_empty_negative_prompt_is_none_at_all(pocket_sdxl):
    """SDXL's configuration asks for zeros there, which an encoded empty text is not."""
    image = generate(load_model(str(pocket_sdxl)), prompts=["a dog"], **SETTINGS)[0]
    pipeline = DiffusionPipeline.from_pretrained(pocket_sdxl)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    seed = torch.Generator("cpu").manual_seed(image.params["noise_seed"])
    expected = pipeline("a dog", num_inference_steps=2, width=64, height=64, generator=seed).images[0]
    assert image.image.tobytes() == expected.tobytes()


def test_neither_batch_size_nor_neighbours_matter(model):
    prompts = ["a dog", "a cup", "a house"]
    all_at_once = generate(model, prompts=prompts, num_images=2, batch_size=6, **SETTINGS)
    in_twos = generate(model, prompts=prompts, num_images=2, batch_size=4, **SETTINGS)
    alone = generate(model, prompts=["a cup"], num_images=1, batch_size=1, **SETTINGS)
    assert [image.params["noise_seed"] for image in in_twos] == [
        image.params["noise_seed"] for image in all_at_once
    ]
    # Sums are rounded in another order in another batch; one step of 255 is the most that may come of it.
    assert (_pixels(in_twos) - _pixels(all_at_once)).abs().max() <= 1
    assert (_pixels(alone)[0] - _pixels(all_at_once)[2]).abs().max() <= 1


def test_order_and_names(model):
    images = generate(model, prompts=["a dog", "a cup"], num_images=2, **SETTINGS)
    assert [(image.prompt, image.params["index"]) for image in images] == [
        ("a dog", 0),
        ("a dog", 1),
        ("a cup", 0),
        ("a cup", 1),
    ]
    assert len({image.image.tobytes() for image in images}) == 4
    assert images[0].params == {
        "prompt": "a dog",
        "index": 0,
        "noise_seed": noise_seed(0, "a dog", 0),
        "negative_prompt": "",
        "num_steps": 2,
        "guidance_scale": 5.0,
        "scheduler": "dpmpp_2m",
        "seed": 0,
        "width": 64,
        "height": 64,
        "prompt_chunks": 1,
    }


def test_the_same_call_gives_the_same_bytes(model):
    first = generate(model, prompts=["a dog"], seed=1, **SETTINGS)
    torch.randn(5)
    again = generate(model, prompts=["a dog"], seed=1, **SETTINGS)
    other = generate(model, prompts=["a dog"], seed=2, **SETTINGS)
    assert first[0].image.tobytes() == again[0].image.tobytes() != other[0].image.tobytes()


def test_global_randomness_is_not_used(model):
    before = torch.get_rng_state()
    generate(model, prompts=["a dog"], **SETTINGS)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [(64, 96), (72, 40)])
def test_width_and_height(model, size):
    width, height = size
    image = generate(model, prompts=["a dog"], num_steps=1, width=width, height=height)[0].image
    assert image.size == size


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "euler", "ddim", "unipc"])
def test_schedulers(model, scheduler):
    image = generate(model, prompts=["a dog"], scheduler=scheduler, **SETTINGS)[0]
    assert image.params["scheduler"] == scheduler


@pytest.mark.parametrize(
    ("width", "height", "named"), [(60, 64, "width=60"), (64, 1, "height=1"), (64, -8, "height=-8")]
)
def test_sizes_that_no_latent_has(model, width, height, named):
    with pytest.raises(UserError, match=f"{named} is not a positive multiple of 8"):
        generate(model, prompts=["a dog"], width=width, height=height)


def test_a_prompt_given_twice():
    with pytest.raises(UserError, match="twice"):
        plan_images(prompts=["a", "b", "a"], num_images=1, seed=0, width=64, height=64)


def test_modes_are_put_back_and_dropout_is_off(pocket_sd15):
    model, _ = trained(pocket_sd15, dropout=0.5)
    model.unet.train()
    modes = [module.training for module in model.denoiser.modules()]
    first = generate(model, prompts=["a dog"], **SETTINGS)
    assert [module.training for module in model.denoiser.modules()] == modes
    model.unet.eval()
    assert first[0].image.tobytes() == generate(model, prompts=["a dog"], **SETTINGS)[0].image.tobytes()


def test_modes_are_put_back_after_an_error(pocket_sd15):
    model, _ = trained(pocket_sd15)
    model.unet.train()
    with torch.no_grad():
        next(model.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="hold NaN"):
        generate(model, prompts=["a dog"], **SETTINGS)
    assert model.unet.training


@pytest.mark.parametrize("full", ["unet", "text_encoder"])
def test_parts_of_different_precision(pocket_sd15, full):
    """A part trained in full is fp32 beside frozen ones in bf16: plain diffusers fails there."""
    modes = {"unet": "frozen", "text_encoder": "frozen", "token_embedding": "frozen", full: "full"}
    model, _ = trained(pocket_sd15, **modes)
    exact = generate(model, prompts=["a dog"], **SETTINGS)
    model.to_device("cpu", torch.bfloat16)
    assert {model.unet.dtype, model.text_encoders["text_encoder"].dtype} == {torch.float32, torch.bfloat16}
    rounded = generate(model, prompts=["a dog"], **SETTINGS)
    assert (_pixels(exact) - _pixels(rounded)).abs().float().mean() < 10


def test_progress_is_told(model):
    told = []
    generate(model, prompts=["a", "b", "c"], batch_size=2, on_batch=lambda *n: told.append(n), **SETTINGS)
    assert told == [(2, 3), (3, 3)]


def test_noise_is_addressed():
    assert noise_seed(0, "a dog", 0) == noise_seed(0, "a dog", 0)
    seeds = {noise_seed(s, p, i) for s in (0, 1) for p in ("a dog", "a cup") for i in (0, 1)}
    assert len(seeds) == 8
    assert torch.randn(2, generator=generator(0, "sample", "a dog", 0)).equal(
        torch.randn(2, generator=torch.Generator().manual_seed(noise_seed(0, "a dog", 0)))
    )
