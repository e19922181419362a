"""A signal ends a sweep and not only the job that runs; what was stopped goes on."""

import signal

import pytest

from tests.sweeps.commands import BARE, ENDLESS, JOBLIB, stop, wait_for


@pytest.mark.slow
def test_a_signal_ends_the_sweep_and_not_only_the_job(sweep):
    process = sweep.start(*ENDLESS, "trainer.save_every=1")
    wait_for(sweep.folder / "0/checkpoints/step_*", process)
    out = stop(process, signal.SIGTERM)
    assert sweep.jobs() == ["0"]
    ((row,), _) = sweep.rows()
    assert row["status"] == "stopped"
    assert int(row["steps"]) >= 1
    assert "run.name=mine trainer.resume=auto" in out


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_and_skips_what_is_done(sweep):
    seeds = ("trainer.seed=1,2", *BARE[:-1], "trainer.save_every=1", "trainer.max_steps=20")
    process = sweep.start(*seeds)
    wait_for(sweep.folder / "1/checkpoints/step_*", process)
    stop(process, signal.SIGINT)
    assert [row["status"] for row in sweep.rows()[0]] == ["completed", "stopped"]
    steps = int(sweep.rows()[0][1]["steps"])
    done = sweep.run(*seeds, "trainer.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "Step 20 is trained already" in done.stdout
    assert f"Training from step {steps} to step 20" in done.stdout
    table, _ = sweep.rows()
    assert [(row["status"], row["best_validation_loss"] != "") for row in table] == [("completed", True)] * 2


@pytest.mark.slow
def test_a_signal_before_the_loop_ends_the_sweep_as_well(sweep):
    process = sweep.start(*ENDLESS)
    wait_for(sweep.folder / "0/job.json", process)
    stop(process, signal.SIGTERM)
    assert sweep.jobs() == ["0"]
    assert [row["status"] for row in sweep.rows()[0]] == ["stopped"]


@pytest.mark.slow
def test_a_signal_ends_a_joblib_sweep_and_its_jobs_are_saved(sweep):
    process = sweep.start(*JOBLIB, *ENDLESS, "trainer.save_every=1")
    wait_for(sweep.folder / "0/checkpoints/step_*", process)
    wait_for(sweep.folder / "1/checkpoints/step_*", process)
    stop(process, signal.SIGTERM)
    table, _ = sweep.rows()
    assert [(row["job"], row["status"]) for row in table] == [("0", "stopped"), ("1", "stopped")]
    for row in table:
        newest = sorted((sweep.folder / row["job"] / "checkpoints").iterdir())[-1]
        assert int(newest.name.removeprefix("step_")) == int(row["steps"])
