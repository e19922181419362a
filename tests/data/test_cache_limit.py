"""Caches within a limit: what was used longest ago goes, and nothing that a running job needs."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from src.data import cache_limit
from src.data.cache_limit import Inventory, lease, oldest_lease, on_disk
from src.data.cache_room import Projection, hold_limit, make_room
from src.data.tensor_store import TensorStore, entry_key
from src.errors import UserError
from src.files import FILE_MODE, read_json
from tests.data import filling_job

ENTRY = on_disk(4000 + 300)


def fill(cache: Path, names: str, *, at: float | None = None) -> TensorStore:
    """Entries of two blocks each; `at` dates them, in seconds."""
    store = TensorStore(cache / "latents" / "vae")
    for name in names:
        store.write(entry_key(name), {"x": torch.zeros(1000)}, {})
        if at is not None:
            os.utime(store.path(entry_key(name)), (at, at))
    return store


@pytest.fixture
def shared():
    """A folder that other users reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def no_access(path: Path, mode: int = 0) -> Iterator[None]:
    """A file or folder of another user's. Root may do everything, and is nobody meanwhile."""
    before, user = path.stat().st_mode, os.geteuid()
    path.chmod(mode)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        path.chmod(before)


def left(cache: Path) -> set[str]:
    store = TensorStore(cache / "latents" / "vae")
    return {name for name in "abcdefgh" if store.path(entry_key(name)).exists()}


def wanted(num_images=0, num_texts=0) -> Projection:
    return Projection(
        num_images=num_images,
        num_texts=num_texts,
        image_bytes=num_images * ENTRY,
        text_bytes=num_texts * ENTRY,
    )


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for number, name in enumerate("cab"):
        fill(tmp_path, name, at=1000 + number)
    assert TensorStore(tmp_path / "latents" / "vae").claim(entry_key("c"))
    assert make_room(wanted(1), cache_dir=tmp_path, limit_bytes=3 * ENTRY)
    assert left(tmp_path) == {"b", "c"}
    assert make_room(wanted(2), cache_dir=tmp_path, limit_bytes=3 * ENTRY)
    assert left(tmp_path) == {"c"}


def test_nothing_goes_without_need_and_without_a_limit(tmp_path, monkeypatch):
    fill(tmp_path, "abc", at=1000)
    assert make_room(wanted(1), cache_dir=tmp_path, limit_bytes=4 * ENTRY)
    assert make_room(wanted(1), cache_dir=tmp_path, limit_bytes=None)
    assert left(tmp_path) == {"a", "b", "c"}
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=ENTRY))
    with pytest.raises(UserError, match=r"Not enough disk space.*0\.0 MB are free"):
        make_room(wanted(2), cache_dir=tmp_path, limit_bytes=None)
    assert left(tmp_path) == {"a", "b", "c"}


def test_a_full_disk_is_cleared_where_eviction_is_allowed(tmp_path, monkeypatch):
    fill(tmp_path, "abc", at=1000)
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=ENTRY))
    assert make_room(wanted(2), cache_dir=tmp_path, limit_bytes=100 * ENTRY)
    assert len(left(tmp_path)) <= 2


def test_what_a_running_job_claimed_stays(tmp_path):
    store = fill(tmp_path, "abc", at=1000)
    with lease(tmp_path, is_needed=True):
        assert store.claim(entry_key("b"))
        assert make_room(wanted(1), cache_dir=tmp_path, limit_bytes=2 * ENTRY)
        assert left(tmp_path) == {"b"}
        with pytest.raises(UserError, match=r"paths\.cache_limit_gb=.* beside the .*cache_precision"):
            make_room(wanted(2), cache_dir=tmp_path, limit_bytes=2 * ENTRY)
        hold_limit(tmp_path, 0)
        assert left(tmp_path) == {"b"}
    hold_limit(tmp_path, 0)
    assert left(tmp_path) == set()
    assert list((tmp_path / "leases").iterdir()) == []


def test_texts_that_do_not_fit_are_left_to_the_loop(tmp_path, caplog):
    assert not make_room(wanted(2, 2), cache_dir=tmp_path, limit_bytes=3 * ENTRY)
    assert "encoded at each step" in caplog.text
    assert make_room(wanted(2, 1), cache_dir=tmp_path, limit_bytes=3 * ENTRY)


def test_a_run_that_is_refused_costs_nothing(tmp_path):
    fill(tmp_path, "abc", at=1000)
    with pytest.raises(UserError, match="Not enough disk space"):
        make_room(wanted(5), cache_dir=tmp_path, limit_bytes=4 * ENTRY)
    assert left(tmp_path) == {"a", "b", "c"}


def test_nothing_goes_for_texts_that_are_not_kept(tmp_path):
    for number, name in enumerate("abc"):
        fill(tmp_path, name, at=1000 + number)
    assert not make_room(wanted(2, 9), cache_dir=tmp_path, limit_bytes=4 * ENTRY)
    assert left(tmp_path) == {"b", "c"}
    with lease(tmp_path, is_needed=True):
        assert TensorStore(tmp_path / "latents" / "vae").claim(entry_key("c"))
        # No image is wanted: also a limit that is exceeded already refuses nothing.
        assert not make_room(wanted(0, 1), cache_dir=tmp_path, limit_bytes=ENTRY // 2)
    assert left(tmp_path) == {"c"}


def _hold(folder: Path, is_held: "multiprocessing.synchronize.Event") -> None:
    with lease(folder, is_needed=True):
        is_held.set()
        time.sleep(60)


def test_a_dead_jobs_lease_counts_for_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    job = context.Process(target=_hold, args=(tmp_path, is_held))
    job.start()
    assert is_held.wait(10)
    fill(tmp_path, "a")
    hold_limit(tmp_path, 0)
    assert left(tmp_path) == {"a"}
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    assert len(list((tmp_path / "leases").iterdir())) == 1
    hold_limit(tmp_path, 0)
    assert left(tmp_path) == set()
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.slow
def test_two_jobs_that_fill_at_once_lose_nothing_and_the_limit_holds_after(tmp_path):
    """Each finds that what it lacks fits; together it does not."""
    fill(tmp_path / "cache", "abcdefgh", at=1000)
    limit_bytes = 20 * filling_job.ENTRY
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    jobs = [
        context.Process(target=filling_job.fill_beside, args=(tmp_path, number, limit_bytes, together))
        for number in (1, 2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
        assert job.exitcode == 0
    for seen in (read_json(tmp_path / f"job{number}.json") for number in (1, 2)):
        assert seen["fits"]
        assert seen["lost"] == 0
        assert seen["held"] > limit_bytes
    assert left(tmp_path / "cache") == set(), "what no one needs went first"
    hold_limit(tmp_path / "cache", limit_bytes)
    folders = [tmp_path / "cache" / "latents", tmp_path / "cache" / "texts"]
    assert 0 < Inventory(folders).num_bytes <= limit_bytes


def test_the_oldest_of_the_running_jobs_counts(tmp_path):
    assert oldest_lease(tmp_path) is None
    with lease(tmp_path, is_needed=True):
        first = oldest_lease(tmp_path)
        assert abs(first / 1e9 - time.time()) < 10
        time.sleep(0.02)
        with lease(tmp_path, is_needed=True):
            assert oldest_lease(tmp_path) == first
    assert oldest_lease(tmp_path) is None


def test_without_locks_there_is_no_limit(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(cache_limit.fcntl, "flock", no_locks)
    with (
        pytest.raises(UserError, match=r"paths\.cache_limit_gb needs locks"),
        lease(tmp_path, is_needed=True),
    ):
        pass
    with lease(tmp_path, is_needed=False):
        pass
    assert list((tmp_path / "leases").iterdir()) == []


def test_other_users_can_see_whether_a_lease_is_held(shared):
    with lease(shared, is_needed=True):
        (path,) = (shared / "leases").iterdir()
        assert path.stat().st_mode & 0o777 == FILE_MODE
        fill(shared, "a")
        with no_access(path):
            hold_limit(shared, 0)
        with no_access(shared / "leases"):
            hold_limit(shared, 0)
            with pytest.raises(UserError, match=r"needs locks in .*Permission denied.*cache_limit_gb=null"):
                lease(shared, is_needed=True).__enter__()
            with lease(shared, is_needed=False):
                pass
    assert left(shared) == {"a"}


def test_what_may_not_be_read_or_removed_is_no_crash(shared):
    store = fill(shared, "a", at=1000)
    with no_access(store.path(entry_key("a"))), pytest.raises(UserError, match=r"Cannot read .*denied"):
        store.read(entry_key("a"))
    with no_access(store.path(entry_key("a")).parent, 0o555):
        hold_limit(shared, 0)
        assert left(shared) == {"a"}


def test_what_a_killed_writer_left_is_counted_and_goes(tmp_path):
    half = tmp_path / "latents/vae/ab/.abc.safetensors.xyz.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(bytes(5000))
    assert Inventory([tmp_path]).num_bytes == 8192
    hold_limit(tmp_path, 0)
    assert not half.exists()


def test_other_folders_of_the_cache_are_no_ones_business(tmp_path):
    fill(tmp_path, "a", at=1000)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/made.json").write_text("{}")
    hold_limit(tmp_path, 0)
    assert left(tmp_path) == set()
    assert (tmp_path / "captions/made.json").exists()
