"""`dataset.on_problem=skip`: what is named is left out, all else stays as if it had never been there."""

import os
import shutil
from itertools import islice

import pytest
from PIL import Image

from src.data import inspection
from src.data.inspection import inspect_files
from src.data.order import Position, micro_batches, pass_order
from src.data.preflight import check_dataset
from src.data.readers.arasaac import read_arasaac
from src.data.readers.coco import read_coco
from src.data.readers.imagefolder import read_imagefolder
from src.data.readers.subject import read_subject
from src.data.records import ReadResult, Record
from src.data.split import split_records
from src.errors import DatasetProblems
from tests.data.pictures import noise_image, photo_folder, truncate


def skip(result, **keywords):
    return check_dataset(result, resolution=(32, 32), on_problem="skip", **keywords)


def subject(folder, **keywords):
    return skip(read_subject(path=folder, placeholder="sksToy"), **keywords)


def names(report):
    return [record.id for record in report.records]


def add_lines(folder, *lines):
    with (folder / "captions.txt").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_what_problems_name_is_left_out(tmp_path):
    photo_folder(tmp_path, 9)
    truncate(tmp_path / "IMG_0001.png")
    (tmp_path / "IMG_0002.png").write_bytes(b"")
    (tmp_path / "IMG_0003.png").unlink()
    Image.new("1", (20_000, 15_000)).save(tmp_path / "IMG_0004.png")
    noise_image(20).save(tmp_path / "without_caption.png")
    add_lines(tmp_path, "no bar", "IMG_0005.png|a second caption")
    report = subject(tmp_path)
    assert names(report) == ["IMG_0000.png", "IMG_0006.png", "IMG_0007.png", "IMG_0008.png"]
    assert [problem.file for problem in report.problems] == [
        "captions.txt:4",
        "captions.txt:10",
        "captions.txt:11",
        "without_caption.png",
        "IMG_0001.png",
        "IMG_0002.png",
        "IMG_0004.png",
    ]
    assert report.hashes.keys() == report.sizes.keys() == report.group_keys.keys() == set(names(report))
    assert (report.num_records, report.num_images) == (4, 4)


def test_refusing_says_that_one_can_skip_where_one_can(tmp_path):
    photo_folder(tmp_path, 4)
    truncate(tmp_path / "IMG_0001.png")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    with pytest.raises(DatasetProblems, match=r"leave these images out with dataset\.on_problem=skip"):
        check_dataset(result, resolution=None)
    (tmp_path / "captions.txt").write_bytes(b"\xff\xfea\0")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    with pytest.raises(DatasetProblems) as caught:
        check_dataset(result, resolution=None)
    assert "on_problem" not in str(caught.value)


def test_no_photo_without_a_caption_hides_behind_another_problem(tmp_path):
    """A photo that has no caption and cannot be read either: both are said at once."""
    photo_folder(tmp_path, 3)
    (tmp_path / "broken.png").write_text("no image")
    assert [problem.file for problem in subject(tmp_path).problems] == [
        "broken.png",
        str(tmp_path / "broken.png"),
    ]


UNKNOWN = {
    "captions.txt": [b"\xff\xfeI\0M\0", b"IMG_0000.png|caf\xe9", b"", b"# nothing\n"],
    "metadata.jsonl": [b'{"file_name": "IMG_0000.png", "colour": "x"}\n', b"\xff\xfe", b"", b"no json\n"],
    "metadata.csv": [
        b'file_name,text\nIMG_0000.png,a\nIMG_0001.png,"' + b"x" * 140_000,
        b"name,text\na,b\n",
        b"\xe9",
    ],
}


@pytest.mark.parametrize(
    ("file", "data"), [(file, data) for file, contents in UNKNOWN.items() for data in contents]
)
def test_what_may_speak_of_any_image_is_refused(tmp_path, file, data):
    photo_folder(tmp_path, 4, captions=False)
    (tmp_path / file).write_bytes(data)
    truncate(tmp_path / "IMG_0003.png")
    with pytest.raises(DatasetProblems, match="skip cannot leave out") as caught:
        subject(tmp_path)
    assert all(file in problem for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["captions.txt", "metadata.jsonl", "IMG_0000.txt", "folder"])
def test_links_to_more_than_an_image_are_refused(tmp_path, name):
    """Without the captions behind the link every photo would get the default one."""
    outside = photo_folder(tmp_path / "outside", 1)
    photo_folder(tmp_path / "set", 4, captions=False)
    (tmp_path / "set" / name).symlink_to(outside / "captions.txt" if "." in name else outside)
    with pytest.raises(DatasetProblems, match=f"skip cannot leave out.*\n.*{name}: is a link"):
        subject(tmp_path / "set")


def test_a_link_to_one_image_is_left_out(tmp_path):
    outside = photo_folder(tmp_path / "outside", 1)
    photo_folder(tmp_path / "set", 4, captions=False)
    (tmp_path / "set" / "link.png").symlink_to(outside / "IMG_0000.png")
    report = subject(tmp_path / "set")
    assert len(report.records) == 4
    assert [problem.file for problem in report.problems] == ["link.png"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    photo_folder(tmp_path, 3, captions=False)
    (tmp_path / "sub").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetProblems, match="sub: cannot be listed"):
        subject(tmp_path)


def test_an_unreadable_text_file_costs_its_own_photo(tmp_path):
    photo_folder(tmp_path, 4, captions=False)
    for number in range(3):
        (tmp_path / f"IMG_000{number}.txt").write_text("a photo of sksToy")
    (tmp_path / "IMG_0001.txt").write_bytes(b"caf\xe9")
    report = subject(tmp_path)
    assert names(report) == ["IMG_0000.png", "IMG_0002.png"]
    assert [problem.file for problem in report.problems] == ["IMG_0001.txt:1", "IMG_0003.png"]


@pytest.mark.parametrize("num_sound", [0, 1])
def test_too_few_are_left(tmp_path, num_sound):
    photo_folder(tmp_path, 4)
    for number in range(num_sound, 4):
        truncate(tmp_path / f"IMG_000{number}.png")
    with pytest.raises(DatasetProblems, match=f"{num_sound} different image.*at least 2.* {4 - num_sound} "):
        subject(tmp_path)


def test_two_of_one_name(tmp_path):
    """Which of the two is meant is not guessed."""
    photo_folder(tmp_path, 4, captions=False)
    files = sorted(tmp_path.glob("*.png"))
    records = [
        Record(path=file, caption="a", id=id) for file, id in zip(files, ["x", "x", "y", "z"], strict=True)
    ]
    assert names(skip(ReadResult(records=records, problems=[]))) == ["y", "z"]


def test_other_readers(tmp_path):
    folder = photo_folder(tmp_path / "folder", 5, captions=False)
    rows = [f'{{"file_name": "IMG_000{number}.png", "text": "a"}}' for number in range(3)]
    rows += ['{"file_name": "IMG_0003.png", "text": 3}', "[", '{"file_name": "../x.png", "text": "b"}', ""]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    report = skip(read_imagefolder(path=folder))
    assert names(report) == ["IMG_0000.png", "IMG_0001.png", "IMG_0002.png"]
    assert len(report.problems) == 4

    pictograms = photo_folder(tmp_path / "pictograms", 4, captions=False)
    table = "file_name,title\nIMG_0000.png,a\nIMG_0001.png,b\nIMG_0002.png,\ngone.png,d\n"
    (pictograms / "metadata.csv").write_text(table)
    report = skip(read_arasaac(path=pictograms))
    assert names(report) == ["IMG_0000.png", "IMG_0001.png"]
    assert [len(problem.images) for problem in report.problems] == [1, 0]

    coco = tmp_path / "coco"
    photo_folder(coco / "val2017", 3, captions=False)
    images = [{"id": number, "file_name": f"IMG_000{number}.png"} for number in range(5)]
    captions = [{"id": number, "image_id": number, "caption": "a"} for number in (0, 1, 4)]
    (coco / "annotations").mkdir()
    (coco / "annotations" / "captions_val2017.json").write_text(
        str({"images": images, "annotations": captions}).replace("'", '"')
    )
    report = skip(read_coco(path=coco, split="val2017"))
    assert names(report) == ["0", "1"]
    assert len(report.problems) == 3


@pytest.mark.parametrize("broken", range(12))
def test_the_others_keep_side_and_order(tmp_path, broken):
    """As if the file had never been there; and with sides that are kept already, as they were."""
    photo_folder(tmp_path / "a", 12)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    split_file = tmp_path / "split.json"

    def split(report, file):
        return split_records(
            report.records,
            report.hashes,
            split_seed=0,
            validation_fraction=0.25,
            split_file=file,
            group_keys=report.group_keys,
        )

    before = split(subject(tmp_path / "a"), split_file)
    name = f"IMG_{broken:04d}.png"
    truncate(tmp_path / "a" / name)
    (tmp_path / "b" / name).unlink()
    lines = (tmp_path / "b" / "captions.txt").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "captions.txt").write_text("".join(lines[:broken] + lines[broken + 1 :]))
    skipped, absent = subject(tmp_path / "a"), subject(tmp_path / "b")
    fresh = split(skipped, None)
    ids = [record.id for record in fresh.train]
    assert ids == [record.id for record in split(absent, None).train]
    kept = split(skipped, split_file)
    assert [record.id for record in kept.train] == [record.id for record in before.train if record.id != name]
    assert pass_order(ids, seed=0, pass_number=3) == [
        id for id in pass_order([*ids, name], seed=0, pass_number=3) if id != name
    ]
    drawn = islice(micro_batches(ids, seed=0, global_batch_size=2, start=Position()), 20)
    assert all(name != draw.id for batch in drawn for draw in batch.draws)


def test_damage_inside_a_file_of_a_large_set_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 0)
    photo_folder(tmp_path, 4)
    noise_image(1, (400, 300)).save(tmp_path / "IMG_0001.png")
    path = tmp_path / "IMG_0001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert check_dataset(result, resolution=None).problems == []  # header and end are as they should be
    assert names(subject(tmp_path)) == ["IMG_0000.png", "IMG_0002.png", "IMG_0003.png"]


def test_skipping_does_not_look_for_other_near_duplicates(tmp_path, monkeypatch):
    """In a large set `auto` looks for none, also where skipping decodes it: sides must not depend on it."""
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 0)
    photo_folder(tmp_path, 4)
    noise_image(0, (96, 80)).save(tmp_path / "IMG_0001.png")
    assert len(set(subject(tmp_path).group_keys.values())) == 4
    assert len(set(subject(tmp_path, near_duplicates="always").group_keys.values())) == 3


def test_pipes_and_devices_are_not_read(tmp_path):
    """COCO's reader takes names from a listing; reading a pipe would never end."""
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/dev/zero")
    (tmp_path / "c.jpg").mkdir()
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")]
    seen = inspect_files(paths)
    assert all("is no file" in (seen[path].problem or "") for path in paths)
