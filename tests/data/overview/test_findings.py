"""What is gathered for the pages."""

import shutil

from PIL import ImageEnhance

from src.data.overview.findings import HELD_OUT, TRAIN, size_counts
from src.data.records import Record
from tests.data.overview.places import count_words, find
from tests.data.pictures import noise_image, photo_folder, truncate


def by_name(found):
    return {image.name: image for image in found.images}


def test_a_sound_dataset(tmp_path):
    photo_folder(tmp_path, 10)
    found = find(tmp_path)
    assert [image.name for image in found.images] == [f"IMG_000{number}.png" for number in range(10)]
    assert (found.num_of_side(TRAIN), found.num_of_side(HELD_OUT)) == (8, 2)
    assert by_name(found)["IMG_0003.png"].captions == ["a photo of sksToy number 3"]
    assert by_name(found)["IMG_0003.png"].num_tokens == 6
    assert size_counts(found) == {(48, 40): 10}
    assert found.duplicates == []
    assert found.problems == []


def test_problems_stand_with_their_images(tmp_path):
    photo_folder(tmp_path / "set", 6)
    folder = tmp_path / "set"
    truncate(folder / "IMG_0001.png")
    (folder / "IMG_0002.png").unlink()
    (folder / "sub").mkdir()
    noise_image(9).save(folder / "sub" / "without.png")
    images = by_name(find(folder))
    assert list(images) == [*(f"IMG_000{number}.png" for number in (0, 1, 3, 4, 5)), "sub/without.png"]
    assert [name for name, image in images.items() if image.problems] == ["IMG_0001.png", "sub/without.png"]
    assert "cannot be read" in images["IMG_0001.png"].problems[0]
    assert (images["IMG_0001.png"].side, images["IMG_0001.png"].size) == (None, None)
    assert images["sub/without.png"].captions == []
    assert images["IMG_0000.png"].side is not None


def test_groups_of_duplicates(tmp_path):
    photo_folder(tmp_path, 8, captions=False)
    shutil.copy(tmp_path / "IMG_0000.png", tmp_path / "z.png")
    for number in range(2):
        ImageEnhance.Brightness(noise_image(1)).enhance(1.02 + number / 50).save(tmp_path / f"y{number}.png")
    found = find(tmp_path)
    named = [(group.is_exact, [image.name for image in group.images]) for group in found.duplicates]
    assert named == [(False, ["IMG_0001.png", "y0.png", "y1.png"]), (True, ["IMG_0000.png", "z.png"])]
    assert all(len({image.side for image in group.images}) == 1 for group in found.duplicates)
    assert [group.is_exact for group in find(tmp_path, near_duplicates="never").duplicates] == [True]


def test_captions_that_are_too_long(tmp_path):
    records = [Record(path=tmp_path / "a", caption="one two three four", id="a")]
    records.append(Record(path=tmp_path / "b", caption="one", id="b"))
    counted = count_words(records, most=3)
    assert counted.counts == [4, 1]
    assert [(lost.name, lost.num_tokens, lost.text) for lost in counted.lost] == [("a", 4, "four")]


def test_an_image_of_several_records_is_one_line(tmp_path):
    from src.data.overview.findings import gather
    from src.data.preflight import survey_dataset
    from src.data.records import ReadResult

    photo_folder(tmp_path, 1, captions=False)
    path = tmp_path / "IMG_0000.png"
    result = ReadResult(
        records=[Record(path=path, caption=f"a {'b ' * n}", id=f"1#{n}") for n in range(3)], problems=[]
    )
    report = survey_dataset(result, resolution=None)
    (image,) = gather(
        title="coco",
        folder=tmp_path,
        result=result,
        report=report,
        problems=[],
        warnings=[],
        split=None,
        has_near=True,
        tokens=count_words(result.records),
        training_size=None,
        buckets={},
    ).images
    assert image.captions == ["a ", "a b ", "a b b "]
    assert image.num_tokens == 3
