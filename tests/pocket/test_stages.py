"""The stages that train the pocket: each learns something in a few steps, and goes on where it was stopped."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from transformers import CLIPTokenizer

from src.pocket.tokenizer import MODEL_MAX_LENGTH, write_tokenizer
from src.pocket.training import stage as stages
from src.pocket.training.batches import blurred, to_pixels
from src.pocket.training.clip import by_place, multi_positive_loss, train_clip
from src.pocket.training.denoiser import EncodedWorld, TextToNoise, encoded, make_model, train_denoiser
from src.pocket.training.dino import WithHead, crops, crossed, sinkhorn, train_dino
from src.pocket.training.stage import Stage
from src.pocket.training.vae import train_decoder, train_vae
from src.pocket.world import world_set
from src.pocket.world.sampling import draw, sample_scene
from src.pocket.world.surroundings import SURROUNDINGS
from src.pocket.world.world_set import WorldSet, open_set, render_set

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "mini.npy"
    render_set(path, num=24, size=32, seed=0)
    return open_set(path, seed=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def stage(folder, **changes):
    plan = {"name": "a stage", "steps": 4, "batch_size": 4, "lr": 1e-3, "warmup_steps": 1}
    return Stage(**{**plan, "folder": folder, **changes})


def losses(folder):
    return [line["loss"] for line in json.loads((folder / "report.json").read_text())["history"]]


def test_a_set_holds_the_scenes_in_order_and_is_rendered_once(world, tmp_path) -> None:
    path = tmp_path / "set.npy"
    render_set(path, num=3, size=32, seed=0)
    scene = sample_scene(0, 2)
    made = open_set(path, seed=0)
    assert np.array_equal(made.pixels[2], draw(scene, size=32))
    assert made.captions[2] == scene.caption
    before = path.stat().st_mtime_ns
    render_set(path, num=3, size=32, seed=0)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="Render it again"):
        open_set(path, seed=1)
    with pytest.raises(ValueError, match="not rendered"):
        open_set(tmp_path / "other.npy", seed=0)
    assert to_pixels(world, torch.tensor([0, 5])).aminmax().max <= 1


def test_pictures_of_an_older_world_are_drawn_again(tmp_path, monkeypatch) -> None:
    path = tmp_path / "set.npy"
    render_set(path, num=3, size=32, seed=0)
    before = np.load(path)
    monkeypatch.setattr(world_set, "draw", lambda scene, *, size: 255 - draw(scene, size=size))
    monkeypatch.setattr(world_set, "ProcessPoolExecutor", ThreadPoolExecutor)
    with pytest.raises(ValueError, match="other code"):
        open_set(path, seed=0)
    render_set(path, num=3, size=32, seed=0)
    assert np.array_equal(open_set(path, seed=0).pixels, 255 - before)


def test_a_set_is_not_whole_while_it_is_written_anew(tmp_path, monkeypatch) -> None:
    path = tmp_path / "set.npy"
    render_set(path, num=3, size=32, seed=0)

    def full(*_arguments, **_options):
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(OSError, match="no space"):
        render_set(path, num=4, size=32, seed=0)
    with pytest.raises(ValueError, match="not to its end"):
        open_set(path, seed=0)


@pytest.mark.slow
def test_the_vae_learns_and_a_stopped_stage_goes_on_exactly(world, tmp_path) -> None:
    whole = train_vae(stage(tmp_path / "whole"), world, device=CPU)
    part = stage(tmp_path / "part")

    class Stopped(Exception):
        pass

    class StopAt(type(world)):
        calls = 0

        def __len__(self):
            type(self).calls += 1
            if type(self).calls > 2:
                raise Stopped
            return super().__len__()

    stopping = StopAt(pixels=world.pixels, captions=world.captions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.pocket.training.stage._SECONDS_BETWEEN_CHECKPOINTS", -1.0)
        with pytest.raises(Stopped):
            train_vae(part, stopping, device=CPU)
    (part.folder / "report.json").unlink()
    resumed = train_vae(part, world, device=CPU)
    assert losses(part.folder)[-1] == losses(tmp_path / "whole")[-1]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert whole.config.scaling_factor == resumed.config.scaling_factor
    longer = stage(tmp_path / "longer", steps=80, batch_size=8, warmup_steps=5)
    train_vae(longer, world, device=CPU)
    assert losses(longer.folder)[-1] < 0.8 * losses(tmp_path / "whole")[-1]


def test_the_vae_starts_with_hardly_any_noise_in_its_latents(world, tmp_path) -> None:
    """Where noise is as strong as the signal at the start, channels die early and stay unused."""
    vae = train_vae(stage(tmp_path, steps=1, lr=1e-6), world, device=CPU)
    posterior = vae.encode(to_pixels(world, torch.arange(8))).latent_dist
    assert posterior.std.mean() < 0.3 * posterior.mean.std()


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"steps": 5}, {"builds_on": "other pictures"}])
def test_a_stage_does_not_go_on_with_another_plan(world, tmp_path, change) -> None:
    train_vae(stage(tmp_path, steps=1), world, device=CPU)
    train_vae(stage(tmp_path, steps=1), world, device=CPU)
    with pytest.raises(ValueError, match="another plan"):
        train_vae(stage(tmp_path, **{"steps": 1, **change}), world, device=CPU)


def test_the_decoder_is_trained_on_and_the_latents_stay(world, vae, tmp_path) -> None:
    before = copy.deepcopy(vae)
    folder = tmp_path / "decoder"
    trained = train_decoder(stage(folder, steps=6), copy.deepcopy(vae), world, world, device=CPU)
    images = to_pixels(world, torch.arange(4))
    latents = before.encode(images).latent_dist.mean
    assert torch.equal(trained.encode(images).latent_dist.mean, latents)
    off_before, off_after = (
        (each.decode(latents).sample - images).abs().mean() for each in (before, trained)
    )
    assert off_after < off_before


@pytest.fixture(scope="module")
def vae(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    return AutoencoderKL.from_config(train_vae(stage(folder, steps=1), world, device=CPU).config).eval()


@pytest.fixture(scope="module")
def latents(vae, world, tmp_path_factory):
    path = tmp_path_factory.mktemp("latents") / "world.pt"
    return encoded(path, vae, world, builds_on="this world", device=CPU)


def train_on(latents, tokenizer, folder, *, model=None, also=None, **plan):
    return train_denoiser(
        stage(folder, ema_decay=None, **plan),
        model or make_model(tokenizer, latent_channels=8, latent_size=8, seed=0),
        latents,
        also=also,
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        device=CPU,
    )


def test_the_world_is_encoded_once_for_what_it_builds_on(vae, world, tmp_path) -> None:
    path = tmp_path / "latents.pt"
    made = encoded(path, vae, world, builds_on="a", device=CPU)
    assert made.means.shape == made.stds.shape == (24, 8, 8, 8)
    assert made.captions == world.captions
    marked = torch.load(path)
    torch.save({**marked, "means": marked["means"] + 1}, path)
    assert torch.equal(encoded(path, vae, world, builds_on="a", device=CPU).means, made.means + 1)
    assert torch.equal(encoded(path, vae, world, builds_on="b", device=CPU).means, made.means)


def test_the_denoiser_trains_with_its_text_encoder(latents, tokenizer, tmp_path) -> None:
    trained = train_on(latents, tokenizer, tmp_path, steps=2)
    assert not trained.training
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained.text_encoder.parameters()]
    assert sum(reached) > len(reached) / 2


def test_half_of_the_pictures_can_come_from_another_set(latents, tokenizer, tmp_path) -> None:
    blind = EncodedWorld(
        means=latents.means.float() * float("nan"), stds=latents.stds, scale=1.0, captions=latents.captions
    )
    first = train_on(latents, tokenizer, tmp_path / "first", steps=1)
    assert all(p.isfinite().all() for p in first.parameters())
    mixed = train_on(latents, tokenizer, tmp_path / "mixed", steps=1, also=blind, batch_size=16)
    assert not all(p.isfinite().all() for p in mixed.parameters()), "it saw the other set"


def test_a_trained_pair_is_saved_and_trained_on(latents, tokenizer, tmp_path) -> None:
    first = train_on(latents, tokenizer, tmp_path / "first", steps=1)
    first.save(tmp_path / "first")
    again = TextToNoise.load(tmp_path / "first")
    noisy, token_ids = torch.randn(1, 8, 8, 8), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected, found = (each.eval()(noisy, torch.tensor([10]), token_ids) for each in (first, again))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_clip_counts_every_picture_of_a_caption_as_right(world, tokenizer, tmp_path) -> None:
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()

    def push(is_right):
        """How hard the first picture is driven away from the second's words."""
        free = logits.clone().requires_grad_()
        multi_positive_loss(free, is_right).backward()
        return free.grad[0, 1].item()

    assert push(torch.eye(3).bool()) > 0.1
    assert abs(push(same)) < 1e-3

    def ids(texts):
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    plan = stage(tmp_path / "clip", steps=100, batch_size=12, ema_decay=None)
    model = train_clip(
        plan,
        world,
        tokenizer=ids,
        vocab_size=len(tokenizer),
        context_length=MODEL_MAX_LENGTH,
        device=CPU,
    )
    images = model.encode_image(to_pixels(world, torch.arange(24)), normalize=True)
    nearest = (images @ model.encode_text(ids(world.captions), normalize=True).T).argmax(dim=1)
    assert (nearest == torch.arange(24)).sum() >= 6, "chance is 1"
    assert model.encode_image(to_pixels(world, torch.arange(2))).shape == (2, 128)


def test_captions_of_one_place_are_found_by_either_of_its_phrases() -> None:
    beach = next(place for place in SURROUNDINGS if place.name == "beach")
    snow = next(place for place in SURROUNDINGS if place.name == "snow")
    captions = [
        f"a photo of a red car {beach.phrase}, close up",
        "a pictogram of a red car",
        f"a photo of a blue duck {snow.phrase}",
        f"a photo of a toy {beach.short_phrase}",
    ]
    assert [group.tolist() for group in by_place(captions)] == [[0, 3], [1], [2]]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "mini.npy"
    render_set(path, num=20, size=32, seed=0, kind="elsewhere")
    return open_set(path, seed=0, kind="elsewhere")


def test_some_pictures_are_softened(world) -> None:
    pixels = to_pixels(world, torch.arange(24))
    soft = blurred(pixels, torch.Generator().manual_seed(0), share=0.5)
    changed = (soft != pixels).flatten(1).any(dim=1)
    assert 4 < changed.sum() < 20
    edges = [each.diff(dim=-1).abs().mean(dim=(1, 2, 3)) for each in (soft, pixels)]
    assert (edges[0][changed] < edges[1][changed]).all()
    assert torch.allclose(soft.mean(dim=(1, 2, 3)), pixels.mean(dim=(1, 2, 3)), atol=0.02)


def test_crops_lie_within_the_picture() -> None:
    """A picture whose red grows to the right: a crop's values say where it was cut, and that some are mirrored."""
    ramp = torch.linspace(-1, 1, 32).expand(40, 3, 32, 32)
    cut = crops(ramp, 16, (0.1, 0.4), torch.Generator().manual_seed(0))
    assert cut.shape == (40, 3, 16, 16)
    assert cut.abs().max() <= 1
    slopes = cut[:, 0, 8].diff(dim=-1).mean(dim=-1)
    assert (slopes > 0).any()
    assert (slopes < 0).any(), "mirrored"
    assert slopes.abs().max() < 2 / 16 * 0.95, "a part of the picture, not all of it"
    again = crops(ramp, 16, (0.1, 0.4), torch.Generator().manual_seed(0))
    assert torch.equal(cut, again)


def test_every_prototype_gets_its_fair_share() -> None:
    """A teacher that says nearly the same of every picture is made to tell them apart."""
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 0.05
    logits[:, 3] += 0.5
    answers = sinkhorn(logits, 0.02, num_iterations=20)
    assert torch.allclose(answers.sum(dim=1), torch.ones(64), atol=1e-5)
    assert torch.allclose(answers.mean(dim=0), torch.full((8,), 1 / 8), atol=0.01)
    plain = (logits / 0.02).softmax(dim=1)
    assert plain.mean(dim=0)[3] > 0.9
    assert answers.max(dim=1).values.mean() > 0.5


@pytest.mark.parametrize("kind", ["decoder", "denoiser", "toys", "clip", "dino"])
def test_every_stage_goes_on_exactly(
    kind, world, elsewhere, vae, latents, tokenizer, tmp_path, monkeypatch
) -> None:
    def ids(texts):
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    clip = {"tokenizer": ids, "vocab_size": len(tokenizer), "context_length": MODEL_MAX_LENGTH, "device": CPU}

    def train(name):
        plan = stage(tmp_path / name, steps=3, ema_decay=None)
        if kind == "decoder":
            return train_decoder(plan, copy.deepcopy(vae), world, world, device=CPU)
        if kind == "clip":
            return train_clip(plan, world, **clip)
        if kind == "dino":
            return train_dino(plan, world, elsewhere, device=CPU)
        return train_on(latents, tokenizer, plan.folder, also=latents if kind == "toys" else None, steps=3)

    whole = train("whole").state_dict()
    monkeypatch.setattr(stages, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    save, saved = stages._save, []

    def save_and_stop(*arguments, **options):
        save(*arguments, **options)
        saved.append(options["step"])
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train("part")
    resumed = train("part").state_dict()
    assert saved == [1, 2, 3]
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        assert torch.equal(weights, resumed[name]), name


def test_dino_keeps_its_teacher_when_it_goes_on(world, elsewhere, tmp_path) -> None:
    plan = stage(tmp_path / "whole", steps=2, ema_decay=None)
    whole = train_dino(plan, world, elsewhere, device=CPU)
    again = train_dino(plan, world, elsewhere, device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    plan = stage(tmp_path / "other", steps=2, ema_decay=None, seed=1)
    other = train_dino(plan, world, elsewhere, device=CPU)
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    assert whole(to_pixels(world, torch.arange(3))).shape == (3, 128)


def test_dinos_student_is_never_asked_about_the_teachers_own_picture(tmp_path, monkeypatch) -> None:
    """Every crop of the one picture is black and of the other white: told apart wherever they come together."""
    pairs = crossed(6)
    assert len(pairs) == len(set(pairs)) == 6
    assert {j for _, j in pairs} == set(range(6))
    dark, bright = (
        WorldSet(pixels=np.full((8, 32, 32, 3), value, np.uint8), captions=["x"] * 8) for value in (0, 255)
    )
    seen = []
    forward = WithHead.forward

    def spy(self, images):
        seen.append([bool(part.mean() > 0) for part in images.split(4)])
        return forward(self, images)

    monkeypatch.setattr(WithHead, "forward", spy)
    train_dino(stage(tmp_path, steps=1), dark, bright, device=CPU)
    teacher, *student = seen
    crops_of = [source for part in student for source in part]
    assert len(teacher) == 2
    for i, j in crossed(len(crops_of)):
        assert teacher[i] != crops_of[j]


def test_the_learning_rate_rises_once_and_falls_in_every_cycle(tmp_path) -> None:
    single = stage(tmp_path, steps=100, warmup_steps=10)
    cycles = stage(tmp_path, steps=700, warmup_steps=10, cycle_steps=100)
    assert [cycles.lr_factor(step) for step in range(100)] == [single.lr_factor(step) for step in range(100)]
    assert single.lr_factor(0) == pytest.approx(0.1)
    for start, length in ((10, 90), (100, 200), (300, 400)):
        assert cycles.lr_factor(start) == 1
        assert cycles.lr_factor(start + length // 2) == pytest.approx(0.5)
        assert cycles.lr_factor(start + length - 1) < 0.01
