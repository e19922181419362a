"""A sweep as a user runs it: a command of its own, and what it leaves behind."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BARE = ("callbacks=none", "metrics=none", "logger=[]", "trainer.batch_size=2", "trainer.max_steps=2")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
OPTUNA = ("experiment=optuna_lr_rank",)
ENDLESS = ("trainer.seed=1,2,3,4", *BARE[:-1], "trainer.max_steps=1000000")


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
        # What ClearML was told in this process is nothing to it.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CLEARML_")}
        # Without a session of its own, Ctrl-C of whoever runs the tests would reach it as well.
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.place,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
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


def settings(task, section):
    return {key: entry["value"] for key, entry in task["hyperparams"][section].items()}


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)


def stop(process, number):
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert f"The sweep was stopped by {number.name}" in out
    assert "Traceback" not in err
    return out
