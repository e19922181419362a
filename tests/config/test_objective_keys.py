"""Pairs of keys of what is learned that make no sense are refused, with a remedy."""

import pytest

from src.config.dataset_schema import DatasetConfig
from src.config.schema import ModelConfig, TrainConfig
from src.config.trainer_schema import TrainerConfig
from src.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weighting": "minsnr"}, "trainer.loss_weighting=minsnr.*Did you mean min_snr"),
        ({"min_snr_gamma": 0.0}, "trainer.min_snr_gamma=0.0 must be a positive number"),
        ({"loss_weighting": "debiased", "min_snr_gamma": 3.0}, "min_snr_gamma=3.0 is not used.*debiased"),
        ({"loss_weighting": "none", "min_snr_gamma": 3.0}, "min_snr_gamma=3.0 is not used.*none"),
        ({"noise_offset": -0.1}, "trainer.noise_offset=-0.1 must lie between 0.0 and 1.0"),
        ({"prediction_type": "v"}, "trainer.prediction_type=v"),
        ({"prediction_type": "epsilon", "zero_terminal_snr": True}, "needs trainer.prediction_type=v_predic"),
        ({"zero_terminal_snr": True}, "loss_weighting=min_snr gives it weight 0.*loss_weighting=none"),
        ({"zero_terminal_snr": True, "loss_weighting": "debiased"}, "debiased gives it weight 0.*=none"),
        ({"timestep_sampling": "normal"}, "trainer.timestep_sampling=normal"),
        ({"logit_normal_mean": 0.5}, "not used with trainer.timestep_sampling=uniform"),
        ({"logit_normal_std": 0.5}, "not used with trainer.timestep_sampling=uniform"),
        (
            {"timestep_sampling": "logit_normal", "logit_normal_std": 0.0},
            "logit_normal_std=0.0 must be a pos",
        ),
        ({"timestep_sampling": "logit_normal", "logit_normal_mean": float("nan")}, "must be a number"),
        ({"min_timestep": -1}, "trainer.min_timestep=-1 must lie between 0 and 999"),
        ({"max_timestep": 1001}, "trainer.max_timestep=1001 must lie between 1 and 1000"),
        ({"min_timestep": 500, "max_timestep": 500}, "leave no timestep"),
        ({"unmasked_weight": 1.5}, "trainer.unmasked_weight=1.5 must lie between"),
    ],
)
def test_trainer_keys(settings, message):
    with pytest.raises(UserError, match=message):
        TrainerConfig(max_steps=1, **settings)


def test_what_may_be_left_as_it_is():
    for weighting in ("debiased", "none"):
        assert TrainerConfig(max_steps=1, loss_weighting=weighting).min_snr_cap is None
        assert TrainerConfig(max_steps=1, loss_weighting=weighting, min_snr_gamma=None).min_snr_cap is None
    assert TrainerConfig(max_steps=1, min_snr_gamma=3.0).min_snr_cap == 3.0
    TrainerConfig(max_steps=1, min_timestep=999)
    for unweighted in ({"loss_weighting": "none"}, {"min_snr_gamma": None}):
        TrainerConfig(max_steps=1, zero_terminal_snr=True, **unweighted)


def _config(masks: str, unmasked_weight: float) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name="a", path="b"),
        dataset=DatasetConfig(name="a", path="b", masks=masks),
        trainer=TrainerConfig(max_steps=1, unmasked_weight=unmasked_weight),
    )


def test_masks_and_the_weight_of_the_rest_belong_together():
    with pytest.raises(UserError, match=r"dataset\.masks=file.*Did you mean files"):
        _config("file", 0.1)
    with pytest.raises(UserError, match=r"unmasked_weight=0\.5 is not used without masks"):
        _config("none", 0.5)
    with pytest.raises(UserError, match=r"changes nothing with trainer\.unmasked_weight=1"):
        _config("alpha", 1.0)
    assert _config("files", 0.0).trainer.unmasked_weight == 0
