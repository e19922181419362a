"""Checkpoints are whole or absent, and a run never starts silently from step 0."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.training import checkpoint as module
from src.training.checkpoint import (
    Checkpointer,
    find_damage,
    list_checkpoints,
    load_checkpoint,
)
from src.training.resume import resolve


def _save(folder: Path, step: int, *, keep: int = 5, best_step: int | None = None) -> Path:
    return Checkpointer(folder, keep=keep).save(
        step=step,
        tensors={"weights": {"a": torch.full((3,), float(step)), "b": torch.ones(2, dtype=torch.bfloat16)}},
        documents={"state": {"step": step}},
        best_step=best_step,
    )


def _flip(path: Path, position: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_saved_comes_back(tmp_path) -> None:
    path = _save(tmp_path, 7)
    assert path.name == "step_00000007"
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.tensors["weights"]["a"], torch.full((3,), 7.0))
    assert loaded.tensors["weights"]["b"].dtype == torch.bfloat16
    assert loaded.documents == {"state": {"step": 7}}
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000007"]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_flipped_byte_in_any_file_is_found(tmp_path, file) -> None:
    path = _save(tmp_path, 1)
    assert find_damage(path) is None
    _flip(path / file, position=(path / file).stat().st_size // 2)
    assert file in find_damage(path)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_missing_or_short_file_is_found(tmp_path, file) -> None:
    path = _save(tmp_path, 1)
    with (path / file).open("r+b") as opened:
        opened.truncate(5)
    assert file in find_damage(path)
    (path / file).unlink()
    assert file in find_damage(path)


def test_rotation_keeps_the_newest_and_the_best(tmp_path) -> None:
    for step in range(1, 7):
        _save(tmp_path, step, keep=2, best_step=min(step, 2))
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "5", "6"]


def test_a_failing_removal_is_only_a_warning(tmp_path, monkeypatch, caplog) -> None:
    _save(tmp_path, 1)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if "removed" in Path(target).name:
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with caplog.at_level(logging.WARNING):
        path = _save(tmp_path, 2, keep=1)
    assert find_damage(path) is None
    assert "Could not remove the old checkpoint" in caplog.text
    assert len(list_checkpoints(tmp_path)) == 2


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch) -> None:
    """A run that went back comes by a step again, and the last rename fails."""
    path = _save(tmp_path, 1)
    before = path.stat().st_ino
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == f".tmp-{path.name}":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="could not be written"):
        _save(tmp_path, 1)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_ino == before
    assert find_damage(path) is None


def test_a_full_disk_leaves_the_last_checkpoint_intact(tmp_path) -> None:
    """A file size limit stands for the full disk. It is for a whole process, which gets one of its own."""
    _save(tmp_path, 1)
    code = f"""
import resource, signal, torch
from pathlib import Path
from src.errors import UserError
from src.training.checkpoint import Checkpointer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    Checkpointer(Path({str(tmp_path)!r}), keep=1).save(
        step=2, tensors={{"weights": {{"a": torch.zeros(100_000)}}}}, documents={{}}, best_step=None)
except UserError as error:
    print("REFUSED", error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "REFUSED The checkpoint of step 2 could not be written" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert find_damage(tmp_path / "step_00000001") is None


def test_too_little_space_is_seen_before_training_and_before_each_save(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    checkpointer = Checkpointer(tmp_path, keep=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 << 20))
    with pytest.raises(UserError, match="disk space for the next 2 checkpoints"):
        checkpointer.prepare(1 << 20)
    tensors = {"weights": {"a": torch.zeros(1 << 18)}}
    with pytest.raises(UserError, match="disk space for the next 2 checkpoints"):
        checkpointer.save(step=1, tensors=tensors, documents={}, best_step=None)
    checkpointer.save(step=1, tensors=tensors, documents={}, best_step=None, num_reserved=1)


def test_an_unwritable_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write to the folder"):
        Checkpointer(tmp_path / "file" / "checkpoints", keep=1).prepare(1)


def test_the_next_save_clears_up_what_a_kill_left(tmp_path) -> None:
    """Kills themselves: test_kills.py."""
    _save(tmp_path, 1)
    (tmp_path / ".tmp-step_00000002").mkdir()
    (tmp_path / ".tmp-step_00000002" / "weights.safetensors").write_bytes(b"half")
    assert resolve("auto", folder=tmp_path) == tmp_path / "step_00000001"
    _save(tmp_path, 3)
    assert not list(tmp_path.glob(".tmp-*"))


def test_auto_starts_only_where_nothing_was_ever_written(tmp_path, caplog) -> None:
    assert resolve("auto", folder=tmp_path / "absent") is None
    first, second = _save(tmp_path, 1), _save(tmp_path, 2)
    assert resolve("auto", folder=tmp_path) == second
    _flip(second / "weights.safetensors")
    with caplog.at_level(logging.WARNING):
        assert resolve("auto", folder=tmp_path) == first
    assert "step_00000002: weights.safetensors has another hash" in caplog.text
    (first / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged .*step_00000002.*step_00000001"):
        resolve("auto", folder=tmp_path)


@pytest.mark.parametrize("resume", ["auto", "latest", "best"])
def test_checkpoints_older_than_the_one_that_is_taken_are_not_read(tmp_path, caplog, resume) -> None:
    """They are large. The damage of one of them would have been reported."""
    oldest, newest = _save(tmp_path, 1), _save(tmp_path, 2, best_step=2)
    _flip(oldest / "weights.safetensors")
    with caplog.at_level(logging.WARNING):
        assert resolve(resume, folder=tmp_path) == newest
    assert caplog.text == ""


def test_a_newest_one_without_manifest_is_not_passed_over_in_silence(tmp_path, caplog) -> None:
    first, second = _save(tmp_path, 1), _save(tmp_path, 2)
    (second / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert resolve("auto", folder=tmp_path) == first
    assert "step_00000002: manifest.json is missing" in caplog.text


def test_latest_best_and_never(tmp_path) -> None:
    with pytest.raises(UserError, match="There is no checkpoint to resume from"):
        resolve("latest", folder=tmp_path)
    assert resolve("never", folder=tmp_path) is None
    first = _save(tmp_path, 1)
    with pytest.raises(UserError, match="no best checkpoint yet"):
        resolve("best", folder=tmp_path)
    with pytest.raises(UserError, match="already holds checkpoints"):
        resolve("never", folder=tmp_path)
    second = _save(tmp_path, 2, best_step=1)
    assert resolve("latest", folder=tmp_path) == second
    assert resolve("best", folder=tmp_path) == first
    _flip(first / "state.json")
    with pytest.raises(UserError, match=r"is damaged: state\.json"):
        resolve("best", folder=tmp_path)


def test_a_run_that_went_back_continues_its_own_line(tmp_path) -> None:
    """After resume=best at step 1 the newest is what was written last, not what has the highest step."""
    for step in (1, 3):
        _save(tmp_path, step)
    for step in (2, 3):
        path = _save(tmp_path, step)
        assert resolve("auto", folder=tmp_path) == path
    assert len(list_checkpoints(tmp_path)) == 3


def test_a_path_is_a_checkpoint_or_a_run_folder(tmp_path) -> None:
    own = tmp_path / "own" / "checkpoints"
    path = _save(tmp_path / "other" / "checkpoints", 4)
    for given in (path, path.parent, path.parent.parent):
        assert resolve(str(given), folder=own) == path
    for wrong in ("nowhere", "lastest", str(tmp_path)):
        with pytest.raises(UserError, match="is neither a run folder with checkpoints nor a checkpoint"):
            resolve(wrong, folder=own)
    with pytest.raises(UserError, match="There is no checkpoint"):
        resolve(str(path.parent / "step_00000009"), folder=own)
    _flip(path / "weights.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        resolve(str(path), folder=own)


def test_torch_load_is_not_used() -> None:
    for file in Path(module.__file__).parent.glob("*.py"):
        assert "torch.load" not in file.read_text(), file
