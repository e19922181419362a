"""Bad input, as a user meets it: one line that says what, where and how to fix it, and nothing is lost.

The programs run whole, in this process: the real main with a real command line, from Hydra to the exit code.
What depends on the process itself (signals, start-up) runs in one of its own.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.config.cli import main
from src.logs import run_log
from tests.data.pictures import noise_image, photo_folder, truncate

ROOT = Path(__file__).resolve().parents[1]
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
        program = _load(script)
        names = ("train", "prepare") if script == "train" else ("generate",)
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

    def start(self, *overrides: str, script: str = "train") -> "subprocess.Popen[str]":
        """The same as a process of its own."""
        given = {override.split("=")[0] for override in overrides}
        defaults = [argument for argument in self.arguments(script) if argument.split("=")[0] not in given]
        return subprocess.Popen(
            [sys.executable, str(ROOT / f"{script}.py"), *defaults, *overrides],
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


def _load(script: str):
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


@pytest.fixture
def place(tmp_path: Path, pocket_sd15: Path, capfd: pytest.CaptureFixture[str]) -> Place:
    """Before any training."""
    return Place(tmp_path, pocket_sd15, capfd)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, pocket_sd15: Path) -> Path:
    """A folder in which the run `mine` was trained."""
    folder = tmp_path_factory.mktemp("trained")
    assert Place(folder, pocket_sd15).run("train").code == 0
    return folder


@pytest.fixture
def trained(
    trained_once: Path, tmp_path: Path, pocket_sd15: Path, capfd: pytest.CaptureFixture[str]
) -> Place:
    """A copy of it to spoil."""
    shutil.copytree(trained_once, tmp_path / "place")
    return Place(tmp_path / "place", pocket_sd15, capfd)


# Datasets: (what is done to six sound photos, lines of the message, what it says)


def _remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_text(folder: Path) -> None:
    for photo in folder.glob("*.png"):
        photo.unlink()


def _photo_missing(folder: Path) -> None:
    (folder / "IMG_0001.png").unlink()


def _caption_missing(folder: Path) -> None:
    lines = (folder / "captions.txt").read_text().splitlines(keepends=True)
    (folder / "captions.txt").write_text("".join(lines[1:]))


def _unreadable(folder: Path) -> None:
    (folder / "IMG_0001.png").write_bytes(b"this is no image")


def _truncated(folder: Path) -> None:
    truncate(folder / "IMG_0001.png")


def _truncated_heic(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    noise_image(9, (64, 64)).save(folder / "IMG_0009.HEIC")
    truncate(folder / "IMG_0009.HEIC", 0.7)


def _no_separator(folder: Path) -> None:
    captions = folder / "captions.txt"
    captions.write_text(captions.read_text() + "IMG_0001.png a photo of sksToy\n")


def _one_photo(folder: Path) -> None:
    _empty(folder)
    photo_folder(folder, 1)


def _the_same_photo_twice(folder: Path) -> None:
    _one_photo(folder)
    shutil.copy(folder / "IMG_0000.png", folder / "IMG_0001.png")
    (folder / "captions.txt").unlink()


def _several(folder: Path) -> None:
    _photo_missing(folder)
    _no_separator(folder)
    truncate(folder / "IMG_0003.png")


@pytest.mark.parametrize(
    ("spoil", "num_lines", "parts"),
    [
        (_remove_all, 1, ["photos does not exist", "set dataset.path or dataset.url"]),
        (_empty, 1, ["photos is empty", "Put the images there"]),
        (_only_text, 1, ["photos holds no images", ".heic", "dataset.path"]),
        (_photo_missing, 2, ["1 problem", "captions.txt:2", "'IMG_0001.png' does not exist", "Restore it"]),
        (_caption_missing, 2, ["IMG_0000.png: has no caption", "Add the line IMG_0000.png|"]),
        (_unreadable, 2, ["IMG_0001.png: cannot be read as an image", "Replace or remove"]),
        (_truncated, 2, ["IMG_0001.png: cannot be read as an image", "truncated", "Replace or remove"]),
        (_truncated_heic, 2, ["IMG_0009.HEIC: cannot be read as an image", "Replace or remove"]),
        (_no_separator, 2, ["captions.txt:7", "is not filename|caption", "Put a |"]),
        (_one_photo, 2, ["1 different image;", "at least 2", "Add images"]),
        (_the_same_photo_twice, 2, ["1 different image;", "at least 2"]),
        (_several, 4, ["3 problems", "captions.txt:2", "captions.txt:7", "IMG_0003.png"]),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_dataset_with_faults(place: Place, spoil: Callable[[Path], None], num_lines, parts) -> None:
    spoil(place.photos)
    done = place.run("train")
    assert_refused(done, str(place.photos), *parts, num_lines=num_lines)
    assert place.files() == {}


def test_an_optimizer_that_cannot_be_made(place: Place) -> None:
    done = place.run("train", "optimizer.algorithm.weight_decay=-1")
    assert_refused(done, "optimizer.algorithm (torch.optim.AdamW)", "weight_decay")
    assert place.files() == {}


def test_data_alone_is_checked_just_the_same(place: Place) -> None:
    _several(place.photos)
    assert_refused(place.run("train", "command=prepare"), "3 problems", num_lines=4)
    assert place.files() == {}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_stps=3", ["trainer.max_stps", "trainer.max_steps", "conf/trainer/default.yaml"]),
        ("trainer.batch_size=many", ["trainer.batch_size=many", "Integer"]),
        ("adapter.rank=0", ["adapter.rank=0 must be at least 1"]),
        ("dataset.resolution=100", ["dataset.resolution=100", "multiple of 8", "96 and 104"]),
        ("dataset.resolution=[96,100]", ["dataset.resolution=[96, 100]", "multiple of 8", "96 and 104"]),
    ],
)
def test_a_wrong_setting(place: Place, override, parts) -> None:
    assert_refused(place.run("train", override), *parts)
    assert not place.out.exists()


def test_a_wrong_setting_of_a_sweep(place: Place) -> None:
    assert_refused(place.run("train", "-m", "trainer.seed=1,2", "adapter.rank=0"), "adapter.rank=0")
    assert not place.out.exists()


# Base models


def _sd2_folder(place: Place) -> str:
    folder = place.folder / "sd2"
    shutil.copytree(place.model, folder)
    for name, key in (("unet", "cross_attention_dim"), ("text_encoder", "hidden_size")):
        config = folder / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: 1024}))
    return str(folder)


def _without_unet(place: Place) -> str:
    folder = place.folder / "partial"
    shutil.copytree(place.model, folder)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    return str(folder)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (lambda _: "/nowhere/model", ["/nowhere/model does not exist", "model.path", "hub id"]),
        (lambda _: "nobody/not-in-the-cache", ["nobody/not-in-the-cache", "cannot be reached", "model.path"]),
        (_sd2_folder, ["sd2 is Stable Diffusion 2.x", "Supported: Stable Diffusion 1.x (1.5) and SDXL"]),
        (_without_unet, ["partial", "unet"]),
    ],
    ids=["missing", "not_in_the_cache", "sd2", "without_weights"],
)
def test_a_base_model_that_cannot_be_used(place: Place, model: Callable[[Place], str], parts) -> None:
    path = model(place)
    started = time.monotonic()
    done = place.run("train", f"model.path={path}")
    # Against hanging on a network that is not there.
    assert time.monotonic() - started < 60
    assert_refused(done, *parts)
    assert place.files() == {}


@pytest.mark.parametrize("given", ["adapter", f"adapter/{LORA}"])
def test_an_adapter_as_base_model(trained: Place, given) -> None:
    before = trained.files()
    done = trained.run("train", f"model.path={trained.out}/train/mine/{given}", "run.name=other")
    assert_refused(done, "is an adapter", "not a base model", "Supported:")
    assert trained.files() == before


def test_an_architecture_that_contradicts_the_model(place: Place) -> None:
    done = place.run("train", "model.architecture=sdxl")
    assert_refused(done, str(place.model), "is sd15, but model.architecture=sdxl", "model.architecture=auto")
    assert place.files() == {}
    assert not (place.folder / "data").exists(), "the split was made for a run that could not begin"


# Adapters at inference


def test_inference_before_any_training(place: Place) -> None:
    done = place.run("inference")
    assert_refused(done, f"No trained adapter found under {place.out}", "sh train_run.sh")
    assert place.files() == {}


def _missing_step(place: Place) -> str:
    return "7"


def _missing_file(place: Place) -> str:
    return str(place.folder / "nothing.safetensors")


def _cut_file(place: Place) -> str:
    file = place.folder / "cut.safetensors"
    file.write_bytes((place.out / "train/mine/adapter" / LORA).read_bytes()[:-1000])
    return str(file)


def _text_file(place: Place) -> str:
    file = place.folder / "text.safetensors"
    file.write_text("this is no adapter")
    return str(file)


def _empty_folder(place: Place) -> str:
    (place.folder / "empty").mkdir()
    return str(place.folder / "empty")


def _rotten_checkpoint(place: Place) -> str:
    weights = place.out / "train/mine/checkpoints/step_00000002/weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    return "2"


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        (_missing_step, ["adapter.weights=7", "Kept are the steps 2"]),
        (_missing_file, ["nothing.safetensors", "no such file", "best, last, a step"]),
        (_cut_file, ["cut.safetensors", "damaged", "again"]),
        (_text_file, ["text.safetensors is damaged", "no safetensors file", "again"]),
        (_empty_folder, ["empty holds no adapter", LORA, "adapter.weights"]),
        (_rotten_checkpoint, ["step_00000002 is damaged", "weights.safetensors", "adapter.weights"]),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_weights_that_are_not_there_or_damaged(
    trained: Place, weights: Callable[[Place], str], parts
) -> None:
    value = weights(trained)
    before = trained.files()
    assert_refused(trained.run("inference", f"adapter.weights={value}"), *parts)
    assert trained.files() == before


@pytest.mark.parametrize("weights", ["best", "adapter"])
def test_an_adapter_of_another_architecture(trained: Place, pocket_sdxl: Path, weights) -> None:
    given = weights if weights == "best" else str(trained.out / "train/mine/adapter")
    # Told from configurations alone: gigabytes of weights are not read for it, and these could not be.
    base = shutil.copytree(pocket_sdxl, trained.folder / "base")
    truncate(base / "unet" / "diffusion_pytorch_model.safetensors")
    before = trained.files()
    done = trained.run("inference", f"adapter.weights={given}", f"model.path={base}")
    assert_refused(done, "was trained for sd15", "the base model is sdxl", "model.path", "adapter.weights")
    assert trained.files() == before


def test_a_second_generation_of_one_name(trained: Place) -> None:
    assert trained.run("inference").code == 0
    before = trained.files()
    assert_refused(trained.run("inference", "seed=5"), "inference/mine already holds images", "run.name")
    assert trained.files() == before


# Disks and folders


@contextlib.contextmanager
def _small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A real file system of its own, where this machine lets us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights than these tests have")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_space_for_checkpoints_before_training(place: Place, monkeypatch) -> None:
    real = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 20))
    done = place.run("train")
    assert_refused(done, "Not enough disk space", str(place.out), "Free some", "paths.output_dir")
    assert place.files() == {}


def test_a_disk_that_fills_up_while_training(place: Place, monkeypatch) -> None:
    """The kernel refuses the write, whatever was free before; earlier checkpoints stay whole."""
    from src.training.checkpoint import find_damage

    with _small_disk(place.folder / "disk", "size=2m") as disk:
        place.out = disk
        real = shutil.disk_usage(ROOT)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))
        done = place.run(
            "train",
            "trainer.max_steps=60",
            "trainer.save_every=1",
            "trainer.keep_checkpoints=60",
            "trainer.validate_every=null",
        )
        kept = sorted((disk / "train/mine/checkpoints").iterdir())
        assert_refused(done, "could not be written", str(disk), "No space left", "trainer.resume=auto")
        assert kept
        assert [path.name for path in kept] == [f"step_{n:08d}" for n in range(1, len(kept) + 1)]
        assert [find_damage(path) for path in kept] == [None] * len(kept)


def test_a_full_disk_loses_nothing_of_a_finished_run(trained: Place) -> None:
    with _small_disk(trained.folder / "disk", "size=4m") as disk:
        shutil.copytree(trained.out, disk, dirs_exist_ok=True)
        trained.out = disk
        before = trained.files()
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        done = trained.run("train", "trainer.resume=auto", "trainer.max_steps=4")
        (disk / "ballast").unlink()
        assert_refused(done, "Not enough disk space", "Free some", num_lines=len(done.err.splitlines()))
        after = trained.files()
        # The log may say what happened.
        assert {**after, "train/mine/train.log": ""} == {**before, "train/mine/train.log": ""}


@pytest.mark.parametrize("script", ["train", "inference"])
def test_a_file_in_the_way_of_the_output(place: Place, script) -> None:
    (place.folder / "out").write_text("precious")
    done = place.run(script)
    assert_refused(done, str(place.folder / "out"), "Not a directory", "paths.output_dir")
    assert (place.folder / "out").read_text() == "precious"


@pytest.mark.parametrize("key", ["output", "cache", "data"])
def test_a_folder_that_cannot_be_written(place: Place, key) -> None:
    with _small_disk(place.folder / "disk", "ro") as disk:
        done = place.run("train", f"paths.{key}_dir={disk}/x")
        assert_refused(done, str(disk), "Read-only file system", f"paths.{key}_dir")
        assert place.files() == {}


@pytest.mark.parametrize("key", ["cache", "data"])
def test_a_file_in_the_way_of_a_cache(place: Place, key) -> None:
    (place.folder / key).write_text("precious")
    done = place.run("train")
    assert_refused(done, str(place.folder / key), f"paths.{key}_dir")
    assert (place.folder / key).read_text() == "precious"
    assert place.files() == {}


def test_no_space_for_the_cache(place: Place) -> None:
    with _small_disk(place.folder / "disk", "size=16k") as disk:
        done = place.run("train", f"paths.cache_dir={disk}")
        assert_refused(done, "Not enough disk space for the caches", str(disk), "paths.cache_dir")
        assert "0.0 MiB needed" not in done.err


def test_a_cache_that_fills_up(place: Place, monkeypatch) -> None:
    """The kernel refuses the write, whatever was free before."""
    with _small_disk(place.folder / "disk", "size=16k") as disk:
        real = shutil.disk_usage(ROOT)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))
        done = place.run("train", f"paths.cache_dir={disk}")
        assert_refused(done, str(disk), "o space left on the disk", "paths.cache_dir")
        # What a run leaves that failed at work: its log and its metrics, nothing that looks like a result.
        assert not {"config.yaml", "adapter", "checkpoints"} & {
            path.name for path in (place.out / "train/mine").iterdir()
        }


# Runs of one name


def test_a_second_run_of_one_name(trained: Place) -> None:
    before = trained.files()
    assert_refused(trained.run("train"), "already holds checkpoints", "trainer.resume=auto", "run.name")
    assert trained.files() == before
    # The same with any other fault: what is refused leaves a run's folder byte for byte.
    assert_refused(trained.run("train", "trainer.resume=auto", "dataset.path=/nowhere"), "/nowhere")
    assert trained.files() == before


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_an_adapter_whose_checkpoints_were_removed(trained: Place, resume) -> None:
    shutil.rmtree(trained.out / "train/mine/checkpoints")
    before = trained.files()
    done = trained.run("train", f"trainer.resume={resume}")
    assert_refused(done, "mine/adapter holds a trained adapter", "run.name")
    assert trained.files() == before


@pytest.mark.parametrize(
    ("override", "part"),
    [("trainer.seed=5", "trainer.seed (then 0, now 5)"), ("adapter.rank=3", "does not fit what is trained")],
)
def test_a_run_that_cannot_be_continued_keeps_its_records(trained: Place, override, part) -> None:
    """Its config.yaml says how to read its checkpoints: that of the refused attempt would be wrong."""
    before = trained.files()
    done = trained.run("train", "trainer.resume=auto", "trainer.max_steps=4", override)
    assert_refused(done, "step_00000002 cannot be continued", part, "run.name")
    after = trained.files()
    appended = {"train/mine/train.log", "train/mine/metrics.jsonl"}
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == appended
    assert trained.run("inference", "adapter.weights=2").code == 0


@pytest.mark.slow
def test_a_second_sweep_of_one_name(place: Place) -> None:
    sweep_of_two = ("-m", "trainer.seed=1,2", "trainer.max_steps=1")
    assert place.run("train", *sweep_of_two).code == 0
    before = place.files()
    assert_refused(place.run("train", *sweep_of_two), "sweeps/mine already holds a sweep", "run.name")
    assert place.files() == before
    assert place.run("train", *sweep_of_two, "trainer.resume=auto").code == 0


def test_two_runs_at_once_in_one_folder(place: Place, monkeypatch) -> None:
    """Two default runs that begin within one second have the same name."""
    monkeypatch.setattr("src.logs._PATIENCE", 0.3)
    with run_log(place.out / "train/mine/train.log"):
        before = place.files()
        done = place.run("train")
        assert_refused(done, "Another process is running in", "train/mine", "run.name")
        assert place.files() == before


# Ends that nobody asked for


def test_an_unexpected_error_saves_and_says_how_to_go_on(place: Place, monkeypatch) -> None:
    from src.training.optimizer_step import OptimizerStep

    take = OptimizerStep.take

    def fail_at_the_second(self, state, shares):
        if state.step == 1:
            raise RuntimeError("a defect")
        return take(self, state, shares)

    monkeypatch.setattr(OptimizerStep, "take", fail_at_the_second)
    done = place.run("train", "trainer.max_steps=3")
    assert done.code == 1
    assert "RuntimeError: a defect" in done.err
    assert done.err.strip().splitlines()[-1].startswith("error: Unexpected RuntimeError")
    assert "step 1 is saved" in done.out
    assert "run.name and trainer.resume=auto" in done.out
    monkeypatch.undo()
    assert place.run("train", "trainer.max_steps=3", "trainer.resume=auto").code == 0


def test_ctrl_c_before_training(place: Place, monkeypatch) -> None:
    """A signal at its lowest level: while photos are looked at, there is no loop to ask for an end."""
    from src.data import inspection

    def press(path):
        os.kill(os.getpid(), signal.SIGINT)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(inspection, "sha256_file", press)
    # A shell starts what it puts in the background with SIGINT ignored, and pytest may be there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = place.run("train")
    finally:
        signal.signal(signal.SIGINT, before)
    assert_refused(done, "Stopped by Ctrl-C")
    assert done.code == 130
    assert place.files() == {}


def _interrupt_when_saved(process: "subprocess.Popen[str]", checkpoints: Path) -> tuple[str, str]:
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if any(checkpoints.glob("*/step_*")) or any(checkpoints.glob("step_*")):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.1)
    return process.communicate(timeout=200)


@pytest.mark.slow
def test_ctrl_c_while_training(place: Place) -> None:
    process = place.start("trainer.max_steps=100000", "trainer.save_every=3", "trainer.validate_every=null")
    out, err = _interrupt_when_saved(process, place.out / "train/mine/checkpoints")
    assert process.returncode == 130, err
    assert "SIGINT: stopping after this step" in err
    assert "Traceback" not in out + err
    assert out.strip().splitlines()[-1].endswith("run.name=mine trainer.resume=auto")


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_not_one_job(place: Place) -> None:
    process = place.start(
        "-m",
        "trainer.seed=1,2",
        "trainer.max_steps=100000",
        "trainer.save_every=3",
        "trainer.validate_every=null",
    )
    out, err = _interrupt_when_saved(process, place.out / "sweeps/mine/0/checkpoints")
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert re.search(r"The sweep .*SIGINT", out)
    assert "trainer.resume=auto" in out.strip().splitlines()[-1]
    assert sorted(path.name for path in (place.out / "sweeps/mine").iterdir() if path.is_dir()) == ["0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "override", "part"),
    [
        ("train", "dataset.path=/nowhere", "/nowhere does not exist"),
        ("train", "paths.output_dir=/dev/null/out", "/dev/null/out"),
        ("train", "model.path=nobody/not-in-the-cache", "cannot be reached"),
        ("inference", "adapter.weights=7", "sh train_run.sh"),
    ],
)
def test_the_same_in_a_process_of_its_own(place: Place, script, override, part) -> None:
    """With all that start-up prints: still one line."""
    process = place.start(override, script=script)
    out, err = process.communicate(timeout=120)
    assert_refused(Done(process.returncode, out, err), part)
