"""How much memory a piece of work takes at its peak."""

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import UserError


class MemoryMeter:
    """Measures the peaks of phases, one after the other, and lets a smaller device be tried.

    On a GPU a peak is the most that tensors took at a time (`torch.cuda.max_memory_allocated`), and a limit
    is held by torch's allocator itself: work beyond it runs out of memory as it would on such a card. What
    the driver and the libraries take beside torch, some hundred MB, is not counted.

    On a CPU a peak is the bytes that torch's allocator had handed out at a time, by the profiler's record of
    every allocation, on top of the model's own. A limit is compared with it afterwards.

    Args:
        device: where the work is done.
        limit: bytes, None for the device's own.

    Attributes:
        peaks: bytes by phase, in order.

    Raises:
        UserError: the device has no such measure.
    """

    def __init__(self, device: torch.device, *, limit: int | None) -> None:
        if device.type not in ("cuda", "cpu"):
            raise UserError(
                f"trainer.memory_preflight cannot measure memory on {device.type}. Set "
                "trainer.memory_preflight=false."
            )
        self.peaks: dict[str, int] = {}
        self._device = device
        self._limit = limit
        self._held = 0

    def begin(self, modules: Iterable[nn.Module]) -> None:
        """Starts anew: with what these modules hold."""
        gc.collect()
        self.peaks = {}
        self._held = sum(_storages(tensor for module in modules for tensor in _tensors(module)).values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures what is done inside, also where it fails."""
        with self._on_gpu(name) if self._device.type == "cuda" else self._on_cpu(name):
            yield

    def exceeded(self) -> str | None:
        """The first phase whose peak is above the limit; None if there is no limit, or all are below."""
        if self._limit is None:
            return None
        return next((name for name, peak in self.peaks.items() if peak > self._limit), None)

    @contextmanager
    def _on_gpu(self, name: str) -> Iterator[None]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        if self._limit is not None:
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._limit / total), self._device)
        try:
            yield
            torch.cuda.synchronize(self._device)
        finally:
            self.peaks[name] = torch.cuda.max_memory_allocated(self._device)
            if self._limit is not None:
                torch.cuda.set_per_process_memory_fraction(1.0, self._device)

    @contextmanager
    def _on_cpu(self, name: str) -> Iterator[None]:
        # The profiler's library prints about its own start, unless told otherwise before that.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [torch.profiler.ProfilerActivity.CPU]
        profiler = torch.profiler.profile(activities=activities, profile_memory=True)
        try:
            with profiler:
                yield
        finally:
            self.peaks[name], self._held = _peak_of(profiler, self._held)


def _peak_of(profiler: torch.profiler.profile, held: int) -> tuple[int, int]:
    """The most bytes at a time, and those at the end."""
    record = profiler.profiler
    assert record is not None
    assert record.kineto_results is not None
    events: Iterable[Any] = record.kineto_results.events()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU
    ]
    peak = held
    for _, change in sorted(changes, key=lambda change: change[0]):
        held += change
        peak = max(peak, held)
    return peak, held


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each storage once, however many tensors look into it."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
