"""Runs as a user starts them, in a clone of this repository, and the same commands inside this process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from src.config.build import check_config, plain, register
from src.config.cli import CONFIG_DIR, Job
from src.config.composition import Root, compose_root
from src.config.schema import TrainConfig
from src.run.inference import run_inference
from src.run.prepare import run_prepare
from src.run.training import run_training

ROOT = Path(__file__).resolve().parents[2]
# Nothing is observed but the numbers, which go to metrics.jsonl.
ONLY_NUMBERS = ("callbacks.samples=null", "callbacks.machine_load=null", "logger=[]", "metrics=none")
UNOBSERVED = ("callbacks=none", "logger=[]", "metrics=none")


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A fresh clone, and a user who has nothing but it and a Python with the packages.

    Attributes:
        folder: of the clone; commands are typed there.
        home: the user's, empty: no credentials, no caches.
    """

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DARKROOM_PYTHON": sys.executable,
            # One thread layout and one device in all runs that are compared.
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, timeout: float = 280) -> str:
        """What it printed; it must exit with 0."""
        process = self.start(*command)
        try:
            printed = process.communicate(timeout=timeout)[0]
        finally:
            process.kill()
        assert process.returncode == 0, printed
        return printed

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)


def make_clone(folder: Path) -> Clone:
    """Clones what is committed."""
    home = folder / "home"
    home.mkdir(parents=True)
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(folder / "clone")],
        check=True,
        timeout=120,
    )
    return Clone(folder=folder / "clone", home=home)


def places(printed: str) -> dict[str, str]:
    """What the last lines say: `Images:   /there` by label."""
    lines = printed.splitlines()[-12:]
    pairs = (re.fullmatch(r"(\w[\w ()]*):\s+(.+)", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The commands `train`, `generate` and `prepare` without a process of their own.

    Attributes:
        root: a clone; data, models and caches are there.
        output_dir: where runs go.
    """

    root: Path
    output_dir: Path

    def train(self, name: str, *overrides: str) -> Path:
        return self._run("train", name, "trainer.device=cpu", *UNOBSERVED, *overrides)

    def train_observed(self, name: str, *overrides: str) -> Path:
        """With the callbacks, loggers and metrics that the overrides leave on."""
        return self._run("train", name, "trainer.device=cpu", *overrides)

    def prepare(self, name: str, *overrides: str) -> Path:
        return self._run("prepare", name, *overrides)

    def generate(self, name: str, *overrides: str) -> Path:
        return self._run("inference", name, "inference.device=cpu", "logger=[]", "metrics=none", *overrides)

    def _run(self, root: str, name: str, *overrides: str) -> Path:
        register()
        own = [f"run.name={name}", f"paths.root_dir={self.root}", f"paths.output_dir={self.output_dir}"]
        composed = compose_root(Root(name=root, folder=CONFIG_DIR), [*own, *overrides])
        checked = check_config(composed)
        kind = "train" if isinstance(checked, TrainConfig) else "inference"
        folder = self.output_dir / kind / name
        job = Job(
            run_dir=folder, name=name, resolved=plain(composed), overrides=list(overrides), in_sweep=False
        )
        command: Any = {"train": run_training, "prepare": run_prepare, "inference": run_inference}[root]
        assert command(checked, job).exit_code == 0
        return folder


def images(folder: Path) -> dict[str, np.ndarray]:
    """The pixels of every PNG in a folder by name."""
    found = {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}
    assert found, f"no images in {folder}"
    return found


def same_pixels(first: Path, second: Path) -> bool:
    """Whether two folders hold images of the same names and pixels."""
    one, other = images(first), images(second)
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def parameters(path: Path) -> dict[str, Any]:
    """What a PNG says of how it was made, read as any program would."""
    with Image.open(path) as image:
        return dict(json.loads(image.info["darkroom"]))


def scalars(run: Path) -> Iterable[tuple[str, int, float]]:
    """Name, step and value of everything in metrics.jsonl, in the order it was logged."""
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["kind"] == "scalars":
            for name, value in event["scalars"].items():
                yield name, event["step"], value


def assert_same_tensors(first: Path, second: Path) -> None:
    """Bit for bit, dtypes and names included; headers may differ."""
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not _same_bits(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, such as {different[0]}"


def _same_bits(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.equal(other))


def assert_same_checkpoint(first: Path, second: Path) -> None:
    """Weights, optimizer state, position, best step and the losses since the last log."""
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert_same_tensors(first / name, second / name)
    for name in ("state.json", "loop.json"):
        assert json.loads((first / name).read_text()) == json.loads((second / name).read_text())
