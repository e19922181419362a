"""A model's noise schedule, and the samplers that generation can choose from, made of its configuration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, final, get_args

import diffusers
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from src.errors import UserError
from src.models.schedule import other_schedule

PredictionType = Literal["epsilon", "v_prediction"]

_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    # DPM-Solver++ (2M), arXiv 2211.01095, algorithm 2.
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    # Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn.
    "euler": (EulerDiscreteScheduler, {}),
    # arXiv 2010.02502.
    "ddim": (DDIMScheduler, {}),
    # arXiv 2302.04867.
    "unipc": (UniPCMultistepScheduler, {}),
}
# Everything about the diffusion itself; what is left out belongs to the solver that the model came with.
_KEPT = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
    "clip_sample",
)
# What training to another schedule changes.
_SCHEDULE_KEYS = {"prediction_type", "rescale_betas_zero_snr", "timestep_spacing"}


@final
class Schedule:
    """A model's noise schedule and what it predicts: its own, or what it is trained to.

    Args:
        own: the model's scheduler_config.json.

    Attributes:
        config: the same, or with what is in its place.
        training: the schedule of training (DDPM) made of it.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = dict(own)
        self._set(self._own)

    def _set(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.training = training_scheduler(self.config)

    @property
    def is_own(self) -> bool:
        """Whether it is the one that the model came with."""
        return self.config == self._own

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether no signal is left at the last timestep."""
        return bool(self.training.config.rescale_betas_zero_snr)

    def use(self, *, prediction_type: str, zero_terminal_snr: bool) -> None:
        """Trains and samples with another than the model's own; see `other_schedule`.

        Raises:
            UserError: no such schedule can be trained.
        """
        asked = other_schedule(
            self._own, prediction_type=prediction_type, zero_terminal_snr=zero_terminal_snr
        )
        self._set(asked)

    @contextmanager
    def own(self) -> Iterator[None]:
        """The model's own inside: for its pictures before it learned another one."""
        trained = self.config
        self._set(self._own)
        try:
            yield
        finally:
            self._set(trained)


def saved_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration for a pipeline's folder, of a class that knows all of the schedule.

    Plain diffusers drops what the named class does not know: PNDM of SD1.5 would sample a zero terminal SNR
    with the old betas. Then it is DDIM, which knows it.

    Args:
        config: the model's scheduler configuration.
    """
    named = getattr(diffusers, str(config.get("_class_name")), None)
    if named is None or _SCHEDULE_KEYS & config.keys() <= named._get_init_keys(named):
        return dict(config)
    known = {"_diffusers_version", *DDIMScheduler._get_init_keys(DDIMScheduler)}
    # Latents have no bounds to clip to, which DDIM would do by default.
    kept = {"clip_sample": False, **{key: value for key, value in config.items() if key in known}}
    return {"_class_name": DDIMScheduler.__name__, **kept}


def training_scheduler(config: Mapping[str, Any]) -> DDPMScheduler:
    """The schedule of training (DDPM) from a model's scheduler configuration.

    Raises:
        UserError: the model predicts something else than noise or v.
    """
    scheduler = DDPMScheduler.from_config(dict(config))
    asked = scheduler.config.prediction_type
    if asked not in get_args(PredictionType):
        raise UserError(
            f"The model's scheduler asks for prediction_type={asked}, known are "
            f"{', '.join(get_args(PredictionType))}. Use a model of one of these kinds."
        )
    return scheduler


def require_scheduler(key: str, name: str) -> None:
    """Refuses an unknown sampler.

    Raises:
        UserError: naming the known ones.
    """
    if name not in _SCHEDULERS:
        raise UserError(f"{key}={name} is not one of: {', '.join(_SCHEDULERS)}.")


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its short name.

    Args:
        name: dpmpp_2m, euler, ddim or unipc.
        config: the model's scheduler_config.json.

    Raises:
        UserError: unknown name.
    """
    require_scheduler("scheduler", name)
    scheduler_class, settings = _SCHEDULERS[name]
    accepted = scheduler_class._get_init_keys(scheduler_class)
    # Clipping is for pixels in [-1, 1]; latents have no such bounds, and DDIM would clip by default.
    known = {"clip_sample": False, **config}
    kept = {key: known[key] for key in _KEPT if key in known and key in accepted}
    return scheduler_class(**kept, **settings)
