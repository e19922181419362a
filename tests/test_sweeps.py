"""Sweeps as a user runs them: each case is a command of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BARE = ("callbacks=none", "metrics=none", "logger=[]", "trainer.batch_size=2", "trainer.max_steps=2")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
OPTUNA = ("experiment=optuna_lr_rank",)


@dataclass(frozen=True)
class Sweep:
    """One folder to sweep in."""

    place: Path
    cache: Path

    @property
    def folder(self) -> Path:
        return self.place / "out/sweeps/mine"

    def start(self, *arguments, script="train.py", before=()):
        paths = (f"paths.output_dir={self.place}/out", f"paths.cache_dir={self.cache}", "run.name=mine")
        command = [sys.executable, *before, str(ROOT / script), "-m", *arguments, *paths]
        # Without a session of its own, Ctrl-C of whoever runs the tests would reach it as well.
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.place,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            start_new_session=True,
        )

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=280)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def rows(self):
        """The table in results.md as dictionaries, and the text under it."""
        lines = (self.folder / "results.md").read_text().splitlines()
        grid = [line for line in lines if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in grid]
        assert set("".join(cells[1])) == {"-"}
        table = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
        return table, "\n".join(lines[len(grid) :])

    def jobs(self):
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def tasks(self):
        """The offline ClearML tasks, by the job's number."""
        files = self.folder.glob("*/clearml/offline/*/task.json")
        return {file.relative_to(self.folder).parts[0]: json.loads(file.read_text()) for file in files}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sweep(tmp_path, cache):
    return Sweep(tmp_path, cache)


def settings(task, section):
    return {key: entry["value"] for key, entry in task["hyperparams"][section].items()}


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)


@pytest.mark.slow
def test_each_job_has_its_folder_and_its_task_and_all_share_the_caches(tmp_path):
    sweep = Sweep(tmp_path, tmp_path / "cache")
    done = sweep.run(
        "trainer.seed=1,2",
        "adapter.rank=4,8",
        "trainer.max_steps=2",
        "callbacks.samples.num_steps=1",
        "callbacks.machine_load=null",
        "logger=[clearml]",
    )
    assert done.returncode == 0, done.stderr
    assert sweep.jobs() == ["0", "1", "2", "3"]
    tasks = sweep.tasks()
    assert len({task["id"] for task in tasks.values()}) == 4
    expected = {"0": ("1", "4"), "1": ("1", "8"), "2": ("2", "4"), "3": ("2", "8")}
    for section in ("General", "Hydra"):
        seen = {
            job: (settings(task, section)["trainer.seed"], settings(task, section)["adapter.rank"])
            for job, task in tasks.items()
        }
        assert seen == expected
    assert {job: task["name"] for job, task in tasks.items()} == {job: f"mine/{job}" for job in expected}
    # The first job encodes; the others find everything.
    assert done.stdout.count("Encoding ") == 1
    first_adapter = (sweep.folder / "0/adapter").stat().st_mtime_ns
    # Entries of images and texts have the time of their last use instead.
    made = {name: mtime for name, (mtime, _) in contents(tmp_path / "cache").items()}
    others = [mtime for name, mtime in made.items() if not {"latents", "texts"} & set(Path(name).parts)]
    assert all(mtime < first_adapter for mtime in others)
    assert len(others) < len(made)

    table, under = sweep.rows()
    assert [(row["trainer.seed"], row["adapter.rank"]) for row in table] == list(expected.values())
    assert {row["status"] for row in table} == {"completed"}
    for row in table:
        result = json.loads((sweep.folder / row["job"] / "result.json").read_text())
        for name in ("best_validation_loss", "loss_train", "dino[pocket]/samples", "seconds"):
            assert row[name] == f"{result[name]:.5g}"
        logged = [json.loads(line) for line in (sweep.folder / row["job"] / "metrics.jsonl").open()]
        scores = [e["scalars"] for e in logged if "clip_t[pocket]/samples" in e.get("scalars", {})]
        assert result["clip_t[pocket]/samples"] == scores[-1]["clip_t[pocket]/samples"]
    # The same base model draws the same prompts in each job: one figure, no column.
    assert re.search(r"Same in all jobs: .*dino\[pocket\]/base -?[\d.]+.*steps 2", under)
    assert (sweep.folder / "results.md").read_text() in done.stdout

    adapter = f"adapter.weights={sweep.folder}/3"
    other = Sweep(tmp_path / "inference", tmp_path / "cache")
    other.place.mkdir()
    done = other.run(
        "adapter.scale=0.5,1", "num_steps=1", "num_images=1", "logger=[]", adapter, script="inference.py"
    )
    assert done.returncode == 0, done.stderr
    table, _ = other.rows()
    assert [(row["adapter.scale"], row["status"]) for row in table] == [
        ("0.5", "completed"),
        ("1", "completed"),
    ]
    assert all(row["dino[pocket]/samples"] for row in table)


@pytest.mark.slow
def test_failing_jobs_are_failed_rows_and_the_others_run(sweep):
    done = sweep.run("adapter.rank=0,4", "optimizer.lr=1e30,1e-4", *BARE)
    assert done.returncode == 1
    table, under = sweep.rows()
    assert [row["status"] for row in table] == ["failed", "failed", "failed", "completed"]
    assert "- jobs 0, 1: adapter.rank=0 must be at least 1." in under
    assert re.search(r"^- job 2: Loss or gradient was not finite at step \d", under, re.MULTILINE)
    assert "Lowest validation loss" in under
    assert "job 3 (adapter.rank=4 optimizer.lr=0.0001)" in under
    assert "Traceback" not in done.stderr
    assert (sweep.folder / "3/adapter").is_dir()
    assert not (sweep.folder / "0/train.log").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.seed=1,2", "trainer.max_stps=3"], ["trainer.max_stps", "Did you mean trainer.max_steps"]),
        (
            ["trainer.seed=1,2", "+trainer.max_stps=3"],
            ["trainer.max_stps", "Did you mean trainer.max_steps"],
        ),
        (["trainer.max_stps=1,2"], ["trainer.max_stps", "Did you mean trainer.max_steps"]),
        (["model=pocket,pockt"], ["model=pockt does not exist"]),
        (["trainer.max_steps=2,many"], ["trainer.max_steps=many", "Integer"]),
        (["adapter.rank=0,-1"], ["adapter.rank=0 must be at least 1"]),
        ([*OPTUNA, "trainer.max_stps=3"], ["trainer.max_stps", "Did you mean trainer.max_steps"]),
    ],
)
def test_what_no_job_could_run_with_is_one_line_and_leaves_nothing_behind(arguments, expected, sweep):
    done = sweep.run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in expected:
        assert part in done.stderr
    assert list(sweep.place.iterdir()) == []


def test_several_values_without_m_say_so(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "trainer.seed=1,2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 2
    assert "trainer.seed=1,2 names several values. Add -m" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(OPTUNA, "hydra/sweeper=optuna"), (("trainer.seed=1,2", *JOBLIB), "hydra/launcher=joblib")],
)
def test_without_the_optional_packages_it_says_how_to_get_them(arguments, missing, sweep):
    hide = "import hydra_plugins, runpy, sys; hydra_plugins.__path__ = []; sys.argv = sys.argv[1:]; "
    hide += (
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = sweep.run(*arguments, before=("-c", hide))
    assert done.returncode == 2
    assert f"{missing} needs packages that are not installed" in done.stderr
    assert "DARKROOM_EXTRAS=1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


ENDLESS = ("trainer.seed=1,2,3,4", *BARE[:-1], "trainer.max_steps=1000000")


def stop(process, number):
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert f"The sweep was stopped by {number.name}" in out
    assert "Traceback" not in err
    return out


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
    assert "Training from step 20 to step 20" in done.stdout
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


def best_of(sweep):
    return yaml.safe_load((sweep.folder / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_optuna_minimises_the_validation_loss_and_survives_failed_trials(sweep):
    done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=3", "adapter.rank=0,2", *BARE)
    table, under = sweep.rows()
    # TPE with the experiment's seed draws both ranks.
    assert {row["status"] for row in table} == {"failed", "completed"}, done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(table) == 3
    losses = {
        row["job"]: json.loads((sweep.folder / row["job"] / "result.json").read_text())[
            "best_validation_loss"
        ]
        for row in table
        if row["status"] == "completed"
    }
    assert len(set(losses.values())) > 1
    best = best_of(sweep)
    assert best["best_value"] == min(losses.values())
    job = min(losses, key=lambda name: losses[name])
    config = yaml.safe_load((sweep.folder / job / "config.yaml").read_text())
    assert best["best_params"]["optimizer.lr"] == config["optimizer"]["lr"]
    assert f", job {job} (" in under


def test_optuna_searches_the_learning_rate_on_a_log_scale(sweep):
    config = yaml.safe_load((ROOT / "conf/experiment/optuna_lr_rank.yaml").read_text())
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    params = [f"{key}={value}" for key, value in config["hydra"]["sweeper"]["params"].items()]
    space, _ = create_params_from_overrides(params)
    assert space["optimizer.lr"] == optuna.distributions.LogUniformDistribution(1e-5, 1e-2)
    assert space["adapter.rank"].choices == (4, 8, 16, 32)


@pytest.mark.slow
def test_optuna_without_a_single_completed_trial_ends_with_the_table(sweep):
    done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=2", "dataset.path=/nowhere", *BARE)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [row["status"] for row in sweep.rows()[0]] == ["failed", "failed"]


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


@pytest.mark.slow
def test_a_study_in_a_database_goes_on_where_it_was(sweep):
    """Optuna's database layer must fit the locked SQLAlchemy."""
    study = ("hydra.sweeper.study_name=mine", f"hydra.sweeper.storage=sqlite:///{sweep.place}/study.db")
    for count in (1, 2):
        shutil.rmtree(sweep.folder, ignore_errors=True)
        done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=1", *study, *BARE)
        assert done.returncode == 0, done.stderr
        (kept,) = optuna.get_all_study_summaries(storage=study[1].partition("=")[2])
        assert kept.n_trials == count


SUBMITIT = ("hydra/launcher=submitit_local",)


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
