"""What the machine does while it trains."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from src.callbacks.base import Callback, RunView
from src.errors import UserError
from src.training.state import TrainResult

log = logging.getLogger(__name__)

_GIB = 2**30
_MIB = 2**20


class MachineLoadCallback(Callback):
    """CPU, memory, GPU, disk and network, sampled in a thread and reported as means whenever losses are.

    A part that cannot be measured on a machine is left out. Each unit has a title of its own:
    machine_percent, machine_gib, machine_mib_per_second.

    Args:
        seconds_between_samples: how often to look.

    Raises:
        UserError: the number is not above 0.
    """

    def __init__(self, *, seconds_between_samples: float | int = 5) -> None:
        if seconds_between_samples <= 0:
            raise UserError(
                f"callbacks.machine_load.seconds_between_samples={seconds_between_samples} must be above 0."
            )
        self._seconds = seconds_between_samples
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[float, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def needs_guard(self, hook: str, step: int) -> bool:
        """Never: it only passes numbers on."""
        return False

    def on_fit_start(self, run: RunView) -> None:
        """Starts looking."""
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._watch, args=(Machine(run.output_dir),), name="machine-load", daemon=True
        )
        self._thread.start()

    def on_log(self, run: RunView, scalars: dict[str, float]) -> None:
        """Reports the means since the last report, if there was a look since."""
        with self._lock:
            sums, self._sums = self._sums, {}
        if sums:
            run.logger.log_scalars({key: total / num for key, (total, num) in sums.items()}, run.state.step)

    def on_fit_end(self, run: RunView, result: TrainResult) -> None:
        """Stops looking."""
        self._end()

    def on_exception(self, run: RunView, error: BaseException) -> None:
        """Stops looking."""
        self._end()

    def _end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None

    def _watch(self, machine: "Machine") -> None:
        # The first look comes soon, so that short runs have one; rates need a moment to be counted over.
        wait = min(0.5, self._seconds)
        while not self._stop.wait(wait):
            sample = machine.sample()
            with self._lock:
                for key, value in sample.items():
                    total, num = self._sums.get(key, (0.0, 0))
                    self._sums[key] = (total + value, num + 1)
            wait = self._seconds
        machine.close()


class Machine:
    """Reads the counters of this machine and process.

    Args:
        folder: the disk it is on is the one whose free space counts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = psutil.Process()
        self._counters: dict[str, int] = {}
        self._counted_at = time.monotonic()
        self._broken: set[str] = set()
        self._gpus = _visible_gpus()
        psutil.cpu_percent()  # percentages count from the call before
        self._part("disk", self._disk_rates)
        self._part("network", self._network_rates)

    def sample(self) -> dict[str, float]:
        """Values under "title/series" names."""
        now = time.monotonic()
        seconds = max(now - self._counted_at, 1e-3)
        rates = self._part("disk", self._disk_rates) | self._part("network", self._network_rates)
        self._counted_at = now
        values = {key: value / seconds / _MIB for key, value in rates.items()}
        for name, measure in (("memory", self._memory), ("space", self._space), ("gpu", self._gpu_load)):
            values |= self._part(name, measure)
        return values

    def close(self) -> None:
        """Lets the GPUs' counters go."""
        if self._gpus:
            import pynvml

            self._part("gpu", lambda: pynvml.nvmlShutdown() or {})

    def _part(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """One group of values; what fails once is said once and left out from then on."""
        if name in self._broken:
            return {}
        try:
            return measure()
        except Exception as error:
            self._broken.add(name)
            log.info("Machine load: %s cannot be measured here (%s).", name, error)
            return {}

    def _memory(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        own = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                own += process.memory_info().rss
            except psutil.NoSuchProcess:  # a data loader worker that has just ended
                continue
        return {
            "machine_percent/cpu": psutil.cpu_percent(),
            "machine_percent/ram": memory.percent,
            "machine_gib/ram_used": memory.used / _GIB,
            "machine_gib/ram_of_this_run": own / _GIB,
        }

    def _space(self) -> dict[str, float]:
        return {"machine_gib/disk_free": psutil.disk_usage(str(self._folder)).free / _GIB}

    def _gpu_load(self) -> dict[str, float]:
        if not self._gpus:
            return {}
        import pynvml

        values = {}
        for number, handle in self._gpus.items():
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            values[f"machine_gib/gpu{number}_memory"] = int(memory.used) / _GIB
            values[f"machine_percent/gpu{number}_memory"] = 100 * int(memory.used) / int(memory.total)
            values[f"machine_percent/gpu{number}"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        return values

    def _disk_rates(self) -> dict[str, float]:
        counters = psutil.disk_io_counters()
        if counters is None:  # as in some containers
            return {}
        return self._since("disk_read", counters.read_bytes) | self._since("disk_write", counters.write_bytes)

    def _network_rates(self) -> dict[str, float]:
        counters = psutil.net_io_counters()
        received = self._since("network_received", counters.bytes_recv)
        return received | self._since("network_sent", counters.bytes_sent)

    def _since(self, name: str, count: int) -> dict[str, float]:
        before = self._counters.get(name, count)
        self._counters[name] = count
        return {f"machine_mib_per_second/{name}": float(max(0, count - before))}


def _visible_gpus() -> dict[int, Any]:
    """NVML's handles of the GPUs that CUDA sees, by their number on the machine; empty without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = {n: pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())}
        wanted = [
            name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()
        ]
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            return handles
        return {
            number: handle
            for number, handle in handles.items()
            if str(number) in wanted
            or any(str(pynvml.nvmlDeviceGetUUID(handle)).startswith(w) for w in wanted)
        }
    except Exception:  # no NVIDIA driver, or one that does not answer: then there is nothing to show
        return {}
