"""Sweeps as a user runs them: each case is a command of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps.commands import BARE, JOBLIB, OPTUNA, ROOT, Sweep, settings


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


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
