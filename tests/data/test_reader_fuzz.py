"""Folders as no one would make them: nothing but UserError comes out, and nothing outside is read or written."""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.preflight import check_dataset
from src.data.readers.common import scan
from src.data.readers.imagefolder import read_imagefolder
from src.data.readers.subject import read_subject
from src.data.readers.templates import check_template, fill
from src.data.records import ReadResult
from src.data.sources.huggingface_rows import _caption, _write_image
from src.errors import UserError
from tests.data.pictures import noise_image

_file = io.BytesIO()
noise_image(1, (8, 8)).save(_file, "PNG")
PICTURE = _file.getvalue()

ANY = st.text(max_size=20)
NAMES = st.sampled_from(
    [
        "a.png",
        "A.PNG",
        "b.jpg",
        "b.png",
        "sub/c.webp",
        "sub/deep/d.heic",
        "é.png",
        "e\u0301.png",
        "x y.tif",
        "n|m.png",
    ]
)
# As files name them: also what is not there, and what leads outside.
WRITTEN = st.one_of(
    NAMES,
    st.sampled_from(
        [
            "../outside/secret.png",
            "/etc/passwd",
            "..\\outside\\secret.png",
            "C:\\x.png",
            "sub/../a.png",
            "./a.png",
        ]
    ),
    st.sampled_from(
        ["", ".", "..", "/", "a.png/", "\0", "\ud800.png", "c.webp", "a", "*", "~/x.png", "a.png\n"]
    ),
    ANY,
)
CAPTIONS = st.one_of(
    ANY, st.sampled_from(["sksToy", " ", "\ufeff", "a|b", '"', "x" * 20_000, "\u2028", "\0", "{caption}"])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CAPTIONS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY, inner, max_size=3)),
    max_leaves=5,
)
KEYS = st.sampled_from(["file_name", "text", "caption", "", "FILE_NAME", "Text", "x"])
ROWS = st.fixed_dictionaries(
    {}, optional={"file_name": WRITTEN, "text": st.one_of(CAPTIONS, VALUES), "x": VALUES}
)


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


LINES = st.one_of(
    st.builds(lambda name, caption: as_bytes(f"{name}|{caption}"), WRITTEN, CAPTIONS),
    st.builds(lambda row: json.dumps(row).encode(), ROWS),
    st.builds(lambda row: json.dumps(row).encode(), st.one_of(VALUES, st.dictionaries(KEYS, VALUES))),
    st.builds(lambda cells: as_bytes(",".join(cells)), st.lists(st.one_of(WRITTEN, CAPTIONS), max_size=4)),
    st.builds(as_bytes, ANY),
    st.sampled_from(
        [b"#", b"", b"file_name,text", b'"', b"[" * 5000, b'{"a":' * 3000, b"1" * 5000, b"\xff\xfe"]
    ),
    st.binary(max_size=30),
)
HEADS = st.sampled_from(
    [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"file_name,text\n", b'{"file_name": "a.png", "text": "a"}\n']
)
TEXTS = st.builds(
    lambda head, lines, end: head + end.join(lines),
    HEADS,
    st.lists(LINES, max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
TABLES = st.sampled_from(
    [
        "captions.txt",
        "metadata.jsonl",
        "metadata.csv",
        "sub/metadata.jsonl",
        "sub/deep/metadata.csv",
        "a.txt",
        "sub/c.txt",
    ]
)
LINKS = st.sampled_from(["a.png", "captions.txt", "metadata.jsonl", "link.png", "a.txt", "sub"])
TARGETS = st.sampled_from(
    [
        "../outside/secret.png",
        "../outside",
        "../outside/captions.txt",
        "/etc/passwd",
        ".",
        "link.png",
        "absent",
    ]
)
FOLDERS = st.fixed_dictionaries(
    {
        "images": st.dictionaries(NAMES, st.one_of(st.just(PICTURE), st.binary(max_size=40)), max_size=5),
        "texts": st.dictionaries(TABLES, TEXTS, max_size=3),
        "links": st.dictionaries(LINKS, TARGETS, max_size=2),
    }
)

OPENED: list[str] = []
WATCHING: list[bool] = []


def _watch(event: str, arguments: tuple) -> None:
    if WATCHING and event in {"open", "os.listdir", "os.scandir"} and isinstance(arguments[0], str | bytes):
        OPENED.append(
            arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
        )


sys.addaudithook(_watch)  # it cannot be taken away again, so it looks at a switch


@contextlib.contextmanager
def watched():
    OPENED.clear()
    WATCHING.append(True)
    try:
        yield OPENED
    finally:
        WATCHING.clear()


@contextlib.contextmanager
def made(content):
    """The folder, beside one that nobody may look into."""
    with tempfile.TemporaryDirectory() as place:
        outside, folder = Path(place, "outside"), Path(place, "set")
        outside.mkdir()
        (outside / "secret.png").write_bytes(PICTURE)
        (outside / "captions.txt").write_text("secret.png|secret")
        files = {**content["images"], **content["texts"]}
        for name, data in files.items():
            with contextlib.suppress(OSError):  # a name that another kind of file has taken
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        folder.mkdir(exist_ok=True)
        for name, target in content["links"].items():
            with contextlib.suppress(OSError):
                (folder / name).symlink_to(target)
        yield folder


def snapshot(folder: Path) -> dict[str, bytes | str]:
    return {
        path.as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in sorted(folder.parent.rglob("*"))
    }


def read(reader, folder: Path) -> None:
    result = look(reader, folder)
    if result is None:
        return
    assert len({record.id for record in result.records}) == len(result.records)
    with contextlib.suppress(UserError):
        report = check_dataset(result, resolution=(8, 8), needs_split=False, on_problem="skip")
        kept = {record.path for record in report.records}
        left_out = {image for problem in report.problems for image in problem.images}
        # None gets lost without a word, none is both.
        assert kept | left_out == set(scan(folder).images.values())
        assert not kept & left_out


def look(reader, folder: Path) -> ReadResult | None:
    """What a reader finds, which is looked at from all sides; None if it refuses the folder."""
    before = snapshot(folder)
    result = None
    with watched(), contextlib.suppress(UserError):
        result = reader(folder)
    seen = [name for name in OPENED if "outside" in name or name == "/etc/passwd"]
    assert seen == []
    assert snapshot(folder) == before
    if result is None:
        return None
    root = folder.resolve()
    for record in result.records:
        assert record.path.resolve().is_relative_to(root)
        assert record.caption == " ".join(record.caption.split()) != ""
        record.caption.encode()
        record.id.encode()
    for problem in result.problems:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 2000
        str(problem).encode()
    with contextlib.suppress(UserError):
        check_dataset(result, resolution=(8, 8))
    return result


FEW = settings(max_examples=150, deadline=None)


@FEW
@given(content=FOLDERS, placeholder=st.sampled_from([None, "sksToy"]))
def test_subject(content, placeholder):
    with made(content) as folder:
        read(lambda path: read_subject(path=path, placeholder=placeholder), folder)


@FEW
@given(
    content=FOLDERS, column=st.sampled_from([None, "text", "x"]), caption=st.sampled_from([None, "a drawing"])
)
def test_imagefolder(content, column, caption):
    with made(content) as folder:
        read(
            lambda path: read_imagefolder(
                path=path, caption_column=column, default_caption=caption, caption_template="{caption} x"
            ),
            folder,
        )


@FEW
@given(template=st.one_of(ANY, st.text("{}caption!:.[]0 ", max_size=30)), caption=CAPTIONS)
def test_templates(template, caption):
    with contextlib.suppress(UserError):
        check_template("key", template, required=frozenset({"caption"}), allowed=frozenset({"placeholder"}))
        fill("key", template, {"caption": caption, "placeholder": "sks"})


CELLS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {
            "bytes": st.one_of(st.none(), st.binary(max_size=40), st.just(PICTURE)),
            "path": st.one_of(
                st.none(), st.sampled_from(["/etc/passwd", "../outside/secret.png", "\0", ""]), ANY
            ),
        }
    ),
)


@FEW
@given(cell=CELLS, caption=VALUES)
def test_rows_of_hugging_face(cell, caption):
    assert isinstance(_caption(caption, ["one", "two"]), str)
    with made({"images": {}, "texts": {}, "links": {}}) as folder:
        before = snapshot(folder)
        try:
            written = _write_image(cell, folder / "00000000", [folder])
        except UserError:
            assert snapshot(folder) == before
        else:
            assert written.read_bytes() == PICTURE
            written.unlink()
            assert snapshot(folder) == before


def test_a_table_of_many_long_lines_takes_no_time(tmp_path):
    """10 MiB in one line, and 50,000 wrong ones."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "captions.txt").write_bytes(b"a.png|" + b"x" * (10 << 20) + b"\n" + b"no bar\n" * 50_000)
    result = read_subject(path=tmp_path)
    assert len(result.problems) == 50_001
    shutil.copy(tmp_path / "captions.txt", tmp_path / "metadata.csv")
    assert read_imagefolder(path=tmp_path).records == []


def test_the_watch_sees_what_is_opened(tmp_path):
    (tmp_path / "outside").write_text("x")
    with watched():
        (tmp_path / "outside").read_text()
    assert any("outside" in name for name in OPENED)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_files_that_are_none(tmp_path, kind):
    """A pipe that nobody writes to would wait for ever."""
    import os

    (tmp_path / "a.png").write_bytes(PICTURE)
    for name in ("captions.txt", "metadata.jsonl", "a.txt", "b.png"):
        os.mkfifo(tmp_path / name) if kind == "fifo" else (tmp_path / name).mkdir()
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert [record.id for record in result.records] == ["a.png"]
