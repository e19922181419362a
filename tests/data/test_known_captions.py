"""Which images have a caption already, in every form there is."""

import pytest

from src.data.readers.known import known_captions
from src.errors import DatasetProblems, UserError
from tests.data.pictures import noise_image, photo_folder
from tests.data.test_subject import metadata, sidecars


def photos(folder, number):
    return photo_folder(folder, number, captions=False)


def test_none(tmp_path):
    known = known_captions(photos(tmp_path, 2), photos=True)
    assert list(known.without) == ["IMG_0000.png", "IMG_0001.png"]
    assert (known.listed, known.elsewhere, known.column, known.rival) == ({}, {}, "text", None)


def test_every_form_counts_the_one_that_is_read_first_wins(tmp_path):
    photos(tmp_path, 6)
    (tmp_path / "trip").mkdir()
    noise_image(9).save(tmp_path / "trip" / "a.png")
    (tmp_path / "captions.txt").write_text("IMG_0000.png|from captions.txt\nIMG_0001.jpg|from captions.txt\n")
    metadata(tmp_path, {"file_name": "IMG_0001.png", "caption": "listed"})
    metadata(tmp_path / "trip", {"file_name": "a.png", "caption": "listed below"})
    metadata(tmp_path, {"file_name": "IMG_0002.png", "text": "from csv"}, suffix="csv")
    sidecars(tmp_path, IMG_0000="beside", IMG_0002="beside", IMG_0003="beside")
    known = known_captions(tmp_path, photos=True)
    assert known.listed == {"IMG_0001.png": "listed", "trip/a.png": "listed below"}
    assert known.elsewhere == {
        "IMG_0000.png": "from captions.txt",
        "IMG_0002.png": "from csv",
        "IMG_0003.png": "beside",
    }
    assert list(known.without) == ["IMG_0004.png", "IMG_0005.png"]
    assert known.column == "caption"
    assert known.rival == "captions.txt"
    assert known.num_by_captioner == 0
    assert "taken for the photo 'IMG_0001.png'" in known.warnings[0]
    # An image folder's reader knows tables only.
    known = known_captions(tmp_path, photos=False)
    assert known.elsewhere == {"IMG_0002.png": "from csv"}
    assert known.rival is None


def test_the_column_that_is_configured(tmp_path):
    photos(tmp_path, 2)
    metadata(tmp_path, {"file_name": "IMG_0000.png", "text": "a", "alt": "b"})
    known = known_captions(tmp_path, photos=False, caption_column="alt")
    assert known.listed == {"IMG_0000.png": "b"}
    assert known.column == "alt"


def test_what_is_wrong_is_mended_first(tmp_path):
    photos(tmp_path, 3)
    metadata(tmp_path, {"file_name": "IMG_0000.png", "text": ""}, {"file_name": "gone.png", "text": "x"})
    (tmp_path / "captions.txt").write_text("IMG_0001.png\n")
    with pytest.raises(DatasetProblems, match="must be mended before more are written") as caught:
        known_captions(tmp_path, photos=True)
    assert len(caught.value.problems) == 3
    with pytest.raises(UserError, match="does not exist"):
        known_captions(tmp_path / "absent", photos=True)
