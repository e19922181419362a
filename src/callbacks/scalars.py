"""Sends the numbers of training to the loggers."""

from src.callbacks.base import Callback, RunView
from src.training.state import ValidationResult


class ScalarsCallback(Callback):
    """Losses, gradient norms, learning rates, throughput, and the loss at each timestep.

    docs/clearml.md explains every title and series.
    """

    def needs_guard(self, hook: str, step: int) -> bool:
        """Never: it only passes numbers on."""
        return False

    def on_log(self, run: RunView, scalars: dict[str, float]) -> None:
        """What the trainer measured since the last time."""
        run.logger.log_scalars(scalars, run.state.step)

    def on_memory(self, run: RunView, scalars: dict[str, float]) -> None:
        """What a phase took."""
        run.logger.log_scalars(scalars, run.state.step)

    def on_validation_end(self, run: RunView, result: ValidationResult) -> None:
        """The two losses side by side, and both by timestep."""
        losses = {"loss/validation": result.loss, "loss/train_probe": result.train_loss}
        run.logger.log_scalars(losses, result.step)
        for series, curve in (("validation", result.curve), ("train_probe", result.train_curve)):
            points = [(float(timestep), loss) for timestep, loss in sorted(curve.items())]
            run.logger.log_curve(
                "loss by timestep", series, points, result.step, x_label="timestep", y_label="loss"
            )
