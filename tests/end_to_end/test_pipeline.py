"""Data alone, and the whole pipeline of dvc.yaml, in clones that have nothing yet."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.end_to_end.workbench import Bench, make_clone


def test_prepare_leaves_data_ready(tmp_path: Path) -> None:
    clone = make_clone(tmp_path).folder
    bench = Bench(root=clone, output_dir=tmp_path / "outputs")
    folder = bench.prepare("first")
    assert len(list((clone / "data" / "demo").glob("*.HEIC"))) >= 50
    assert (clone / "assets" / "pocket" / "sd15" / "model_index.json").exists()
    figures = json.loads((folder / "prepared.json").read_text())
    assert figures["train"] + figures["validation"] == figures["images"] >= 50
    (split,) = (clone / "data" / "splits").rglob("*.json")
    kept = split.read_bytes()
    # The report that dvc.yaml's next stage depends on stays the same as long as the data does.
    again = bench.prepare("second")
    assert (again / "dataset.json").read_bytes() == (folder / "dataset.json").read_bytes()
    assert split.read_bytes() == kept


@pytest.mark.slow
def test_prepare_by_itself(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    printed = clone.run(sys.executable, "train.py", "-cn", "prepare")
    assert "pulled by DVC and verified" in printed
    assert "56 captioned images" in printed
    check = "from src.data.data_manager import DataManager; print(DataManager().download_data())"
    assert clone.run(sys.executable, "-c", check).splitlines()[-1] == "True"
    assert clone.run("git", "status", "--short") == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_repro_runs_the_real_stages(tmp_path: Path) -> None:
    """Its commands take no overrides, so the few steps are written into the clone's configuration."""
    clone = make_clone(tmp_path)
    trainer = clone.folder / "conf" / "trainer" / "default.yaml"
    text, count = re.subn(r"(?m)^max_steps: \S+", "max_steps: 3", trainer.read_text())
    assert count == 1
    trainer.write_text(text)
    pocket = (clone.folder / "assets" / "pocket.dvc").read_bytes()

    clone.run(sys.executable, "-m", "dvc", "repro", timeout=600)
    outputs = clone.folder / "outputs"
    assert json.loads((outputs / "train" / "dvc" / "result.json").read_text())["steps"] == 3
    assert (outputs / "train" / "dvc" / "adapter" / "pytorch_lora_weights.safetensors").exists()
    generated = sorted((outputs / "inference" / "dvc" / "images" / "adapted").glob("*.png"))
    assert len(generated) == 8
    before = {path: path.stat().st_mtime_ns for path in generated}

    printed = clone.run(sys.executable, "-m", "dvc", "repro", timeout=600)
    for stage in ("train", "infer"):
        assert f"Stage '{stage}' didn't change, skipping" in printed
    assert {path: path.stat().st_mtime_ns for path in generated} == before

    # A changed configuration trains again, into the same folders.
    trainer.write_text(re.sub(r"(?m)^max_steps: 3", "max_steps: 2", text))
    clone.run(sys.executable, "-m", "dvc", "repro", timeout=600)
    assert json.loads((outputs / "train" / "dvc" / "result.json").read_text())["steps"] == 2
    assert (clone.folder / "assets" / "pocket.dvc").read_bytes() == pocket
