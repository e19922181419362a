"""A logger that keeps what it is given, and a run to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.callbacks.base import RunView
from src.loggers.protocol import Logger, Number, Point
from src.training.state import TrainResult, TrainState, ValidationResult


class Recorder(Logger):
    def __init__(self) -> None:
        self.scalars: list[tuple[int, dict[str, Number]]] = []
        self.curves: list[tuple[str, str, list[Point], int]] = []

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        self.scalars.append((step, dict(scalars)))

    def log_curve(
        self, title: str, series: str, points: Sequence[Point], step: int, *, x_label: str, y_label: str
    ) -> None:
        assert (x_label, y_label) == ("timestep", "loss")
        self.curves.append((title, series, list(points), step))


def make_run(logger: Logger, output_dir: Path, *, step: int = 0, **changes: Any) -> RunView:
    settings: dict[str, Any] = {
        "state": TrainState(step=step),
        "start_step": 0,
        "max_steps": 10,
        "num_epochs": 1.0,
        "seed": 0,
        "output_dir": output_dir,
        "model": None,
        "logger": logger,
    }
    return RunView(**{**settings, **changes})


SCALARS = {
    "loss/train": 0.5,
    "grad_norm/total": 1.0,
    "grad_norm/unet_lora": 1.0,
    "lr/unet_lora": 1e-4,
    "throughput/images_per_second": 12.34,
    "throughput/seconds_per_step": 2.0,
}
VALIDATION = ValidationResult(
    step=4,
    loss=0.25,
    curve={500: 0.125, 1: 0.5},
    train_loss=0.2,
    train_curve={1: 0.4, 500: 0.1},
    num_images=3,
    seconds=1.0,
)
RESULT = TrainResult(
    step=10, stop_reason="max_steps", best=None, best_checkpoint=None, checkpoint=None, losses={}
)
