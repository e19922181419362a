"""Memory and disk space are reported at the end of each phase."""

import json
import logging

import psutil
import pytest
import torch

from src.loggers.jsonl import JsonlLogger
from src.training.phase_memory import PhaseMemory, describe_memory, read_memory

CPU = torch.device("cpu")


def _scalars(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["scalars"]) for line in lines if line["kind"] == "scalars"]


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
    assert "GPU 1.00 allocated, 2.00 at the peak, 3.00 reserved" in words


def test_a_run_reports_each_phase_and_the_log_each_kind_once(tiny, held_out, tmp_path, caplog) -> None:
    logger = JsonlLogger(run_dir=tmp_path / "log")
    logger.start()
    memory = PhaseMemory(tmp_path, CPU)
    with caplog.at_level(logging.INFO):
        with memory.phase("load"):
            pass
        memory.use(logger)
        run = tiny(held_out=held_out, max_steps=4, log_every=2, validate_every=2, save_every=3, memory=memory)
        run.trainer().fit()
    titles = [(step, next(iter(scalars)).split("/")[0]) for step, scalars in _scalars(tmp_path / "log")]
    assert titles == [
        (0, "memory_load"),
        (2, "memory_train"),
        (2, "memory_validate"),
        (2, "memory_save"),
        (3, "memory_save"),
        (4, "memory_train"),
        (4, "memory_validate"),
        (4, "memory_save"),
    ]
    assert all(
        set(s) == {f"{title}/{n}" for n in ("process", "system", "disk_free")}
        for (_, title), (_, s) in zip(titles, _scalars(tmp_path / "log"), strict=True)
    )
    for phase in ("load", "train", "validate", "save"):
        assert caplog.text.count(f"Memory after {phase}") == 1


def test_a_phase_that_fails_is_reported_and_a_measurement_that_fails_is_not(tmp_path, caplog) -> None:
    logger = JsonlLogger(run_dir=tmp_path)
    logger.start()
    memory = PhaseMemory(tmp_path, CPU)
    memory.use(logger)
    with pytest.raises(torch.OutOfMemoryError), memory.phase("validate", step=7):
        raise torch.OutOfMemoryError("no room")
    assert [step for step, _ in _scalars(tmp_path)] == [7]
    with PhaseMemory(tmp_path / "absent", CPU).phase("save"):
        pass
    other = PhaseMemory(tmp_path, CPU, is_main=False)
    other.use(logger)
    other.report("save", step=8)
    assert [step for step, _ in _scalars(tmp_path)] == [7]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_a_gpu_is_that_of_the_phase(tmp_path) -> None:
    device = torch.device("cuda")
    logger = JsonlLogger(run_dir=tmp_path)
    logger.start()
    memory = PhaseMemory(tmp_path, device)
    memory.use(logger)
    with memory.phase("validate"):
        torch.empty(256 << 20, dtype=torch.uint8, device=device)
    with memory.phase("save"):
        pass
    peaks = [
        s["gpu_peak"] for s in ({k.split("/")[1]: v for k, v in s.items()} for _, s in _scalars(tmp_path))
    ]
    assert peaks[0] >= peaks[1] + 0.24
