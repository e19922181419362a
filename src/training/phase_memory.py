"""Memory and disk space after each phase of a run: load, cache, train, validate, save."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_log = logging.getLogger(__name__)
_GIB = 2**30


def read_memory(folder: Path, device: torch.device) -> dict[str, float]:
    """What is in use now, in GiB. Nothing in here waits for the device: torch counts on the host.

    Args:
        folder: on the disk whose free space counts.
        device: the run's.

    Returns:
        `process` (resident memory of this process), `system` (in use on the whole machine), `system_total`,
        `disk_free`; on a GPU also `gpu_allocated` (by tensors), `gpu_reserved` (by torch) and `gpu_peak` (the
        most by tensors since the peak was last reset).
    """
    system = psutil.virtual_memory()
    values = {
        "process": psutil.Process().memory_info().rss / _GIB,
        "system": (system.total - system.available) / _GIB,
        "system_total": system.total / _GIB,
        "disk_free": psutil.disk_usage(str(folder)).free / _GIB,
    }
    if device.type == "cuda":
        values |= {
            "gpu_allocated": torch.cuda.memory_allocated(device) / _GIB,
            "gpu_reserved": torch.cuda.memory_reserved(device) / _GIB,
            "gpu_peak": torch.cuda.max_memory_allocated(device) / _GIB,
        }
    return values


def describe_memory(values: dict[str, float]) -> str:
    """The same for the eye."""
    parts = [
        f"process {values['process']:.2f} GiB",
        f"system {values['system']:.1f} of {values['system_total']:.1f} GiB",
    ]
    if "gpu_peak" in values:
        parts.append(
            f"GPU {values['gpu_allocated']:.2f} allocated, {values['gpu_peak']:.2f} at the peak, "
            f"{values['gpu_reserved']:.2f} GiB reserved"
        )
    return ", ".join([*parts, f"{values['disk_free']:.2f} GiB free on the disk"])


class PhaseMemory:
    """Measures memory at the end of phases: a log line the first time of each, scalars each time.

    The scalars have the titles `memory_<phase>` and wait to be taken. What cannot be measured is passed over:
    a run does not depend on it.

    Args:
        folder: on the disk whose free space counts. It must exist.
        device: the run's.
        is_main: other processes measure nothing.
    """

    def __init__(self, folder: Path, device: torch.device, *, is_main: bool = True) -> None:
        self._folder = folder
        self._device = device
        self._is_main = is_main
        self._waiting: list[dict[str, float]] = []
        self._told: set[str] = set()

    def take(self) -> list[dict[str, float]]:
        """The scalars of the phases that have ended since the last call, in their order."""
        waiting, self._waiting = self._waiting, []
        return waiting

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a phase: its peak is its own, and it is reported also where it fails."""
        self._reset_peak()
        started = time.monotonic()
        try:
            yield
        finally:
            self.measure(name, seconds=time.monotonic() - started)

    def measure(self, name: str, *, seconds: float | None = None) -> None:
        """Measures a phase that ends now, and begins to count the next one's peak."""
        if self._is_main:
            try:
                values = read_memory(self._folder, self._device)
            except (OSError, psutil.Error) as error:
                _log.debug("Memory after %s could not be measured (%s).", name, error)
                return
            first = name not in self._told
            self._told.add(name)
            took = "" if seconds is None else f" ({seconds:.1f} s)"
            _log.log(
                logging.INFO if first else logging.DEBUG,
                "Memory after %s%s: %s",
                name,
                took,
                describe_memory(values),
            )
            self._waiting.append(
                {f"memory_{name}/{key}": value for key, value in values.items() if key != "system_total"}
            )
        self._reset_peak()

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
