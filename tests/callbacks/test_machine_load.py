import threading
import time
from pathlib import Path

import psutil
import pytest

from src.callbacks.machine_load import Machine, MachineLoadCallback
from src.errors import UserError
from tests.callbacks.recorder import RESULT, SCALARS, Recorder, make_run

ALWAYS = {
    "machine_percent/cpu",
    "machine_percent/ram",
    "machine_gib/ram_used",
    "machine_gib/ram_of_this_run",
    "machine_gib/disk_free",
    "machine_mib_per_second/network_received",
    "machine_mib_per_second/network_sent",
}


def test_values_are_plausible(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        pass
    values = machine.sample()
    assert set(values) >= ALWAYS
    assert 0 < values["machine_percent/cpu"] <= 100
    total = psutil.virtual_memory().total / 2**30
    assert 0.01 < values["machine_gib/ram_of_this_run"] < total
    assert values["machine_gib/ram_used"] < total
    assert all(value >= 0 for value in values.values())


def test_written_bytes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counters:
        read_bytes = 0
        write_bytes = 0

    monkeypatch.setattr(psutil, "disk_io_counters", Counters)
    machine = Machine(tmp_path)
    machine._counted_at -= 10
    Counters.write_bytes = 50 * 2**20
    assert machine.sample()["machine_mib_per_second/disk_write"] == pytest.approx(5, rel=0.05)


def test_means_are_reported_when_losses_are(tmp_path: Path) -> None:
    logger = Recorder()
    callback = MachineLoadCallback(seconds_between_samples=0.01)
    callback.on_fit_start(make_run(logger, tmp_path))
    time.sleep(0.3)
    callback.on_log(make_run(logger, tmp_path, step=5), SCALARS)
    callback.on_fit_end(make_run(logger, tmp_path), RESULT)
    (reported,) = logger.scalars
    assert reported[0] == 5
    assert set(reported[1]) >= ALWAYS
    assert not [thread for thread in threading.enumerate() if thread.name == "machine-load"]


def test_nothing_to_report_is_no_report(tmp_path: Path) -> None:
    logger = Recorder()
    callback = MachineLoadCallback(seconds_between_samples=60)
    callback.on_fit_start(make_run(logger, tmp_path))
    callback.on_log(make_run(logger, tmp_path, step=5), SCALARS)
    callback.on_exception(make_run(logger, tmp_path), RuntimeError("boom"))
    assert logger.scalars == []


def test_what_cannot_be_measured_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/net/dev")

    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    values = Machine(tmp_path).sample()
    assert not [key for key in values if key.startswith("machine_mib_per_second")]
    assert "machine_percent/cpu" in values


def test_no_pause_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="must be above 0"):
        MachineLoadCallback(seconds_between_samples=0)
