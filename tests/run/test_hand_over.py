"""A run under a launcher is not handed over once a process."""

import pytest

from src.config.cli import Job
from src.errors import UserError
from src.run.hand_over import hand_over
from tests.run.test_class_images import compose


def test_several_processes_hand_nothing_over(tmp_path, monkeypatch):
    _, config = compose("model.path=/models/x", "queue=gpus", "logger=clearml")
    job = Job(run_dir=tmp_path, name="a", resolved={}, overrides=[], in_sweep=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked: list[str] = []
    monkeypatch.setattr("src.run.hand_over.enqueue", lambda queue, **_: asked.append(queue))
    with pytest.raises(UserError, match="queue=gpus under a launcher of 2 processes"):
        hand_over(config, job)
    assert asked == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    hand_over(config, job)
    assert asked == ["gpus"]
