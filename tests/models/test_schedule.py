"""Another prediction type or a zero terminal SNR: who may have it, and that samples and adapters know of it."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from src.config.dataset_schema import DatasetConfig
from src.config.schema import ModelConfig, TrainConfig
from src.config.trainer_schema import TrainerConfig
from src.errors import UserError
from src.files import read_json
from src.inference.generate import generate
from src.models.adapter_files import LORA_FILE
from src.models.apply import load_adapter
from src.models.export import save_adapter
from src.models.load import load_model
from src.models.locate import CONFIGS
from src.models.quiet import quiet_libraries
from src.models.safetensors_header import read_header
from src.models.schedule import check_schedule, other_schedule, schedule_of
from src.models.schedulers import saved_config
from src.run.build_data import training_size
from tests.models.common import trained
from tests.models.single_files import write_checkpoint

OWN = {"prediction_type": "epsilon", "timestep_spacing": "leading", "beta_start": 0.00085}
V = {"prediction_type": "v_prediction", "zero_terminal_snr": False}
V_ZERO = {"prediction_type": "v_prediction", "zero_terminal_snr": True}
AUTO = {"prediction_type": "auto", "zero_terminal_snr": False}


def test_nothing_asked_for_is_the_models_own():
    odd = {**OWN, "rescale_betas_zero_snr": True}
    assert other_schedule(OWN, **AUTO) == OWN
    assert other_schedule(odd, **AUTO) == odd
    assert other_schedule({"beta_start": 1}, prediction_type="epsilon", zero_terminal_snr=False) == {
        "beta_start": 1
    }


def test_what_is_asked_for_takes_its_place():
    assert other_schedule(OWN, **V) == {**OWN, "prediction_type": "v_prediction"}
    expected = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    assert other_schedule(OWN, **V_ZERO) == {**OWN, **expected}
    own_v = {**OWN, "prediction_type": "v_prediction"}
    assert other_schedule(own_v, prediction_type="auto", zero_terminal_snr=True) == {**OWN, **expected}


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        (OWN, {"prediction_type": "auto", "zero_terminal_snr": True}),
        (OWN, {"prediction_type": "epsilon", "zero_terminal_snr": True}),
        (
            {**OWN, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            {"prediction_type": "epsilon", "zero_terminal_snr": False},
        ),
    ],
)
def test_epsilon_where_no_signal_is_left_is_refused(own, asked):
    with pytest.raises(UserError, match=r"teaches nothing\. Set trainer\.prediction_type=v_prediction"):
        other_schedule(own, **asked)


def test_it_is_refused_before_the_model_is_loaded(pocket_sd15, tmp_path):
    folder = shutil.copytree(pocket_sd15, tmp_path / "model")
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"not looked at")
    with pytest.raises(UserError, match="teaches nothing"):
        check_schedule(str(folder), prediction_type="auto", zero_terminal_snr=True)
    check_schedule(str(folder), **V_ZERO)


def test_debiased_weights_that_would_be_infinite_are_refused(pocket_sd15, tmp_path):
    """A base model that ends in pure noise and predicts noise: odd, and there are some."""
    folder = shutil.copytree(pocket_sd15, tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(read_json(file) | {"rescale_betas_zero_snr": True}))

    def size(**trainer):
        return training_size(
            TrainConfig(
                model=ModelConfig(name="a", path=str(folder)),
                dataset=DatasetConfig(name="a", path="b"),
                trainer=TrainerConfig(max_steps=1, **trainer),
            )
        )

    with pytest.raises(UserError, match=r"debiased.*is infinite\. Set trainer\.loss_weighting=min_snr"):
        size(loss_weighting="debiased")
    assert size() == size(loss_weighting="debiased", prediction_type="v_prediction")


@pytest.mark.parametrize("marks", [(), ("v_pred",), ("v_pred", "ztsnr")])
def test_a_single_file_says_it_by_its_marks(marks, tmp_path):
    file = write_checkpoint(tmp_path / "model.safetensors", dict.fromkeys(marks, (0,)) or {"x": (1,)})
    found = schedule_of(file, "sd15")
    assert found["prediction_type"] == ("v_prediction" if marks else "epsilon")
    assert found.get("rescale_betas_zero_snr", False) == ("ztsnr" in marks)
    assert (found["timestep_spacing"] == "trailing") == ("ztsnr" in marks)


@pytest.fixture
def model(pocket):
    return load_model(str(pocket))


def test_training_and_sampling_have_the_same_schedule(model):
    assert model.schedule.is_own
    assert not model.schedule.has_zero_terminal_snr
    model.schedule.use(**V_ZERO)
    assert model.prediction_type == "v_prediction"
    assert model.alphas_cumprod[-1] == 0
    assert model.alphas_cumprod[0] == pytest.approx(1 - 0.00085, abs=1e-6)
    for name in ("dpmpp_2m", "euler", "ddim", "unipc"):
        scheduler = model.pipeline(name).scheduler
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.config.rescale_betas_zero_snr
        scheduler.set_timesteps(5)
        assert scheduler.timesteps[0] == 999, "the first step is from pure noise"
        image = generate(
            model, prompts=["a toy"], num_steps=2, width=64, height=64, scheduler=name, guidance_scale=3.0
        )
        assert image
    with model.schedule.own():
        assert model.prediction_type == "epsilon"
        assert model.pipeline("ddim").scheduler.config.timestep_spacing == "leading"
    assert model.alphas_cumprod[-1] == 0
    model.schedule.use(**AUTO)
    assert model.schedule.is_own


def test_the_adapter_brings_it_and_plain_diffusers_agrees(pocket_sd15, tmp_path):
    model, _ = trained(pocket_sd15, token_embedding="frozen")
    model.schedule.use(**V_ZERO)
    save_adapter(model, tmp_path / "adapter", metadata={})
    header = read_header(tmp_path / "adapter" / LORA_FILE).metadata
    assert header["darkroom.prediction_type"] == "v_prediction"
    assert header["darkroom.zero_terminal_snr"] == "true"
    again = load_model(str(pocket_sd15))
    load_adapter(again, tmp_path / "adapter")
    assert again.scheduler_config == model.scheduler_config

    with quiet_libraries():
        pipeline = DiffusionPipeline.from_pretrained(pocket_sd15)
        pipeline.load_lora_weights(tmp_path / "adapter")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
    pictures = [
        each("a toy", generator=torch.manual_seed(0), **settings).images
        for each in (pipeline, again.pipeline("ddim"))
    ]
    torch.testing.assert_close(*map(torch.from_numpy, pictures), rtol=0, atol=1e-4)


def test_strength_zero_is_the_base_model_with_its_own(pocket_sd15, tmp_path):
    model, _ = trained(pocket_sd15)
    model.schedule.use(**V)
    save_adapter(model, tmp_path, metadata={})
    base = load_model(str(pocket_sd15))
    load_adapter(base, tmp_path, scale=0.0)
    assert base.schedule.is_own


def test_without_a_change_the_header_says_nothing(pocket_sd15, tmp_path):
    model, _ = trained(pocket_sd15)
    save_adapter(model, tmp_path, metadata={})
    metadata = read_header(tmp_path / LORA_FILE).metadata
    assert not [name for name in metadata if "prediction" in name or "snr" in name]


def test_a_saved_scheduler_is_of_a_class_that_knows_the_schedule(pocket_sd15, tmp_path):
    """SD1.5 comes with PNDM, which knows no zero terminal SNR: plain diffusers would drop it."""
    own = read_json(CONFIGS / "sd15" / "scheduler" / "scheduler_config.json")
    assert own["_class_name"] == "PNDMScheduler"
    assert saved_config(own) == own
    assert saved_config(other_schedule(own, **V)) == {**own, "prediction_type": "v_prediction"}
    folder = shutil.copytree(pocket_sd15, tmp_path / "base")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(own))
    model, _ = trained(folder, unet="full", text_encoder="frozen", token_embedding="frozen")
    model.schedule.use(**V_ZERO)
    save_adapter(model, tmp_path, metadata={})
    with quiet_libraries():
        scheduler = DiffusionPipeline.from_pretrained(tmp_path / "model").scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0, abs=1e-12)
    assert scheduler.config.prediction_type == "v_prediction"
    assert not scheduler.config.clip_sample
    scheduler.set_timesteps(5)
    assert scheduler.timesteps[0] == 999


def test_a_whole_model_is_saved_with_it(pocket_sd15, tmp_path):
    changes = {"unet": "full", "text_encoder": "frozen", "token_embedding": "frozen"}
    model, _ = trained(pocket_sd15, **changes)
    model.schedule.use(**V_ZERO)
    save_adapter(model, tmp_path, metadata={})
    config = json.loads((tmp_path / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert (config["prediction_type"], config["timestep_spacing"]) == ("v_prediction", "trailing")
    assert load_model(str(tmp_path / "model")).alphas_cumprod[-1] == 0
    base = load_model(str(pocket_sd15))
    load_adapter(base, tmp_path)
    assert base.prediction_type == "v_prediction"
