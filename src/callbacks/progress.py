"""How far a run is, for the person at the terminal."""

import logging
import os
import sys
import time
from datetime import timedelta

from tqdm import tqdm

from src.callbacks.base import Callback, RunView
from src.errors import UserError
from src.logs import FILE_ONLY
from src.training.state import TrainResult, ValidationResult

log = logging.getLogger(__name__)


class ProgressCallback(Callback):
    """A bar with loss, images/s and time left, and log lines now and then.

    The lines are for the log file, and for the console where stderr is no terminal.

    Args:
        seconds_between_lines: at least so long between two lines.

    Raises:
        UserError: the number is negative.
    """

    def __init__(self, *, seconds_between_lines: float | int = 15) -> None:
        if seconds_between_lines < 0:
            raise UserError(
                f"callbacks.progress.seconds_between_lines={seconds_between_lines} must be 0 or more."
            )
        self._seconds = seconds_between_lines
        self._bar: tqdm | None = None
        self._last_line = float("-inf")
        self._shown: dict[str, str] = {}

    def needs_guard(self, hook: str, step: int) -> bool:
        """Never: it only writes to the terminal."""
        return False

    def on_fit_start(self, run: RunView) -> None:
        """Opens the bar."""
        self._last_line = float("-inf")
        self._shown = {}
        if sys.stderr.isatty() and _has_width():
            self._bar = tqdm(
                total=run.max_steps, initial=run.state.step, desc="training", unit="step", dynamic_ncols=True
            )

    def on_step_end(self, run: RunView) -> None:
        """Moves the bar; no number of the device is looked at here."""
        if self._bar is not None:
            self._bar.update(run.state.step - self._bar.n)

    def on_log(self, run: RunView, scalars: dict[str, float]) -> None:
        """Shows the newest numbers."""
        self._shown["loss"] = f"{scalars['loss/train']:.4f}"
        speed = scalars["throughput/images_per_second"]
        self._shown["images/s"] = f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
        is_last = run.state.step >= run.max_steps
        if is_last or time.monotonic() - self._last_line >= self._seconds:
            left = (run.max_steps - run.state.step) * scalars["throughput/seconds_per_step"]
            numbers = "  ".join(f"{name} {value}" for name, value in self._shown.items())
            values = (run.state.step, run.max_steps, numbers, _time(left))
            log.info("step %d/%d  %s  left %s", *values, extra={FILE_ONLY: self._bar is not None})
            self._last_line = time.monotonic()

    def on_validation_end(self, run: RunView, result: ValidationResult) -> None:
        """Shows the validation loss on a line of its own, and on the bar from now on."""
        if self._bar is not None:
            self._shown["validation"] = f"{result.loss:.4f}"
            self._bar.set_postfix(self._shown)
        log.info(
            "step %d/%d  validation loss %.4f  (%.4f on as many training images)",
            run.state.step,
            run.max_steps,
            result.loss,
            result.train_loss,
        )

    def on_fit_end(self, run: RunView, result: TrainResult) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, run: RunView, error: BaseException) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _has_width() -> bool:
    """False for a terminal of 0 columns, as some programs open one: a bar would show nothing there."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return True


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
