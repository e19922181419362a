"""Both programs as a user meets them, in a folder of their own: what the tests of bad input run.

The programs run whole, in this process: the real main with a real command line, from Hydra to the exit code.
What depends on the process itself (signals, start-up) runs in one of its own.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.config.cli import main
from tests.data.pictures import photo_folder

ROOT = Path(__file__).resolve().parents[2]
LORA = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


class Place:
    """A folder with photos, caches and outputs of its own, and the two programs working on it."""

    def __init__(self, folder: Path, model: Path, capfd: pytest.CaptureFixture[str] | None = None) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.photos = folder / "photos"
        self.model = model
        self._capfd = capfd
        if not self.photos.exists():
            photo_folder(self.photos, 6)

    def arguments(self, script: str) -> list[str]:
        """Small and quick; all that is not given, in the order of a command line: later ones win."""
        paths = [f"paths.{name}_dir={self.folder / name}" for name in ("cache", "data")]
        common = [*paths, f"paths.output_dir={self.out}", "logger=[]", "metrics=none", "run.name=mine"]
        if script == "inference":
            return [*common, "num_steps=1", "num_images=1", "width=32", "height=32", "prompts=a toy"]
        data = [f"dataset.path={self.photos}", "dataset.resolution=32"]
        model = [f"model.path={self.model}", "model.dvc=null", "adapter.rank=2"]
        return [*common, *data, *model, "callbacks=none", "trainer.max_steps=2"]

    def run(self, script: str, *overrides: str) -> Done:
        """Runs `python <script>.py` with these overrides, which win over the defaults above."""
        given = {override.split("=")[0] for override in overrides}
        defaults = [argument for argument in self.arguments(script) if argument.split("=")[0] not in given]
        program = load(script)
        names = ("train", "prepare", "inspect") if script == "train" else ("generate",)
        if self._capfd is not None:
            self._capfd.readouterr()
        arguments, environment = sys.argv, dict(os.environ)
        sys.argv = [f"{script}.py", *defaults, *overrides]
        try:
            main(script, {name: getattr(program, name) for name in names})
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            sys.argv = arguments
            os.environ.clear()
            os.environ.update(environment)
        out, err = ("", "") if self._capfd is None else self._capfd.readouterr()
        return Done(code, out, err)

    def start(
        self, *overrides: str, script: str = "train", launcher: Sequence[str] = ()
    ) -> "subprocess.Popen[str]":
        """The same as a process of its own, or of a launcher: Python's arguments before the script."""
        given = {override.split("=")[0] for override in overrides}
        defaults = [argument for argument in self.arguments(script) if argument.split("=")[0] not in given]
        return subprocess.Popen(
            [sys.executable, *launcher, str(ROOT / f"{script}.py"), *defaults, *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def files(self) -> dict[str, str]:
        """Every output file with a hash of its bytes, and every folder."""
        return {
            path.relative_to(self.out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "folder"
            for path in self.out.rglob("*")
        }


def load(script: str):
    spec = importlib.util.spec_from_file_location(f"program_{script}", ROOT / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_refused(done: Done, *parts: str, num_lines: int = 1) -> None:
    """Exit code, the lines of the message, what they name, and no traceback."""
    assert done.code != 0
    lines = done.err.strip().splitlines()
    assert len(lines) == num_lines, done.err
    assert lines[0].startswith("error: "), done.err
    for part in parts:
        assert part in done.err, done.err
    assert "Traceback" not in done.err + done.out
