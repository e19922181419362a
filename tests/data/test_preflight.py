import os

import pytest
from PIL import Image

from src.data import inspection
from src.data.images import load_image, read_header
from src.data.inspection import inspect_files
from src.data.preflight import check_dataset
from src.data.readers.subject import read_subject
from src.data.records import ReadResult, Record
from src.errors import DatasetProblems
from src.files import sha256_file
from tests.data.pictures import noise_image, photo_folder, save_turning_late, truncate


def report(folder, **keywords):
    result = read_subject(path=folder, placeholder="sksToy")
    return check_dataset(result, **{"resolution": (32, 32), **keywords})


def test_a_sound_dataset(tmp_path):
    photo_folder(tmp_path, 5)
    seen = report(tmp_path)
    assert (seen.num_records, seen.num_images) == (5, 5)
    assert seen.hashes["IMG_0003.png"] == sha256_file(tmp_path / "IMG_0003.png")
    assert seen.sizes["IMG_0003.png"] == (48, 40)
    assert seen.warnings == []


def test_all_problems_are_listed_at_once(tmp_path):
    photo_folder(tmp_path, 6)
    truncate(tmp_path / "IMG_0001.png")
    (tmp_path / "IMG_0002.png").write_bytes(b"")
    (tmp_path / "IMG_0003.png").write_text("no image at all")
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("gone.png|x\nno bar\n")
    with pytest.raises(DatasetProblems) as caught:
        report(tmp_path, resolution=(32, 32))
    problems = caught.value.problems
    assert len(problems) == 5
    for part in (
        "gone.png",
        "captions.txt:8",
        "IMG_0001.png",
        "IMG_0002.png: is empty",
        "IMG_0003.png",
    ):
        assert any(part in problem for problem in problems), part
    assert all("\n" not in problem for problem in problems)
    assert [problem[:12] for problem in problems if problem.startswith("IMG")] == [
        f"IMG_000{number}.png" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("num_photos", [1, 2])
def test_a_set_too_small_to_split(tmp_path, num_photos):
    photo_folder(tmp_path, num_photos)
    noise_image(0).save(tmp_path / f"IMG_000{num_photos - 1}.png")
    with pytest.raises(DatasetProblems, match="at least 2 are needed"):
        report(tmp_path)
    assert report(tmp_path, needs_split=False).num_images == 1


def test_no_records_is_too_small():
    with pytest.raises(DatasetProblems, match="at least 2"):
        check_dataset(ReadResult(records=[], problems=[]), resolution=(64, 64))


def test_ids_and_captions_are_checked(tmp_path):
    photo_folder(tmp_path, 2, captions=False)
    records = [
        Record(path=tmp_path / "IMG_0000.png", caption="a", id="x"),
        Record(path=tmp_path / "IMG_0001.png", caption=" ", id="x"),
    ]
    with pytest.raises(DatasetProblems) as caught:
        check_dataset(ReadResult(records=records, problems=[]), resolution=(64, 64))
    assert len(caught.value.problems) == 2


def test_warnings(tmp_path):
    photo_folder(tmp_path, 4)
    noise_image(0).save(tmp_path / "IMG_0001.png")
    noise_image(9).save(tmp_path / "IMG_0002.png", format="JPEG")
    seen = report(tmp_path, resolution=(64, 64))
    assert any("IMG_0002.png (JPEG)" in warning for warning in seen.warnings)
    assert any("IMG_0001.png (same as IMG_0000.png)" in warning for warning in seen.warnings)
    assert any("4 images are smaller than 64x64" in warning for warning in seen.warnings)


def test_without_a_known_resolution_no_image_is_small(tmp_path):
    photo_folder(tmp_path, 4)
    assert report(tmp_path, resolution=None).warnings == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "heic", "tiff"])
def test_large_sets_still_find_truncated_files(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 0)
    whole, cut = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    noise_image(0, (400, 300)).save(whole)
    noise_image(1, (400, 300)).save(cut)
    truncate(cut, 0.7)
    seen = inspect_files([whole, cut])
    assert seen[whole].problem is None
    assert seen[cut].problem is not None
    assert seen[whole].is_decoded == (suffix == "tiff")


def test_a_turn_that_stands_behind_the_pixels_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 0)
    path = tmp_path / "turned.png"
    save_turning_late(noise_image(0, (64, 32)), path)
    header = read_header(path)
    assert (header.width, header.height) == (64, 32), "only decoding tells"
    seen = inspect_files([path])[path]
    assert (seen.width, seen.height) == load_image(path).size == (32, 64)


def test_what_stands_behind_a_jpeg_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "FULL_DECODE_LIMIT", 0)
    path = tmp_path / "motion.jpg"
    noise_image(0).save(path)
    path.write_bytes(path.read_bytes() + bytes(100_000))
    assert inspect_files([path])[path].problem is None


def test_sound_files_are_remembered_until_they_change(tmp_path):
    photo_folder(tmp_path, 2, captions=False)
    first, second = sorted(tmp_path.glob("*.png"))
    memo = tmp_path / "memo.json"
    seen = inspect_files([first, second], memo_file=memo)
    # Same size and time: the memo is believed, which shows that the file was not read.
    status = first.stat()
    data = first.read_bytes()
    first.write_bytes(bytes(len(data)))
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert inspect_files([first, second], memo_file=memo) == seen
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert inspect_files([first, second], memo_file=memo)[first].problem is not None
    first.write_bytes(data)
    memo.write_text('{"version": 1, "files": {"a": {"x": 1}}}')
    assert inspect_files([first, second], memo_file=memo) == seen


def test_a_bomb_is_a_problem_and_not_a_crash(tmp_path):
    Image.new("1", (20_000, 15_000)).save(tmp_path / "bomb.png")
    noise_image(0).save(tmp_path / "a.png")
    with pytest.raises(DatasetProblems, match=r"bomb\.png: is too large to decode safely"):
        report(tmp_path)
