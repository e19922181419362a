"""Jobs in other processes: joblib's, and submitit's as on a Slurm cluster."""

import re
import signal

import psutil
import pytest

from tests.sweeps.commands import BARE, JOBLIB, settings, wait_for

SUBMITIT = ("hydra/launcher=submitit_local",)


@pytest.mark.slow
def test_joblib_runs_jobs_in_other_processes_and_their_tasks_have_the_configuration(sweep):
    overrides = ("callbacks=none", "metrics=none", "logger=[clearml]", "trainer.max_steps=2")
    done = sweep.run(*JOBLIB, "trainer.seed=1,2", "adapter.rank=0,4", *overrides)
    assert done.returncode == 1
    table, under = sweep.rows()
    assert [row["status"] for row in table] == ["failed", "completed", "failed", "completed"]
    assert "- jobs 0, 2: adapter.rank=0 must be at least 1." in under
    tasks = sweep.tasks()
    assert set(tasks) == {"1", "3"}
    assert len({task["id"] for task in tasks.values()}) == 2
    for job, seed in (("1", "1"), ("3", "2")):
        assert settings(tasks[job], "General")["trainer.seed"] == seed
        assert settings(tasks[job], "General")["adapter.rank"] == "4"
        assert "config" in tasks[job]["configuration"]


@pytest.mark.slow
def test_submitit_runs_jobs_in_other_processes(sweep):
    done = sweep.run(*SUBMITIT, "trainer.seed=1,2", "adapter.rank=0,4", *BARE)
    assert done.returncode == 1, done.stderr
    table, under = sweep.rows()
    assert [row["status"] for row in table] == ["failed", "completed", "failed", "completed"]
    assert "- jobs 0, 2: adapter.rank=0 must be at least 1." in under
    assert "job 1 (" in under or "job 3 (" in under


@pytest.mark.slow
def test_a_job_that_submitit_warns_saves_is_queued_again_and_goes_on(sweep):
    """The local executor warns and starts again as Slurm's does, by the same handler."""
    few = (*BARE[:-1], "trainer.max_steps=60", "trainer.save_every=1", "trainer.resume=auto")
    process = sweep.start(*SUBMITIT, "trainer.seed=1", *few)
    wait_for(sweep.folder / "0/checkpoints/step_*", process)
    children = psutil.Process(process.pid).children(recursive=True)
    (job,) = (child for child in children if "submitit.core._submit" in child.cmdline())
    job.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    ((row,), _) = sweep.rows()
    assert (row["status"], row["steps"]) == ("completed", "60")
    log = (sweep.folder / "0/train.log").read_text()
    stopped = re.search(r"Stopped after step (\d+): signal SIGUSR1", log)
    assert stopped, log
    assert f"Training from step {stopped[1]} to step 60" in log


def test_what_is_queued_again_must_be_able_to_go_on(sweep):
    done = sweep.run("hydra/launcher=slurm", "trainer.seed=1,2", *BARE)
    assert done.returncode == 2
    assert "Add trainer.resume=auto" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
