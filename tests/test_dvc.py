"""What ships through DVC arrives in a fresh clone, and the pipeline runs what it must and nothing else."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REMOTE = ROOT / "assets" / "dvc-remote" / "files" / "md5"

# In the place of the run scripts: what they leave behind, without what it takes.
TRAIN = """
case "$*" in
*prepare*) "$PYTHON" -c 'import sys; from pathlib import Path
from src.data.data_manager import DataManager, prepare
prepare(DataManager(companions=()), report=Path("outputs/train/dvc-prepare/dataset.json"))' ;;
*) mkdir -p outputs/train/dvc/adapter && echo weights >outputs/train/dvc/adapter/a ;;
esac
echo "train $*" >>ran.txt
"""
INFER = """
cat outputs/train/dvc/adapter/a >/dev/null && mkdir -p outputs/inference/dvc && echo 1 >outputs/inference/dvc/a
echo "infer $*" >>ran.txt
"""


def run(*command: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHON": sys.executable, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    run("git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(tmp_path / "clone"), cwd=tmp_path)
    return tmp_path / "clone"


def test_the_remote_is_in_the_repository_and_nobody_is_told() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".dvc" / "config")
    assert parser["core"]["remote"] == "embedded"
    assert parser["core"]["analytics"] == "false"
    assert dict(parser["'remote \"embedded\"'"]) == {"url": "../assets/dvc-remote"}


@pytest.mark.parametrize("target", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.dvc")))
def test_the_remote_holds_all_that_is_tracked(target: str) -> None:
    (out,) = yaml.safe_load((ROOT / target).read_text(encoding="utf-8"))["outs"]
    listing = json.loads((REMOTE / out["md5"][:2] / out["md5"][2:]).read_text(encoding="utf-8"))
    assert len(listing) == out["nfiles"]
    for entry in listing:
        data = (REMOTE / entry["md5"][:2] / entry["md5"][2:]).read_bytes()
        assert hashlib.md5(data).hexdigest() == entry["md5"], entry["relpath"]


def test_a_fresh_clone_pulls(clone: Path) -> None:
    run(sys.executable, "-m", "dvc", "pull", "-q", "data/demo.dvc", cwd=clone)
    assert len(list((clone / "data" / "demo").glob("*.HEIC"))) >= 50
    assert run("git", "status", "--short", cwd=clone) == ""


@pytest.mark.slow
def test_repro_runs_each_stage_once(clone: Path) -> None:
    for name, text in (("train_run.sh", TRAIN), ("infer_run.sh", INFER)):
        (clone / name).write_text(text)
    for name in ("dvc.yaml", ".dvcignore", "src/data/data_manager.py"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    (clone / "train.py").touch()
    (clone / "inference.py").touch()

    def repro() -> list[str]:
        (clone / "ran.txt").unlink(missing_ok=True)
        run(sys.executable, "-m", "dvc", "repro", "-q", cwd=clone)
        return (clone / "ran.txt").read_text().splitlines()

    prepare = "train -cn prepare run.name=dvc-prepare"
    train, infer = "train run.name=dvc", "infer run.name=dvc adapter.run=dvc"
    assert repro() == [prepare, train, infer]
    assert len(list((clone / "data" / "demo").glob("*.HEIC"))) >= 50
    assert repro() == [prepare]
    run("rm", "-rf", "data/demo", ".dvc/cache", cwd=clone)
    assert repro() == [prepare]
    (clone / "conf" / "extra.yaml").write_text("a: 1\n")
    assert repro() == [prepare, train, infer]
