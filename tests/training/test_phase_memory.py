"""Memory and disk space are reported at the end of each phase."""

import logging

import psutil
import pytest
import torch

from src.callbacks.base import Callback
from src.training.phase_memory import PhaseMemory, describe_memory, read_memory

CPU = torch.device("cpu")


def test_values_are_those_of_this_process_and_disk(tmp_path) -> None:
    values = read_memory(tmp_path, CPU)
    assert values.keys() == {"process", "system", "system_total", "disk_free"}
    assert values["process"] < values["system_total"]
    assert values["system"] < values["system_total"]
    assert values["disk_free"] == pytest.approx(psutil.disk_usage(str(tmp_path)).free / 2**30, rel=0.2)
    ballast = torch.ones(64 << 20)
    assert read_memory(tmp_path, CPU)["process"] > values["process"] + 0.2
    del ballast
    words = describe_memory(values | {"gpu_allocated": 1.0, "gpu_peak": 2.0, "gpu_reserved": 3.0})
    assert "GPU 1.00 allocated, 2.00 at the peak, 3.00 GiB reserved" in words


class Memory(Callback):
    def __init__(self) -> None:
        self.told: list[tuple[int, str, set[str]]] = []

    def on_memory(self, run, scalars):
        (title,) = {key.partition("/")[0] for key in scalars}
        self.told.append((run.state.step, title, {key.partition("/")[2] for key in scalars}))


def test_a_run_tells_each_phase_and_the_log_each_kind_once(tiny, held_out, tmp_path, caplog) -> None:
    memory, told = PhaseMemory(tmp_path, CPU), Memory()
    with caplog.at_level(logging.INFO):
        with memory.phase("load"):
            pass
        run = tiny(
            held_out=held_out,
            max_steps=4,
            log_every=2,
            validate_every=2,
            save_every=3,
            memory=memory,
            callbacks=[told],
        )
        assert run.trainer().fit().failures == ()
    assert [(step, title) for step, title, _ in told.told] == [
        (0, "memory_load"),
        (2, "memory_train"),
        (2, "memory_validate"),
        (2, "memory_save"),
        (3, "memory_save"),
        (4, "memory_train"),
        (4, "memory_validate"),
        (4, "memory_save"),
    ]
    assert all(names == {"process", "system", "disk_free"} for _, _, names in told.told)
    for phase in ("load", "train", "validate", "save"):
        assert caplog.text.count(f"Memory after {phase}") == 1


def test_a_phase_that_fails_is_measured_and_a_measurement_that_fails_is_passed_over(tmp_path) -> None:
    memory = PhaseMemory(tmp_path, CPU)
    with pytest.raises(torch.OutOfMemoryError), memory.phase("validate"):
        raise torch.OutOfMemoryError("no room")
    assert len(memory.take()) == 1
    assert memory.take() == []
    for other in (PhaseMemory(tmp_path / "absent", CPU), PhaseMemory(tmp_path, CPU, is_main=False)):
        with other.phase("save"):
            pass
        assert other.take() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_a_gpu_is_that_of_the_phase(tmp_path) -> None:
    device = torch.device("cuda")
    memory = PhaseMemory(tmp_path, device)
    with memory.phase("validate"):
        torch.empty(256 << 20, dtype=torch.uint8, device=device)
    with memory.phase("save"):
        pass
    validate, save = memory.take()
    assert validate["memory_validate/gpu_peak"] >= save["memory_save/gpu_peak"] + 0.24
