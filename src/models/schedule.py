"""A model's own noise schedule and what it predicts, and another one to train it to. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from src.errors import UserError
from src.files import read_json
from src.models.detect import Architecture
from src.models.locate import CONFIGS, look_at
from src.models.safetensors_header import read_header


def schedule_of(place: Path, architecture: Architecture) -> dict[str, Any]:
    """The scheduler's configuration of a model on this machine.

    Args:
        place: its diffusers folder or single file.
        architecture: of the model; a single file brings no configuration.
    """
    if place.is_dir():
        config: dict[str, Any] = read_json(place / "scheduler" / "scheduler_config.json")
        return config
    config = read_json(CONFIGS / architecture / "scheduler" / "scheduler_config.json")
    # Empty tensors by which v-prediction checkpoints say what they are (also read by ComfyUI).
    shapes = read_header(place).shapes
    kind = "v_prediction" if "v_pred" in shapes else None
    return _changed(config, prediction_type=kind, zero_terminal_snr="ztsnr" in shapes)


def check_schedule(
    path: str,
    *,
    architecture: Literal["auto", "sd15", "sdxl"] = "auto",
    revision: str | None = None,
    variant: str | None = None,
    prediction_type: str,
    zero_terminal_snr: bool,
    loss_weighting: str = "none",
) -> None:
    """Whether a model can be trained to a schedule (see `other_schedule`), without loading it.

    Args:
        path: see `load_model`.
        architecture: see `load_model`.
        revision: see `load_model`.
        variant: see `load_model`.
        prediction_type: see `other_schedule`.
        zero_terminal_snr: see `other_schedule`.
        loss_weighting: of timesteps; debiased weights of noise prediction have no bound where the SNR is 0.

    Raises:
        UserError: it cannot, or there is no such model.
    """
    place, found = look_at(path, architecture=architecture, revision=revision, variant=variant)
    own = schedule_of(place, found)
    asked = other_schedule(own, prediction_type=prediction_type, zero_terminal_snr=zero_terminal_snr)
    is_epsilon = asked.get("prediction_type", "epsilon") == "epsilon"
    if loss_weighting == "debiased" and is_epsilon and asked.get("rescale_betas_zero_snr", False):
        raise UserError(
            f"The schedule of the model {path} ends in pure noise and it predicts noise: there "
            "trainer.loss_weighting=debiased, 1 / sqrt(SNR), is infinite. Set trainer.loss_weighting=min_snr "
            "or none."
        )


def other_schedule(
    own: Mapping[str, Any], *, prediction_type: str, zero_terminal_snr: bool
) -> dict[str, Any]:
    """A model's schedule with what is asked for in place of its own.

    Args:
        own: the model's scheduler configuration.
        prediction_type: "epsilon", "v_prediction", or "auto" for its own.
        zero_terminal_snr: rescale the betas so that no signal is left at the last timestep (Lin et al. 2023,
            arXiv 2305.08891, algorithm 1), and sample from that timestep on (section 3.3). Without, it stays
            what it is.

    Raises:
        UserError: epsilon with a terminal SNR of zero.
    """
    kind = own.get("prediction_type", "epsilon") if prediction_type == "auto" else prediction_type
    is_zero = zero_terminal_snr or own.get("rescale_betas_zero_snr", False)
    if is_zero and kind == "epsilon" and (zero_terminal_snr or prediction_type != "auto"):
        raise UserError(
            "At the end of the schedule no signal would be left (trainer.zero_terminal_snr, or the model's "
            "own), where the model is given the noise itself, and to predict that (epsilon) teaches nothing. "
            "Set trainer.prediction_type=v_prediction."
        )
    return _changed(own, prediction_type=kind, zero_terminal_snr=zero_terminal_snr)


def _changed(
    config: Mapping[str, Any], *, prediction_type: str | None, zero_terminal_snr: bool
) -> dict[str, Any]:
    changed = dict(config)
    if prediction_type is not None and prediction_type != config.get("prediction_type", "epsilon"):
        changed["prediction_type"] = prediction_type
    if zero_terminal_snr:
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return changed
