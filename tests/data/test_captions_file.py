"""metadata.jsonl as a captioner writes it: nothing of a person's is touched, and no crash leaves half a line."""

import json

import pytest

from src.data import captions_file
from src.data.captions_file import open_captions_file
from src.data.readers.imagefolder import read_imagefolder
from src.data.readers.known import known_captions
from src.errors import UserError
from tests.data.pictures import photo_folder

BY_HAND = b'{"file_name": "IMG_0000.png", "text": "by hand",   "licence": "x"}'


def add(folder, number, caption="a caption", captioner="test"):
    with open_captions_file(folder) as file:
        file.add({f"IMG_{number:04d}.png": caption}, column="text", captioner=captioner)


def content(folder):
    return (folder / "metadata.jsonl").read_bytes()


@pytest.mark.parametrize("before", [None, b"", BY_HAND, BY_HAND + b"\n", b"\xef\xbb\xbf" + BY_HAND + b"\r\n"])
def test_lines_are_added_behind_what_is_there(tmp_path, before):
    folder = photo_folder(tmp_path, 3, captions=False)
    if before is not None:
        (folder / "metadata.jsonl").write_bytes(before)
    add(folder, 1, "дом")
    add(folder, 2, 'says "hi"')
    data = content(folder)
    assert data.startswith(before or b"")
    first, second = data.decode("utf-8-sig").splitlines()[-2:]
    assert json.loads(first) == {"file_name": "IMG_0001.png", "captioner": "test", "text": "дом"}
    assert json.loads(second)["text"] == 'says "hi"'
    known = known_captions(folder, photos=False)
    assert known.num_by_captioner == 2
    assert len(known.listed) == (3 if before else 2)
    assert set(known.without) == (set() if before else {"IMG_0000.png"})
    if before:
        result = read_imagefolder(path=folder)
        assert result.problems == []
        assert [record.caption for record in result.records] == ["by hand", "дом", 'says "hi"']


def test_every_place_where_a_crash_can_cut_a_line(tmp_path):
    folder = photo_folder(tmp_path, 2, captions=False)
    file = folder / "metadata.jsonl"
    file.write_bytes(BY_HAND + b"\n")
    start = len(content(folder))
    add(folder, 1, 'a "caption": дом')
    whole = content(folder)
    for cut in range(start, len(whole)):
        file.write_bytes(whole[:cut])
        with open_captions_file(folder):
            pass
        # Only the line break lacks at the last place: the line is whole.
        assert content(folder) == (whole[:start] if cut < len(whole) - 1 else whole[:cut])
        known = known_captions(folder, photos=False)
        assert list(known.without) == (["IMG_0001.png"] if cut < len(whole) - 1 else [])


@pytest.mark.parametrize(
    "tail", [b'{"file_name": "IMG_0001.png", "text": "half of wh', b"my notes", BY_HAND[:-1]]
)
def test_half_a_line_of_a_person_stays(tmp_path, tail):
    folder = photo_folder(tmp_path, 2, captions=False)
    (folder / "metadata.jsonl").write_bytes(BY_HAND + b"\n" + tail)
    with open_captions_file(folder):
        pass
    assert content(folder) == BY_HAND + b"\n" + tail
    with pytest.raises(UserError, match=r"metadata\.jsonl:2.*no valid JSON"):
        known_captions(folder, photos=False)


def test_a_disk_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    folder = photo_folder(tmp_path, 3, captions=False)
    add(folder, 0)
    before = content(folder)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(captions_file.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        add(folder, 1)
    assert content(folder) == before


def test_copies_of_a_person_come_whole(tmp_path, monkeypatch):
    folder = photo_folder(tmp_path, 3, captions=False)
    add(folder, 0)
    before = (folder / "metadata.jsonl").stat().st_ino
    add(folder, 1, "by hand", captioner=None)
    assert (folder / "metadata.jsonl").stat().st_ino != before  # another file in its place
    assert json.loads(content(folder).splitlines()[1]) == {"file_name": "IMG_0001.png", "text": "by hand"}
    assert known_captions(folder, photos=False).num_by_captioner == 1


def test_one_process_at_a_time(tmp_path):
    folder = photo_folder(tmp_path, 1, captions=False)
    with (
        open_captions_file(folder),
        pytest.raises(UserError, match="Another process is writing captions"),
        open_captions_file(folder),
    ):
        pass
    with open_captions_file(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["IMG_0000.png"]


def test_as_hugging_face_reads_it(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = photo_folder(tmp_path / "set", 2, captions=False)
    add(folder, 0, "by hand", captioner=None)
    add(folder, 1, "made")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(zip(rows["text"], rows["captioner"], strict=True)) == [("by hand", None), ("made", "test")]


def test_nothing_is_written_through_a_link_out_of_the_folder(tmp_path):
    folder = photo_folder(tmp_path / "set", 1, captions=False)
    (tmp_path / "other.jsonl").write_bytes(BY_HAND)
    (folder / "metadata.jsonl").symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match=r"metadata\.jsonl: is a link that leads outside the folder"):
        add(folder, 0)
    assert (tmp_path / "other.jsonl").read_bytes() == BY_HAND
