"""The methods whose losses are kept in golden.json: `python -m tests.training.golden` writes them anew.

A method is an entry of `METHODS`: its name, and what differs from the plain run. Two runs are there to start from:
`tiny_losses` with the settings of `Tiny` (milliseconds) and `pocket_losses` with those of `AdapterSettings`, on a
real UNet with random weights (seconds). Each gives the losses of a few steps and the last gradient norm.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler

from src.diffusion.timesteps import TimestepSampling
from src.models.adapters import AdapterSettings
from tests.training.pocket_run import make_run
from tests.training.test_resume import Losses
from tests.training.tiny import Tiny, make_class_images, make_images

FILE = Path(__file__).with_name("golden.json")
# Other processors and libraries give other last digits.
TOLERANCE = 1e-4
Method = Callable[[Path], list[float]]
_STEPS = 3
ZERO_SNR = DDPMScheduler(
    num_train_timesteps=100,
    beta_start=0.0085,
    beta_end=0.12,
    beta_schedule="scaled_linear",
    rescale_betas_zero_snr=True,
).alphas_cumprod


def tiny_losses(folder: Path, *, num_class_images: int = 0, **settings: Any) -> list[float]:
    """Of a tiny model, without what `settings` do not ask for.

    Args:
        folder: an empty one.
        num_class_images: for prior preservation.
        settings: of `Tiny`.
    """
    losses = Losses()
    class_records = make_class_images(folder / "class", num_class_images) if num_class_images else []
    plain = {"caption_dropout": 0.0, "dropout": 0.0, "max_steps": _STEPS, "log_every": 1}
    run = Tiny(
        folder=folder / "run",
        records=make_images(folder / "images", 8),
        class_records=class_records,
        callbacks=[losses],
        **(plain | settings),
    )
    run.trainer().fit()
    return _numbers(losses)


def pocket_losses(folder: Path, architecture: str = "sd15", **settings: Any) -> list[float]:
    """Of a miniature SD1.5 or SDXL with random weights, its UNet trained.

    Args:
        folder: an empty one.
        architecture: "sd15" or "sdxl".
        settings: of `AdapterSettings`.
    """
    from src.pocket.make_models import make_pocket

    make_pocket(folder / "model", architecture=architecture)
    losses = Losses()
    run = make_run(
        folder / "model",
        folder,
        settings=AdapterSettings(**({"rank": 2, "alpha": 2.0} | settings)),
        records=make_images(folder / "images", 4),
        callbacks=[losses],
        max_steps=_STEPS,
    )
    run.trainer.fit()
    return _numbers(losses)


def _numbers(losses: Losses) -> list[float]:
    last = max(losses.logged)
    return [losses.logged[step]["loss/train"] for step in sorted(losses.logged)] + [
        losses.logged[last]["grad_norm/total"]
    ]


def _objective(**changes: Any) -> Method:
    return functools.partial(tiny_losses, objective=changes)


_V = {"prediction_type": "v_prediction"}
_OF_MODELS: dict[str, Method] = {
    "LoRA on SD1.5": pocket_losses,
    "LoRA on SDXL": functools.partial(pocket_losses, architecture="sdxl"),
    "rsLoRA on SD1.5": functools.partial(pocket_losses, rslora=True),
    "ranks of single layers on SD1.5": functools.partial(
        pocket_losses, rank_pattern={"mid_block.*": 4}, alpha_pattern={"to_v": 1.0}
    ),
    "full UNet on SD1.5": functools.partial(pocket_losses, unet="full"),
    "full text encoder on SD1.5": functools.partial(pocket_losses, unet="frozen", text_encoder="full"),
}
METHODS: dict[str, Method] = {
    "epsilon, min-SNR": tiny_losses,
    "epsilon, no weights": _objective(min_snr_gamma=None),
    "epsilon, debiased": _objective(min_snr_gamma=None, is_debiased=True),
    "v, min-SNR": _objective(**_V),
    "v, no weights": _objective(**_V, min_snr_gamma=None),
    "v, debiased": _objective(**_V, min_snr_gamma=None, is_debiased=True),
    "v, zero terminal SNR, no weights": _objective(**_V, alphas_cumprod=ZERO_SNR, min_snr_gamma=None),
    # A base model's own schedule: to train to one, min-SNR and debiased weights are refused.
    "v, zero terminal SNR, min-SNR": _objective(**_V, alphas_cumprod=ZERO_SNR),
    "v, zero terminal SNR, debiased": _objective(
        **_V, alphas_cumprod=ZERO_SNR, min_snr_gamma=None, is_debiased=True
    ),
    "noise offset": _objective(noise_offset=0.1),
    "noise offset, v": _objective(**_V, noise_offset=0.1),
    "logit-normal timesteps": _objective(
        timesteps=TimestepSampling(distribution="logit_normal", mean=-0.5, std=0.7)
    ),
    "a range of timesteps": _objective(timesteps=TimestepSampling(first=40, end=60)),
    "masks": functools.partial(tiny_losses, masks=True, objective={"unmasked_weight": 0.1}),
    "masks alone": functools.partial(tiny_losses, masks=True, objective={"unmasked_weight": 0.0}),
    "caption dropout": functools.partial(tiny_losses, caption_dropout=0.5),
    "caption dropout, trained text": functools.partial(tiny_losses, caption_dropout=0.5, text=False),
    "trained text": functools.partial(tiny_losses, text=False),
    "prior preservation": functools.partial(tiny_losses, num_class_images=3, prior_loss_weight=0.7),
    "buckets": functools.partial(tiny_losses, buckets=True),
    **_OF_MODELS,
}


# What takes seconds is left to the slow tests.
SLOW = set(_OF_MODELS)


def measure(name: str) -> list[float]:
    """Runs a method in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return METHODS[name](Path(folder))


def write() -> None:
    """Measures all methods; what is the same within a hundredth of the tolerance keeps its digits."""
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    found = {}
    for name in METHODS:
        seen = measure(name)
        is_same = before.get(name) == pytest.approx(seen, rel=TOLERANCE / 100)
        found[name] = before[name] if is_same else [float(f"{number:.9g}") for number in seen]
        print(f"{'kept   ' if is_same else 'written'} {name}")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in found.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
