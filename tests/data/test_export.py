"""Exports: what is written, that others read it, and that nothing is uploaded by accident."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.config.build import PROJECT_ROOT, check_config, register
from src.config.cli import Job
from src.data import push
from src.data.export import export_image_folder, file_names
from src.data.images import load_image
from src.data.readers.imagefolder import read_imagefolder
from src.data.records import Record
from src.data.split import Split
from src.errors import UserError
from src.run.prepare import run_prepare
from tests.data.pictures import noise_image, orientation_exif, photo_folder

WHITE = (255, 255, 255)


def export(folder: Path, split: Split, source: Path, **keywords) -> int:
    settings = {"name": "mine", "background": WHITE, "attribution": None, "progress": False, **keywords}
    return export_image_folder(split, folder, source=source, **settings)


def record(path: Path, caption: str = "a caption", id: str | None = None) -> Record:
    return Record(path=path, caption=caption, id=id or path.name)


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder with a turned photo that says where it was taken, and a transparent drawing."""
    folder = tmp_path / "source"
    folder.mkdir()
    exif = Image.Exif()
    exif.load(orientation_exif(6))
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    exif[0x0110] = "a telephone"
    noise_image(1, (60, 40)).save(folder / "IMG_1.HEIC", exif=exif.tobytes())
    noise_image(2, (60, 40)).save(folder / "IMG_1.jpg", exif=exif.tobytes())
    drawing = Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    drawing.save(folder / "drawing.png")
    return folder


def split_of(source: Path) -> Split:
    return Split(
        train=[record(source / "IMG_1.HEIC", "один", "trip/IMG_1.HEIC"), record(source / "IMG_1.jpg", "two")],
        validation=[record(source / "drawing.png", "three")],
        left_out=[record(source / "drawing.png", "four", "left out")],
    )


def test_images_as_training_sees_them(source, tmp_path):
    (source / "LICENSE.md").write_text("CC BY")
    (source / "ATTRIBUTION.txt").write_text("Somebody")
    (source / "licence.link.txt").symlink_to("/etc/passwd")
    assert export(tmp_path / "out", split_of(source), source, attribution="Somebody") == 3
    names = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert names == [
        "ATTRIBUTION.txt",
        "LICENSE.md",
        "README.md",
        "train/IMG_1.png",
        "train/metadata.jsonl",
        "train/trip/IMG_1.png",
        "validation/drawing.png",
        "validation/metadata.jsonl",
    ]
    for exported, original in (
        ("train/trip/IMG_1.png", "IMG_1.HEIC"),
        ("train/IMG_1.png", "IMG_1.jpg"),
        ("validation/drawing.png", "drawing.png"),
    ):
        pixels = np.asarray(load_image(tmp_path / "out" / exported))
        assert np.array_equal(pixels, np.asarray(load_image(source / original)))
        with Image.open(tmp_path / "out" / exported) as image:
            assert image.format == "PNG"
            assert not image.getexif()
            assert b"telephone" not in (tmp_path / "out" / exported).read_bytes()
    lines = (tmp_path / "out/train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"file_name": "trip/IMG_1.png", "text": "один"}
    card = (tmp_path / "out/README.md").read_text()
    assert "Somebody" in card
    assert "2 images in `train/`, 1 held out" in card


def test_attribution_that_is_no_file(source, tmp_path):
    export(tmp_path / "out", split_of(source), source, attribution="The government of Aragon")
    assert (tmp_path / "out/ATTRIBUTION.txt").read_text() == "The government of Aragon\n"


def test_it_can_be_read_again(source, tmp_path):
    export(tmp_path / "out", split_of(source), source)
    result = read_imagefolder(path=tmp_path / "out")
    assert result.problems == []
    assert {r.id: r.caption for r in result.records} == {
        "train/IMG_1.png": "two",
        "train/trip/IMG_1.png": "один",
        "validation/drawing.png": "three",
    }


def test_hugging_face_reads_both_sides(source, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    export(tmp_path / "out", split_of(source), source)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    assert {side: sorted(loaded[side]["text"]) for side in loaded} == {
        "train": ["two", "один"],
        "validation": ["three"],
    }
    assert loaded["train"][0]["image"].size == (40, 60)


def test_it_appears_whole_or_not_at_all(source, tmp_path):
    split = split_of(source)
    (source / "IMG_1.jpg").unlink()
    with pytest.raises(UserError, match=r"IMG_1\.jpg does not exist"):
        export(tmp_path / "out", split, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_replaced(source, tmp_path, kind):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    target = tmp_path / "out/precious" if kind == "file" else tmp_path / "out"
    with pytest.raises(UserError, match=r"dataset\.export=.*Name a new folder"):
        export(target, split_of(source), source)
    assert (tmp_path / "out/precious").read_text() == "x"


def test_an_empty_folder_behind_a_link_is_filled(source, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big")
    export(tmp_path / "out", split_of(source), source)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "big/train/metadata.jsonl").is_file()


NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)


@given(
    st.lists(
        st.one_of(NAMES, st.sampled_from(["a.png", "A.PNG", "a.jpg", "../a", "/etc/a", "x.png/a", "x"])),
        max_size=12,
    )
)
def test_names_are_unique_and_stay_inside(ids):
    names = file_names(ids)
    assert len({name.casefold() for name in names}) == len(ids)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    for name in names:
        assert not Path(name).is_absolute()
        assert not set(Path(name).parts) & {"..", "."}
        assert name not in folders
        assert (Path("/root") / name).resolve().is_relative_to("/root")
        assert not any(part.startswith(".") for part in Path(name).parts)


# The command


def prepare(tmp_path, *overrides):
    register()
    keys = [f"dataset.path={photo_folder(tmp_path / 'photos', 6)}", f"paths.cache_dir={tmp_path / 'cache'}"]
    keys += [f"paths.data_dir={tmp_path}", "model.path=nobody/nothing", "run.name=x", "model.dvc=null"]
    keys += ["metrics.dvc=null"]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = check_config(compose("prepare", overrides=[*keys, *overrides]))
    (tmp_path / "run").mkdir()
    job = Job(run_dir=tmp_path / "run", name="x", resolved={}, overrides=[], in_sweep=False)
    return run_prepare(config, job)


def test_the_command_exports(tmp_path):
    outcome = prepare(tmp_path, f"dataset.export={tmp_path / 'out'}")
    assert outcome.results["train"] == 5
    assert len(list((tmp_path / "out/train").glob("*.png"))) == 5
    assert len(list((tmp_path / "out/validation").glob("*.png"))) == 1
    assert str(tmp_path / "out") in (tmp_path / "run/prepare.log").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.push_to_hub=me/mine"], r"needs dataset\.export"),
        (["command=train", "dataset.export=x"], "for: sh train_run.sh -cn prepare"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, *overrides)


class RecordingHub:
    """Stands where the hub's client does and notes what would be sent."""

    def __init__(self, calls, *, answer):
        self.calls, self.answer = calls, answer

    def dataset_info(self, repository, *, timeout):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def create_repo(self, repository, **keywords):
        self.calls.append(("create_repo", repository, keywords))

    def upload_folder(self, **keywords):
        self.calls.append(
            ("upload_folder", sorted(p.name for p in Path(keywords["folder_path"]).iterdir()), keywords)
        )


def not_found() -> Exception:
    return push.RepositoryNotFoundError.__new__(push.RepositoryNotFoundError)


@pytest.fixture
def hub(monkeypatch):
    """Sets what the hub answers and returns the list of what was sent to it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    calls: list = []

    def answer_with(answer):
        monkeypatch.setattr(push, "HfApi", lambda: RecordingHub(calls, answer=answer))
        return calls

    return answer_with


def test_a_push_is_private(tmp_path, hub):
    calls = hub(not_found())
    prepare(tmp_path, f"dataset.export={tmp_path / 'out'}", "dataset.push_to_hub=me/mine")
    (created, repository, settings), (uploaded, files, keywords) = calls
    assert (created, repository, uploaded) == ("create_repo", "me/mine", "upload_folder")
    assert settings["private"] is True
    assert settings["repo_type"] == keywords["repo_type"] == "dataset"
    assert files == ["README.md", "train", "validation"]
    assert "hf_not_a_token" not in (tmp_path / "run/prepare.log").read_text()


def test_without_being_asked_nothing_is_sent(tmp_path, hub):
    calls = hub(not_found())
    prepare(tmp_path, f"dataset.export={tmp_path / 'out'}")
    assert calls == []


def refused(tmp_path, message, repository="me/mine"):
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, f"dataset.export={tmp_path / 'out'}", f"dataset.push_to_hub={repository}")
    assert time.monotonic() - started < 30
    assert not (tmp_path / "out").exists(), "refused before any work"


def test_a_dataset_that_everybody_sees_is_left_alone(tmp_path, hub):
    calls = hub(SimpleNamespace(private=False))
    refused(tmp_path, "everybody can see it")
    assert calls == []


def test_a_push_offline(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(tmp_path, "HF_HUB_OFFLINE is set")


def test_a_push_without_a_token(tmp_path, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(push, "get_token", lambda: None)
    refused(tmp_path, "HF_TOKEN.*hf auth login")


def test_a_push_to_what_is_no_id(tmp_path, hub):
    refused(tmp_path, "is no hub id", repository="mine")


def test_a_push_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    refused(tmp_path, "cannot be reached")


def test_an_upload_that_fails_keeps_the_export(tmp_path, hub):
    hub(not_found())

    def fail(**keywords):
        raise OSError("the line is dead")

    RecordingHub.upload_folder, kept = staticmethod(fail), RecordingHub.upload_folder
    try:
        with pytest.raises(UserError, match=r"the line is dead.*hf upload me/mine"):
            prepare(tmp_path, f"dataset.export={tmp_path / 'out'}", "dataset.push_to_hub=me/mine")
    finally:
        RecordingHub.upload_folder = kept
    assert (tmp_path / "out/train/metadata.jsonl").is_file()
