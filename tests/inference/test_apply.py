"""A checkpoint and its export are the same model, live or merged, at any strength."""

import shutil

import pytest
import torch

from src.errors import UserError
from src.inference.apply import apply_adapter
from src.inference.generate import generate
from src.inference.resolve import resolve_weights
from src.models.load import load_model
from tests.inference.runs import write_checkpoint, write_config, write_export
from tests.models.common import settings_for, trained

SETTINGS = {"prompts": ["a photo of sksToy"], "num_steps": 1, "width": 64, "height": 64}


def _image(model) -> bytes:
    return generate(model, **SETTINGS)[0].image.tobytes()


def _make_runs(pocket, outputs, runs):
    for name, changes in runs.items():
        model, _ = trained(pocket, **changes)
        run = outputs / "train" / name
        write_config(run, settings_for(pocket.name, **changes))
        write_checkpoint(run, model, step=3, best_step=3)
        write_export(run, model)
        (run / "live.rgb").write_bytes(_image(model))
    return outputs


@pytest.fixture(scope="module")
def outputs(pocket_sd15, tmp_path_factory):
    """Runs that trained LoRA with a token, LoRA alone, and whole components."""
    full = {"unet": "full", "text_encoder": "full", "token_embedding": "frozen"}
    runs = {"pivotal": {}, "lora": {"token_embedding": "frozen"}, "full": full}
    return _make_runs(pocket_sd15, tmp_path_factory.mktemp("outputs"), runs)


def _applied(pocket, path, **options):
    model = load_model(str(pocket))
    apply_adapter(model, resolve_weights(str(path), output_dir=path), **options)
    return model


@pytest.mark.parametrize("name", ["pivotal", "lora", "full"])
def test_checkpoint_export_and_live_model_agree_to_the_pixel(pocket_sd15, outputs, name):
    _check_agreement(pocket_sd15, outputs / "train" / name)


def test_they_agree_for_two_encoders(pocket_sdxl, tmp_path):
    _check_agreement(pocket_sdxl, _make_runs(pocket_sdxl, tmp_path, {"pivotal": {}}) / "train" / "pivotal")


def test_they_agree_on_another_schedule(pocket_sd15, tmp_path):
    schedule = {"prediction_type": "v_prediction", "zero_terminal_snr": True}
    model, _ = trained(pocket_sd15)
    model.schedule.use(**schedule)
    run = tmp_path / "train" / "v"
    write_config(run, settings_for("sd15"), trainer=schedule)
    write_checkpoint(run, model, step=3, best_step=3)
    write_export(run, model)
    (run / "live.rgb").write_bytes(_image(model))
    _check_agreement(pocket_sd15, run)
    for place in ("checkpoints/step_00000003", "adapter"):
        assert _applied(pocket_sd15, run / place, scale=0.0).schedule.is_own


def _check_agreement(pocket, run):
    live = (run / "live.rgb").read_bytes()
    assert _image(_applied(pocket, run / "checkpoints" / "step_00000003")) == live
    assert _image(_applied(pocket, run / "adapter")) == live


@pytest.mark.parametrize("place", ["checkpoints/step_00000003", "adapter"])
@pytest.mark.parametrize("name", ["pivotal", "full"])
def test_strength_zero_is_the_base_model(pocket_sd15, outputs, name, place):
    base = _image(load_model(str(pocket_sd15)))
    model = _applied(pocket_sd15, outputs / "train" / name / place, scale=0.0, with_token_embedding=False)
    assert _image(model) == base != (outputs / "train" / name / "live.rgb").read_bytes()


@pytest.mark.parametrize("name", ["pivotal", "full"])
def test_half_strength_is_the_same_from_both(pocket_sd15, outputs, name):
    run = outputs / "train" / name
    halves = [
        torch.frombuffer(
            bytearray(_image(_applied(pocket_sd15, run / place, scale=0.5))), dtype=torch.uint8
        ).int()
        for place in ("checkpoints/step_00000003", "adapter")
    ]
    assert (halves[0] - halves[1]).abs().max() <= 1
    live = torch.frombuffer(bytearray((run / "live.rgb").read_bytes()), dtype=torch.uint8).int()
    assert (halves[0] - live).abs().max() > 1


@pytest.mark.parametrize("place", ["checkpoints/step_00000003", "adapter"])
def test_merged_is_the_same_up_to_rounding(pocket_sd15, outputs, place):
    path = outputs / "train" / "pivotal" / place
    model = _applied(pocket_sd15, path, merge=True)
    assert not any(".lora_" in name for name, _ in model.denoiser.named_parameters())
    merged = torch.frombuffer(bytearray(_image(model)), dtype=torch.uint8).int()
    live = torch.frombuffer(bytearray(_image(_applied(pocket_sd15, path))), dtype=torch.uint8).int()
    assert (merged - live).abs().max() <= 2


@pytest.mark.parametrize("name", ["pivotal", "full"])
def test_one_precision_afterwards(pocket_sd15, outputs, name):
    model = load_model(str(pocket_sd15), torch_dtype=torch.bfloat16)
    source = resolve_weights(str(outputs / "train" / name / "checkpoints"), output_dir=outputs)
    apply_adapter(model, source, merge=True)
    dtypes = {p.dtype for n, p in model.denoiser.named_parameters() if not n.endswith("token_embedding.row")}
    assert dtypes == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())
    _image(model)


def test_a_full_encoder_of_two_in_half_precision(pocket_sdxl, tmp_path):
    # No prediction uses the first encoder's last layer and final norm, but they are computed.
    changes = {
        "unet": "frozen",
        "text_encoder": "full",
        "text_encoder_2": "frozen",
        "token_embedding": "frozen",
    }
    run = _make_runs(pocket_sdxl, tmp_path, {"full": changes}) / "train" / "full"
    images = []
    for place in ("checkpoints/step_00000003", "adapter"):
        model = load_model(str(pocket_sdxl), torch_dtype=torch.bfloat16)
        apply_adapter(model, resolve_weights(str(run / place), output_dir=tmp_path))
        assert {parameter.dtype for parameter in model.denoiser.parameters()} == {torch.bfloat16}
        images.append(_image(model))
    assert images[0] == images[1]


def test_another_base_model_is_refused(pocket_sdxl, outputs):
    for place, message in (("checkpoints/step_00000003", "does not fit"), ("adapter", "trained for sd15")):
        with pytest.raises(UserError, match=message):
            _applied(pocket_sdxl, outputs / "train" / "lora" / place)


def test_a_checkpoint_without_its_run(pocket_sd15, outputs, tmp_path):
    moved = shutil.copytree(outputs / "train" / "lora" / "checkpoints", tmp_path / "somewhere")
    with pytest.raises(UserError, match="not inside its run folder"):
        _applied(pocket_sd15, moved / "step_00000003")
