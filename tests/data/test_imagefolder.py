"""Image folders of Hugging Face: names, columns, templates, and everything that can be wrong with them."""

import json

import pytest

from src.data.preflight import check_dataset
from src.data.readers.imagefolder import read_imagefolder
from src.errors import UserError
from tests.data.pictures import noise_image, photo_folder
from tests.data.test_subject import captions, metadata, texts


def images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(number).save(folder / name)
    return folder


def lines(folder, *content):
    (folder / "metadata.jsonl").write_bytes(b"\n".join(content))


def test_nested_folders_with_a_file_each(tmp_path):
    images(tmp_path, "a.png", "one/b.jpg", "one/deep/c.webp", "two/d.png")
    metadata(tmp_path, {"file_name": "a.png", "caption": "A"}, {"file_name": "one/b.jpg", "caption": "B"})
    metadata(tmp_path / "one", {"file_name": "deep/c.webp", "prompt": "C", "licence": "x"})
    metadata(tmp_path / "two", {"file_name": "d.png", "text": "D"})
    result = read_imagefolder(path=tmp_path)
    assert result.problems == []
    assert result.warnings == []
    assert captions(result) == {"a.png": "A", "one/b.jpg": "B", "one/deep/c.webp": "C", "two/d.png": "D"}


def test_a_template_for_a_style(tmp_path):
    images(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "a {curly} house"})
    result = read_imagefolder(path=tmp_path, caption_template="{caption}, in the style of sks")
    assert captions(result) == {"a.png": "a {curly} house, in the style of sks"}
    result = read_imagefolder(
        path=tmp_path, placeholder="sks", caption_template="{placeholder} art: {caption} {{x}}"
    )
    assert captions(result) == {"a.png": "sks art: a {curly} house {x}"}
    assert "placeholder sks" in read_imagefolder(path=tmp_path, placeholder="sks").warnings[0]


@pytest.mark.parametrize(
    "template",
    ["no field", "{caption} {title}", "{caption", "{}", "{caption!r}", "{caption:>9}", "{caption.x}", ""],
)
def test_templates_with_other_fields(tmp_path, template):
    with pytest.raises(UserError, match=r"caption_template=.*\{caption\}, \{placeholder\}"):
        read_imagefolder(path=tmp_path, caption_template=template)


def test_a_template_that_needs_a_placeholder(tmp_path):
    with pytest.raises(UserError, match=r"Set dataset\.placeholder"):
        read_imagefolder(path=tmp_path, caption_template="{placeholder} {caption}")


def test_without_metadata(tmp_path):
    photo_folder(tmp_path, 2)
    with pytest.raises(UserError, match=r"dataset=subject reads that.*default_caption"):
        read_imagefolder(path=tmp_path)
    result = read_imagefolder(path=tmp_path, default_caption="a drawing by {placeholder}", placeholder="sks")
    assert set(captions(result).values()) == {"a drawing by sks"}
    assert "every image gets" in result.warnings[0]
    with pytest.raises(UserError, match="default_caption"):
        read_imagefolder(path=tmp_path, default_caption="{caption}")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_caption_column(tmp_path, suffix):
    images(tmp_path, "a.png")
    row = {"file_name": "a.png", "Text": "one", "alt": "two"}
    metadata(tmp_path, row, suffix=suffix)
    assert captions(read_imagefolder(path=tmp_path)) == {"a.png": "one"}
    assert captions(read_imagefolder(path=tmp_path, caption_column="alt")) == {"a.png": "two"}
    for column in ("absent", "file_name"):
        (problem,) = texts(read_imagefolder(path=tmp_path, caption_column=column))
        assert f"has no column '{column}'. Its columns: 'Text', 'alt'" in problem
    metadata(tmp_path, {**row, "caption": "three"}, suffix=suffix)
    (problem,) = texts(read_imagefolder(path=tmp_path))
    assert "several columns" in problem
    assert "dataset.reader.caption_column" in problem
    metadata(tmp_path, {"file_name": "a.png", "label": "1"}, suffix=suffix)
    (problem,) = texts(read_imagefolder(path=tmp_path))
    assert "has no caption column" in problem


def test_several_captions_of_an_image(tmp_path):
    images(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "captions": ["first", "second"]})
    assert captions(read_imagefolder(path=tmp_path)) == {"a.png": "first"}


def test_every_problem_is_listed_with_its_line(tmp_path):
    folder = images(tmp_path / "set", *(f"{name}.png" for name in "abcdefghij"))
    noise_image(1).save(tmp_path / "secret.png")
    huge = json.dumps({"file_name": "i.png", "text": "x" * 3_000_000}).encode()
    lines(
        folder,
        b'\xef\xbb\xbf{"file_name": "a.png", "text": "A"}',
        b'{"file_name": "../secret.png", "text": "x"}',
        b'{"file_name": "/etc/passwd", "text": "x"}',
        rb'{"file_name": "..\\secret.png", "text": "x"}',
        rb'{"file_name": "C:\\secret.png", "text": "x"}',
        b'{"file_name": "sub/../../secret.png", "text": "x"}',
        b'{"file_name": "a.png", "text": "again"}',
        b'{"file_name": "b.png", "text": "  "}',
        b'{"file_name": "c.png"}',
        b'{"file_name": "d.png", "text": "cut',
        b'["e.png", "text"]',
        b'{"text": "nameless"}',
        b'{"file_name": 5, "text": "x"}',
        b'{"file_name": "f.png", "text": {"a": 1}}',
        rb'{"file_name": "g.png", "text": "\ud800"}',
        rb'{"file_name": "\ud800\u0000.png", "text": "x"}',
        b"[" * 100_000,
        huge,
        b'{"file_name": "gone.png", "text": "x"}',
        b"",
        b'{"file_name": "J.PNG", "text": "J"}\r',
    )
    result = read_imagefolder(path=folder)
    assert captions(result) == {"a.png": "A", "j.png": "J"}
    expected = {
        2: "leads outside the folder",
        3: "leads outside the folder",
        4: "leads outside the folder",
        5: "leads outside the folder",
        6: "leads outside the folder",
        7: "already",
        8: "is empty",
        9: "is empty",
        10: "no valid JSON",
        11: "is no object",
        12: "has no file_name",
        13: "has no file_name",
        14: "is no text",
        15: "no text",
        16: "does not exist",
        17: "no valid JSON",
        18: "characters",
        19: "does not exist",
    }
    found = {problem.file: problem.message for problem in result.problems}
    for number, message in expected.items():
        assert message in found[f"metadata.jsonl:{number}"], number
    without = {f"{name}.png" for name in "deh"}
    assert found.keys() == {*(f"metadata.jsonl:{number}" for number in expected), *without}
    assert all(len(str(problem)) < 300 and str(problem).isprintable() for problem in result.problems)


def test_problems_of_tables(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    file = tmp_path / "metadata.csv"
    file.write_text('file_name,text\na.png,one, two\nb.png,"one, two"\n\nc.png\n')
    assert [problem[:16] for problem in texts(read_imagefolder(path=tmp_path))] == [
        "metadata.csv:2: ",
        "metadata.csv:5: ",
        "a.png: has no ca",
    ]
    for content, part in (
        ("", "lists no images"),
        ("file_name,text\n", "lists no images"),
        ("image,text\na.png,x\n", "no column file_name"),
        (f"file_name,text\na.png,{'x' * 200_000}\n", "metadata.csv:2: cannot be parsed further"),
        ('file_name,text\na.png,"never closed\n', "b.png: has no caption"),
    ):
        file.write_text(content)
        assert part in texts(read_imagefolder(path=tmp_path))[0], content[:20]
    file.write_bytes("file_name,text\na.png,дом\n".encode("cp1251"))
    (problem,) = texts(read_imagefolder(path=tmp_path))
    assert problem.startswith("metadata.csv:2: is not UTF-8")
    file.write_bytes("file_name,text\na.png,x\n".encode("utf-16"))
    (problem,) = texts(read_imagefolder(path=tmp_path))
    assert "UTF-16" in problem


def test_tables_in_both_formats(tmp_path):
    images(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "csv"}, suffix="csv")
    metadata(tmp_path, {"file_name": "a.png", "text": "json"})
    result = read_imagefolder(path=tmp_path)
    assert captions(result) == {"a.png": "json"}
    assert result.warnings == ["The captions are those of metadata.jsonl; not read: metadata.csv."]


def test_a_name_says_less_than_the_content(tmp_path):
    images(tmp_path, "a.png", "b.png")
    noise_image(5).save(tmp_path / "b.png", format="JPEG")
    metadata(tmp_path, {"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"})
    report = check_dataset(read_imagefolder(path=tmp_path), resolution=(32, 32))
    assert any("b.png (JPEG)" in warning for warning in report.warnings)


def test_as_hugging_face_reads_it(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = images(tmp_path / "set", "one/a.png", "b.png")
    metadata(folder, {"file_name": "one/a.png", "text": "A"}, {"file_name": "b.png", "text": "B"})
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(theirs["text"]) == sorted(captions(read_imagefolder(path=folder)).values())
