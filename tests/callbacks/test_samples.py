"""Sample images while training: beside the base model's, scored, and without a trace in what is trained."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.callbacks.base import RunView
from src.callbacks.samples import SampleImages
from src.errors import UserError
from src.inference.generate import generate
from src.inference.grids import read_params, save_png
from src.loggers.events import read_events
from src.loggers.jsonl import JsonlLogger
from src.models.adapters import attach
from src.models.load import load_model
from src.pocket.make_models import smooth_images
from src.training.observers import Observers
from src.training.state import TrainResult, TrainState
from tests.models.common import settings_for, trained

PROMPTS = ["a photo of sksToy", "a dog"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    pixels = ((smooth_images(4, 80, 5).permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def _load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture
def make(photos, dino, clip):
    def build(**changes):
        settings = {
            "every": 2,
            "num_steps": 1,
            "prompts": PROMPTS,
            "negative_prompt": "blurry",
            "resolution": (64, 64),
            "held_out": photos,
            "held_out_captions": ["a toy"] * 4,
            "load_image": _load,
            "dino": dino,
            "clip": clip,
        }
        return SampleImages(**{**settings, **changes})

    return build


@pytest.fixture
def view(pocket_sd15, tmp_path):
    """A run that has just begun: LoRA and a new token, nothing learned."""
    model = load_model(str(pocket_sd15))
    attach(model, settings_for("sd15"), seed=1)
    logger = JsonlLogger(run_dir=tmp_path)
    logger.start()
    return RunView(
        state=TrainState(),
        start_step=0,
        max_steps=4,
        num_epochs=1.0,
        seed=0,
        output_dir=tmp_path,
        model=model,
        logger=logger,
    )


def _at(view: RunView, step: int, **changes) -> RunView:
    return replace(view, state=TrainState(step=step), **changes)


@torch.no_grad()
def _learn(model) -> None:
    for parameter in model.denoiser.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def _result(view: RunView) -> TrainResult:
    return TrainResult(
        step=view.state.step,
        stop_reason="max_steps",
        best=None,
        best_checkpoint=None,
        checkpoint=view.output_dir,
        losses={},
    )


def _files(view: RunView) -> set[str]:
    return {str(path.relative_to(view.output_dir)) for path in view.output_dir.rglob("*.png")}


def test_the_guard_is_asked_for_where_samples_are_due(make):
    callback = make(every=3)
    assert [step for step in range(1, 10) if callback.needs_guard("on_step_end", step)] == [3, 6, 9]
    assert callback.needs_guard("on_fit_start", 0)
    assert callback.needs_guard("on_fit_end", 10)


def test_a_run_from_start_to_end(make, view, pocket_sd15):
    callback = make()
    callback.on_fit_start(view)
    assert _files(view) == {"images/base/a_photo_of_skstoy.png", "images/base/a_dog.png"}
    _learn(view.model)
    for step in (1, 2, 3):
        callback.on_step_end(_at(view, step))
    callback.on_fit_end(_at(view, 3), _result(_at(view, 3)))
    assert _files(view) == {
        "images/base/a_photo_of_skstoy.png",
        "images/base/a_dog.png",
        *(
            f"images/step_{step:08d}{end}"
            for step in (2, 3)
            for end in (".png", "/a_photo_of_skstoy.png", "/a_dog.png")
        ),
    }
    base = generate(
        load_model(str(pocket_sd15)),
        prompts=PROMPTS,
        num_steps=1,
        width=64,
        height=64,
        negative_prompt="blurry",
    )
    for image, name in zip(base, ("a_photo_of_skstoy", "a_dog"), strict=True):
        kept = _load(view.output_dir / "images" / "base" / f"{name}.png")
        assert kept.tobytes() == image.image.tobytes(), "base means without adapter and without the new token"
        sampled = view.output_dir / "images" / "step_00000002" / f"{name}.png"
        assert _load(sampled).tobytes() != kept.tobytes()
        assert read_params(sampled)["noise_seed"] == image.params["noise_seed"]
        assert read_params(sampled)["step"] == 2


def test_what_loggers_see(make, view):
    callback = make()
    callback.on_fit_start(view)
    callback.on_step_end(_at(view, 2))
    events = list(read_events(view.output_dir))
    images = [
        (e.arguments["title"], e.arguments["series"], e.arguments["step"])
        for e in events
        if e.kind == "image"
    ]
    assert images == [
        ("base", "a_photo_of_skstoy", 0),
        ("base", "a_dog", 0),
        ("samples", "a_photo_of_skstoy", 2),
        ("samples", "a_dog", 2),
        ("samples", "grid", 2),
    ]
    (scalars,) = [event.arguments for event in events if event.kind == "scalars"]
    assert scalars["step"] == 2
    for title in ("dino[pocket-random]", "clip_t[pocket-random]"):
        for series in ("samples", "samples_low", "samples_high", "base", "held_out"):
            assert f"{title}/{series}" in scalars["scalars"]


def test_the_last_step_is_not_sampled_twice(make, view):
    callback = make()
    callback.on_fit_start(view)
    callback.on_step_end(_at(view, 2))
    before = (view.output_dir / "images" / "step_00000002.png").stat().st_mtime_ns
    callback.on_fit_end(_at(view, 2), _result(_at(view, 2)))
    assert (view.output_dir / "images" / "step_00000002.png").stat().st_mtime_ns == before


def test_nobody_waits_for_images_after_a_signal(make, view):
    callback = make()
    callback.on_fit_start(view)
    callback.on_fit_end(_at(view, 3), replace(_result(_at(view, 3)), received_signal=signal.SIGTERM))
    assert not (view.output_dir / "images" / "step_00000003.png").exists()
    callback.on_fit_end(_at(view, 3), _result(_at(view, 3)))
    assert (view.output_dir / "images" / "step_00000003.png").exists()


def test_judges_work_where_the_model_is_and_wait_on_the_cpu(make, view, dino, monkeypatch):
    moves = []
    monkeypatch.setattr(dino, "to", moves.append)
    callback = make()
    callback.on_fit_start(view)
    callback.on_step_end(_at(view, 2))
    assert moves == [view.model.device, "cpu"] * 2
    monkeypatch.setattr(dino, "images", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        callback.on_step_end(_at(view, 4))
    assert moves == [view.model.device, "cpu"] * 3, "a failure leaves no judge in the GPU's memory"


def test_nothing_of_the_training_is_touched(make, view):
    model = view.model
    model.denoiser.train()
    state = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in model.denoiser.parameters()]
    modes = [module.training for module in model.denoiser.modules()]
    tokenizers = list(model.tokenizers)
    random = torch.get_rng_state()
    observers = Observers([make()], module=model.denoiser, seed=0)
    for hook, step in (("on_fit_start", 0), ("on_step_end", 2)):
        assert observers.call(hook, _at(view, step)) is None
    assert observers.failures == []
    assert torch.equal(torch.get_rng_state(), random)
    assert [parameter.requires_grad for parameter in model.denoiser.parameters()] == trainable
    assert [module.training for module in model.denoiser.modules()] == modes
    assert model.tokenizers == tokenizers
    for name, tensor in model.denoiser.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


def test_a_resumed_run_keeps_its_base_images(make, view):
    make().on_fit_start(view)
    folder = view.output_dir / "images" / "base"
    _learn(view.model)
    marked = Image.new("RGB", (64, 64), "red")
    save_png(marked, folder / "a_dog.png", read_params(folder / "a_dog.png"))
    resumed = make()
    resumed.on_fit_start(_at(view, 2, start_step=2))
    assert resumed._base[1].image.tobytes() == marked.tobytes(), "read back, not drawn again"
    changed = make(num_steps=2)
    changed.on_fit_start(_at(view, 2, start_step=2))
    assert changed._base[1].image.tobytes() != marked.tobytes(), "drawn in another way, so drawn again"


def test_a_run_resumed_elsewhere_draws_the_base_model_again(make, view):
    first = make()
    first.on_fit_start(view)
    _learn(view.model)
    shutil.rmtree(view.output_dir / "images")
    resumed = make()
    resumed.on_fit_start(_at(view, 2, start_step=2))
    assert [i.image.tobytes() for i in resumed._base] == [i.image.tobytes() for i in first._base]


def test_the_base_model_is_drawn_with_its_own_schedule(make, view):
    """What learns another prediction type is drawn by that, the model that it came from is not."""
    first = make(dino=None, clip=None)
    first.on_fit_start(view)
    expected = [image.image.tobytes() for image in first._base]
    view.model.schedule.use(prediction_type="v_prediction", zero_terminal_snr=True)
    again = make(dino=None, clip=None)
    again.on_fit_start(view)
    assert [image.image.tobytes() for image in again._base] == expected
    assert view.model.prediction_type == "v_prediction"


def test_a_base_that_was_trained_in_full_is_not_passed_off_as_base(make, view, pocket_sd15, caplog):
    changes = {"unet": "full", "text_encoder": "frozen", "token_embedding": "frozen"}
    model, _ = trained(pocket_sd15, **changes)
    callback = make()
    callback.on_fit_start(_at(view, 2, start_step=2, model=model))
    assert "weights have been trained since" in caplog.text
    assert callback._base == []
    callback.on_step_end(_at(view, 4, start_step=2, model=model))
    (scalars,) = [e.arguments["scalars"] for e in read_events(view.output_dir) if e.kind == "scalars"]
    assert "dino[pocket-random]/samples" in scalars
    assert "dino[pocket-random]/base" not in scalars


def test_a_failed_start_does_not_end_the_samples(make, view):
    def broken(path):
        raise OSError("the disk is gone")

    callback = make(load_image=broken)
    observers = Observers([callback], module=view.model.denoiser, seed=0)
    observers.call("on_fit_start", view)
    observers.call("on_step_end", _at(view, 2))
    assert [line.split(" at ")[0] for line in observers.failures] == ["callback SampleImages.on_fit_start"]
    assert (view.output_dir / "images" / "step_00000002.png").exists()


def test_without_judges_and_photos(make, view):
    callback = make(dino=None, clip=None, held_out=[], held_out_captions=[])
    callback.on_fit_start(view)
    callback.on_step_end(_at(view, 2))
    assert [event.kind for event in read_events(view.output_dir)] == ["image"] * 5


def test_sizes(make, view):
    callback = make(width=96, num_images=2, resolution=(64, 72))
    callback.on_fit_start(view)
    assert {(i.image.size) for i in callback._base} == {(96, 72)}
    assert len(callback._base) == 4


def test_many_photos_are_thinned_the_same_way_each_time(make, photos):
    many = [photos[0].with_name(f"photo_{index}.png") for index in range(200)]
    callback = make(held_out=many, held_out_captions=[str(index) for index in range(200)])
    again = make(held_out=many, held_out_captions=[str(index) for index in range(200)])
    assert len(callback._held_out) == 64
    assert callback._held_out == again._held_out
    assert callback._captions == [path.stem.removeprefix("photo_") for path in callback._held_out]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "callbacks.samples.every=0"),
        ({"num_images": 0}, "callbacks.samples.num_images=0"),
        ({"width": 60}, "width=60 is not a positive multiple of 8"),
        ({"scheduler": "foo"}, "callbacks.samples.scheduler=foo is not one of: dpmpp_2m"),
        ({"prompts": []}, "dataset.prompts"),
        ({"prompts": ["a", "a"]}, "dataset.prompts"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(make, changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
