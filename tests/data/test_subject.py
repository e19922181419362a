"""Captions beside photos, in every form there is; captions.txt itself is tested in test_readers.py."""

import csv
import json
import os

import pytest

from src.data.readers.subject import read_subject
from src.errors import UserError
from tests.data.pictures import noise_image, photo_folder


def texts(result):
    return [str(problem) for problem in result.problems]


def captions(result):
    return {record.id: record.caption for record in result.records}


def sidecars(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.txt").write_text(content, encoding="utf-8")


def metadata(folder, *rows, suffix="jsonl", encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    with (folder / f"metadata.{suffix}").open("w", encoding=encoding, newline="") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def test_text_files_beside_the_photos(tmp_path):
    photo_folder(tmp_path, 3, captions=False, suffix="HEIC")
    sidecars(
        tmp_path, IMG_0000="a sksToy\n", img_0001="\ufeffsksToy\n in two lines", IMG_0002=" снимок sksToy "
    )
    (tmp_path / "._IMG_0000.txt").write_bytes(b"\0\x05\x16\x07")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert result.problems == []
    assert result.warnings == []
    assert captions(result) == {
        "IMG_0000.HEIC": "a sksToy",
        "IMG_0001.HEIC": "sksToy in two lines",
        "IMG_0002.HEIC": "снимок sksToy",
    }


def test_problems_of_text_files(tmp_path):
    photo_folder(tmp_path, 5, captions=False)
    noise_image(9).save(tmp_path / "IMG_0000.jpg")
    sidecars(tmp_path, IMG_0000="sksToy", IMG_0001="  ", notes="my notes", IMG_0003="x" * 20_000)
    (tmp_path / "IMG_0004.txt").write_bytes(b"sksToy\x00")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert captions(result) == {"IMG_0000.jpg": "sksToy", "IMG_0000.png": "sksToy"}
    found = texts(result)
    assert len(found) == 4
    for where, what in (
        ("IMG_0001.txt", "is empty"),
        ("IMG_0002.png", "Write one into IMG_0002.txt"),
        ("IMG_0003.txt", "20000 characters"),
        ("IMG_0004.txt", "no text"),
    ):
        assert any(line.startswith(where) and what in line for line in found), where
    assert result.warnings == ["Text files without a photo of their name, not read: notes.txt."]


def test_a_text_file_of_an_unknown_encoding(tmp_path):
    photo_folder(tmp_path, 2, captions=False)
    sidecars(tmp_path, IMG_0000="sksToy")
    (tmp_path / "IMG_0001.txt").write_bytes("игрушка".encode("cp1251"))
    assert texts(read_subject(path=tmp_path)) == [
        "IMG_0001.txt:1: is not UTF-8 (unknown encoding). Save the file as UTF-8."
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_metadata_of_hugging_face(tmp_path, suffix, encoding):
    photo_folder(tmp_path, 2, captions=False, suffix="HEIC")
    photo_folder(tmp_path / "trip", 1, captions=False)
    metadata(
        tmp_path,
        {"file_name": "IMG_0000.HEIC", "text": "sksToy, at home"},
        {"file_name": "./img_0001.jpg", "text": "sksToy в лесу"},
        {"file_name": "trip/IMG_0000.png", "text": "sksToy away"},
        suffix=suffix,
        encoding=encoding,
    )
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert result.problems == []
    assert list(captions(result).values()) == ["sksToy, at home", "sksToy в лесу", "sksToy away"]
    (warning,) = result.warnings
    assert "taken for the photo 'IMG_0001.HEIC'" in warning


def test_many_names_with_another_extension_are_one_line(tmp_path):
    photo_folder(tmp_path, 6)
    text = (tmp_path / "captions.txt").read_text()
    (tmp_path / "captions.txt").write_text(text.replace(".png", ".jpg"))
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert len(result.records) == 6
    (warning,) = result.warnings
    assert warning.startswith(
        "6 names differ from their photos' in letter case or extension: 'IMG_0000.jpg' (IMG_0000.png), "
    )
    assert warning.endswith("and 3 more.")


def test_metadata_with_several_caption_columns(tmp_path):
    photo_folder(tmp_path, 1, captions=False)
    metadata(tmp_path, {"file_name": "IMG_0000.png", "text": "a", "caption": "b"})
    (problem,) = texts(read_subject(path=tmp_path))
    assert "'text', 'caption'" in problem
    assert "dataset=imagefolder" in problem


def test_one_kind_of_file_counts_and_the_others_are_named(tmp_path):
    photo_folder(tmp_path, 1, captions=False)
    row = {"file_name": "IMG_0000.png"}
    sidecars(tmp_path, IMG_0000="beside")
    expected = [("beside", [])]
    metadata(tmp_path, {**row, "text": "in csv"}, suffix="csv")
    expected.append(("in csv", ["The captions are those of metadata.csv; not read: IMG_0000.txt."]))
    found = [read_subject(path=tmp_path)]
    metadata(tmp_path, {**row, "text": "in jsonl"})
    expected.append(
        ("in jsonl", ["The captions are those of metadata.jsonl; not read: metadata.csv, IMG_0000.txt."])
    )
    found.append(read_subject(path=tmp_path))
    sidecars(tmp_path, captions="IMG_0000.png|in captions.txt")
    warning = "The captions are those of captions.txt; not read: metadata.jsonl, metadata.csv, IMG_0000.txt."
    expected.append(("in captions.txt", [warning]))
    found.append(read_subject(path=tmp_path))
    assert [(result.records[0].caption, result.warnings) for result in found] == expected[1:]


def test_a_default_caption_with_unknown_fields(tmp_path):
    photo_folder(tmp_path, 1, captions=False)
    for caption in ("a {thing}", "a {placeholder", "{0}", "{placeholder.__class__}", "{placeholder!r}", " "):
        with pytest.raises(UserError, match=r"dataset\.reader\.default_caption"):
            read_subject(path=tmp_path, placeholder="sksToy", default_caption=caption)


def test_links_never_lead_outside(tmp_path):
    outside = tmp_path / "outside"
    photo_folder(outside, 2)
    folder = photo_folder(tmp_path / "photos", 2, captions=False)
    (folder / "stolen.png").symlink_to(outside / "IMG_0000.png")
    (folder / "folder").symlink_to(outside)
    (folder / "captions.txt").symlink_to(outside / "captions.txt")
    (folder / "again.png").symlink_to("IMG_0000.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "gone.png").symlink_to("absent.png")
    result = read_subject(path=folder, placeholder="sksToy")
    assert [record.id for record in result.records] == ["IMG_0000.png", "IMG_0001.png", "again.png"]
    assert sorted(problem.file for problem in result.problems) == ["captions.txt", "folder", "stolen.png"]
    assert all("leads outside the folder" in problem.message for problem in result.problems)
    for name in ("IMG_0000.png", "IMG_0001.png"):
        (folder / name).unlink()
    (folder / "captions.txt").unlink()
    with pytest.raises(UserError, match=r"holds no images \(stolen.png: is a link"):
        read_subject(path=folder, placeholder="sksToy")


def test_a_folder_that_is_a_link_itself(tmp_path):
    photo_folder(tmp_path / "photos", 2)
    (tmp_path / "link").symlink_to("photos")
    assert len(read_subject(path=tmp_path / "link").records) == 2


def test_file_names_that_are_no_text(tmp_path):
    photo_folder(tmp_path, 1, captions=False)
    for name in (b"\xff\xfe.png", b"two\nlines.png"):
        noise_image(1).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / os.fsdecode(name))
    problems = texts(read_subject(path=tmp_path, placeholder="sksToy"))
    assert len(problems) == 2
    assert all("Rename it" in problem and "\n" not in problem for problem in problems)


def test_a_subfolder_that_may_not_be_read(tmp_path, monkeypatch):
    photo_folder(tmp_path, 1, captions=False)
    photo_folder(tmp_path / "secret", 1, captions=False)
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert texts(read_subject(path=tmp_path, placeholder="sksToy")) == [
        "secret: cannot be listed (Permission denied). Change its permissions."
    ]
