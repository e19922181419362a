import csv
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.data.readers.arasaac import read_arasaac
from src.data.readers.coco import read_coco
from src.data.readers.common import read_attribution
from src.data.readers.subject import read_subject
from src.errors import UserError
from tests.data.pictures import noise_image, photo_folder


def write_captions(folder, *lines, encoding="utf-8"):
    (folder / "captions.txt").write_bytes("\n".join(lines).encode(encoding))


def texts(result):
    return [str(problem) for problem in result.problems]


def test_photos_with_captions(tmp_path):
    photo_folder(tmp_path, 3, suffix="HEIC")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert result.problems == []
    assert result.warnings == []
    assert [record.id for record in result.records] == [f"IMG_000{n}.HEIC" for n in range(3)]
    assert result.records[1].caption == "a photo of sksToy number 1"
    assert result.records[1].path == tmp_path / "IMG_0001.HEIC"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_captions_with_comments_blank_lines_bars_and_other_alphabets(tmp_path, encoding):
    photo_folder(tmp_path, 1, captions=False)
    noise_image(1).save(tmp_path / "мой файл.png")
    lines = ["# a comment", "", "IMG_0000.png | sksToy | on a bar ", "мой файл.png|снимки sksToy", ""]
    (tmp_path / "captions.txt").write_bytes("\r\n".join(lines).encode(encoding))
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert result.problems == []
    assert {record.id: record.caption for record in result.records} == {
        "IMG_0000.png": "sksToy | on a bar",
        "мой файл.png": "снимки sksToy",
    }


def test_rubbish_beside_the_photos_is_ignored(tmp_path):
    photo_folder(tmp_path / "in", 2, captions=False)
    for name in (
        "._IMG_0000.png",
        ".hidden.jpg",
        "Thumbs.db",
        "__MACOSX/in.png",
        "movie.mov",
        ".trash/a.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert [record.id for record in result.records] == ["in/IMG_0000.png", "in/IMG_0001.png"]


def test_default_caption(tmp_path):
    photo_folder(tmp_path, 2, captions=False)
    (tmp_path / "caption.txt").write_text("IMG_0000.png|x")
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert {record.caption for record in result.records} == {"a photo of sksToy"}
    assert "caption.txt" in result.warnings[0]
    assert read_subject(path=tmp_path, default_caption="a drawing").records[0].caption == "a drawing"
    with pytest.raises(UserError, match=r"dataset\.placeholder"):
        read_subject(path=tmp_path, placeholder=None)


def test_every_kind_of_caption_problem_is_listed_with_its_line(tmp_path):
    photo_folder(tmp_path, 4, captions=False)
    write_captions(
        tmp_path,
        "IMG_0000.png|one",
        "no bar here",
        "gone.png|a missing photo",
        "IMG_0000.png|again",
        "IMG_0001.png|  ",
        "|nameless",
        "IMG_0002.png|two",
    )
    result = read_subject(path=tmp_path, placeholder=None)
    found = texts(result)
    assert len(found) == 6
    expected = [
        ("captions.txt:2", "filename|caption"),
        ("captions.txt:3", "'gone.png' does not exist"),
        ("captions.txt:4", "in captions.txt:1 already"),
        ("captions.txt:5", "is empty"),
        ("captions.txt:6", "filename|caption"),
        ("IMG_0003.png", "has no caption"),
    ]
    for line, (where, what) in zip(found, expected, strict=True):
        assert line.startswith(where)
        assert what in line
    assert [record.id for record in result.records] == ["IMG_0000.png", "IMG_0002.png"]


def test_names_of_other_case_or_extension_match_while_unique(tmp_path):
    photo_folder(tmp_path, 2, captions=False, suffix="HEIC")
    noise_image(2).save(tmp_path / "b.jpg")
    noise_image(3).save(tmp_path / "b.png")
    write_captions(tmp_path, "img_0000.heic|one", "IMG_0001.jpg|two", "b.webp|which?", "b.jpg|x", "b.png|y")
    result = read_subject(path=tmp_path)
    assert len(result.warnings) == 2
    assert [str(problem)[:14] for problem in result.problems] == ["captions.txt:3"]
    assert {record.caption for record in result.records} == {"one", "two", "x", "y"}


@pytest.mark.parametrize(("encoding", "where"), [("utf-16", "captions.txt:"), ("cp1251", "captions.txt:2:")])
def test_unknown_encodings_are_named(tmp_path, encoding, where):
    photo_folder(tmp_path, 1, captions=False)
    write_captions(tmp_path, "# x", "IMG_0000.png|игрушка", encoding=encoding)
    (problem,) = texts(read_subject(path=tmp_path))
    assert problem.startswith(where)
    assert "UTF-8" in problem


def test_captions_file_without_captions(tmp_path):
    photo_folder(tmp_path, 1, captions=False)
    write_captions(tmp_path, "# nothing", "")
    (problem,) = texts(read_subject(path=tmp_path))
    assert "holds no captions" in problem


def test_missing_placeholders_are_warned_about(tmp_path):
    photo_folder(tmp_path, 2)
    assert (
        "do not contain the placeholder other" in read_subject(path=tmp_path, placeholder="other").warnings[0]
    )


@pytest.mark.parametrize("reader", [read_subject, read_arasaac])
def test_missing_and_empty_folders(tmp_path, reader):
    with pytest.raises(UserError, match=r"does not exist.*dataset\.path"):
        reader(path=tmp_path / "absent", placeholder="x")
    with pytest.raises(UserError, match="holds no images"):
        reader(path=tmp_path, placeholder="x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        reader(path=tmp_path / "file", placeholder="x")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200) | st.text(alphabet="IMG_0.pn|\n# é/\\", max_size=80).map(str.encode))
def test_no_captions_file_crashes_the_reader(tmp_path, data):
    photo_folder(tmp_path, 2, captions=False)
    (tmp_path / "captions.txt").write_bytes(data)
    result = read_subject(path=tmp_path, placeholder="sksToy")
    assert result.problems or len(result.records) == 2
    assert all(record.caption and record.path.parent == tmp_path for record in result.records)


def arasaac_table(folder, suffix="csv"):
    folder.mkdir(exist_ok=True)
    rows = [
        ("grandfather", "grandfather|elderly family member", "family", "1.png"),
        ("to eat", "", "feeding|verb", ""),
    ]
    noise_image(0).save(folder / "1.png")
    noise_image(1).save(folder / "To_Eat.png")
    with (folder / f"metadata.{suffix}").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == "tsv" else ",")
        writer.writerow(["title", "keywords", "categories", "file_name"])
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize(
    ("style", "caption"),
    [
        ("simple", "grandfather"),
        ("descriptive", "a pictogram of grandfather, elderly family member"),
        ("template", "ARASAAC pictogram showing grandfather"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_arasaac_table(tmp_path, suffix, style, caption):
    result = read_arasaac(path=arasaac_table(tmp_path, suffix), caption_style=style)
    assert result.problems == []
    assert result.records[0].caption == caption
    assert result.records[0].path.name == "1.png"
    assert result.records[1].path.name == "To_Eat.png"


def test_arasaac_api_items(tmp_path):
    items = [
        {
            "_id": 2239,
            "keywords": [{"keyword": "grandfather", "type": 2}, {"keyword": "grandpa"}],
            "categories": ["family"],
            "violence": False,
            "sex": False,
        },
        {"_id": 7, "keywords": [{"keyword": "gun"}], "violence": True},
        {"_id": 8, "keywords": [{"keyword": "house"}], "tags": ["building"], "categories": []},
        {"_id": 9, "keywords": [{"keyword": "lost"}]},
        {"_id": 10, "keywords": []},
    ]
    (tmp_path / "pictograms.json").write_text(json.dumps(items))
    for name in ("2239/2239_2500.png", "2239/2239_500.png", "7.png", "8.png", "10.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise_image(1).save(tmp_path / name)
    result = read_arasaac(path=tmp_path, caption_style="descriptive", placeholder="sksPicto")
    assert {record.id: record.caption for record in result.records} == {
        "2239": "sksPicto a pictogram of grandfather, grandpa",
        "8": "sksPicto a pictogram of house, building",
    }
    assert result.records[0].path == tmp_path / "2239/2239_500.png"
    assert "1 pictograms flagged" in result.warnings[0]
    assert [str(problem)[:18] for problem in result.problems] == ["pictograms.json[3]", "pictograms.json[4]"]


def test_no_more_than_so_many_and_always_the_same(tmp_path):
    items = [{"_id": number, "keywords": [f"word {number}"]} for number in range(1, 13)]
    for number in range(1, 13):
        noise_image(number).save(tmp_path / f"{number}.png")

    def chosen(max_samples, items):
        (tmp_path / "pictograms.json").write_text(json.dumps(items))
        return [record.id for record in read_arasaac(path=tmp_path, max_samples=max_samples).records]

    five = chosen(5, items)
    assert len(set(five)) == 5
    assert sorted(chosen(5, items[::-1])) == sorted(five)
    assert set(five) < set(chosen(8, items))
    assert len(chosen(99, items)) == len(chosen(None, items)) == 12
    with pytest.raises(UserError, match="max_samples=0 must be a whole number of at least 1"):
        chosen(0, items)


def test_whom_to_credit(tmp_path):
    assert "Sergio Palao" in read_arasaac(path=arasaac_table(tmp_path / "arasaac")).attribution
    assert "CC BY 4.0" in read_coco(path=coco_folder(tmp_path / "coco"), split="val2017").attribution
    assert read_subject(path=photo_folder(tmp_path / "photos", 2)).attribution is None


@pytest.mark.parametrize("name", ["ATTRIBUTION", "ATTRIBUTION.md", "attribution.txt"])
def test_a_file_that_says_whom_to_credit(tmp_path, name):
    assert read_attribution(tmp_path) is None
    (tmp_path / name).write_bytes("\ufeff# Credit\r\n\r\nMade by  Äb\n".encode())
    assert read_attribution(tmp_path) == "# Credit Made by Äb"
    (tmp_path / name).write_bytes(b"\xff" + b"x" * 9000)
    assert len(read_attribution(tmp_path)) == 2000
    (tmp_path / name).write_bytes(b"\n")
    assert read_attribution(tmp_path) is None


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd"])
def test_credit_is_not_read_through_a_link_out_of_the_folder(tmp_path, caplog, target):
    (tmp_path / "secret").write_text("password")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "ATTRIBUTION.txt").symlink_to(target)
    assert read_attribution(folder) is None
    assert "leads outside the folder" in caplog.text
    (folder / "credit").write_text("by Ann")
    (folder / "ATTRIBUTION.md").symlink_to("credit")
    assert read_attribution(folder) == "by Ann"


def test_a_credit_of_any_size_and_content_is_one_line_of_text(tmp_path):
    with (tmp_path / "ATTRIBUTION").open("wb") as file:
        file.write(b"by\0 \x1bAnn")
        file.truncate(1 << 40)  # a file of holes: to read it whole would end the process
    assert read_attribution(tmp_path) == "by Ann"


def test_arasaac_bad_input(tmp_path):
    noise_image(0).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"No metadata\.csv"):
        read_arasaac(path=tmp_path)
    for content, message in (("[1]", "list of objects"), ("{", "no valid JSON"), ("{}", "list of objects")):
        (tmp_path / "metadata.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_arasaac(path=tmp_path)
    (tmp_path / "metadata.json").write_text("[]")
    assert "lists no pictograms" in texts(read_arasaac(path=tmp_path))[0]
    (tmp_path / "metadata.csv").write_text("name,x\n1,2\n")
    with pytest.raises(UserError, match="neither a title"):
        read_arasaac(path=tmp_path)
    with pytest.raises(UserError, match="caption_style"):
        read_arasaac(path=tmp_path, caption_style="x")


def test_arasaac_names_cannot_leave_the_folder(tmp_path):
    noise_image(0).save(tmp_path / "secret.png")
    folder = arasaac_table(tmp_path / "set")
    (folder / "metadata.csv").write_text("title,file_name\na,../secret.png\nb,/etc/passwd\n")
    result = read_arasaac(path=folder)
    assert result.records == []
    assert len(result.problems) == 2


def test_arasaac_reads_nothing_through_links_out_of_the_folder(tmp_path):
    noise_image(0).save(tmp_path / "secret.png")
    (tmp_path / "secret.csv").write_text("title\n1\n")
    folder = arasaac_table(tmp_path / "set")
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to(tmp_path / "secret.png")
    result = read_arasaac(path=folder)
    assert [record.path.name for record in result.records] == ["To_Eat.png"]
    assert any("leads outside the folder" in text for text in texts(result))
    (folder / "metadata.json").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UserError, match=r"metadata\.json: is a link that leads outside"):
        read_arasaac(path=folder, metadata_file="metadata.json")


def test_arasaac_texts_and_ids_that_are_none_are_problems(tmp_path):
    items = [
        {"_id": "\ud800", "file_name": "1.png", "title": "one"},
        {"_id": 2, "title": "\ud800 x"},
        {"_id": 3, "title": {"a": 1}},
        {"_id": 4, "title": "x" * 20_000},
        {"_id": 5, "title": "five"},
    ]
    (tmp_path / "metadata.json").write_text(json.dumps(items))
    for number in range(1, 7):
        noise_image(number).save(tmp_path / f"{number}.png")
    result = read_arasaac(path=tmp_path, max_samples=3)
    assert [record.id for record in result.records] == ["5"]
    assert [problem.images[0].name for problem in result.problems] == ["1.png", "2.png", "3.png", "4.png"]
    assert all(problem.is_skippable and str(problem).encode() for problem in result.problems)
    assert result.warnings == ["1 images that metadata.json does not name were left out: 6.png."]


def test_arasaac_images_in_other_widths_and_of_flagged_items_are_named(tmp_path):
    for name in ("1_500.png", "1_2500.png", "2.png"):
        noise_image(1).save(tmp_path / name)
    items = [{"_id": 1, "title": "one"}, {"_id": 2, "title": "gun", "violence": True}]
    (tmp_path / "metadata.json").write_text(json.dumps(items))
    result = read_arasaac(path=tmp_path)
    assert [record.path.name for record in result.records] == ["1_500.png"]
    assert result.warnings == ["1 pictograms flagged violence or sex were left out."]


def coco_folder(folder, annotations=None):
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (9, 4)]
    for image in images:
        noise_image(image["id"]).save(folder / "val2017" / image["file_name"])
    if annotations is None:
        annotations = [
            {"id": 30, "image_id": 4, "caption": "A much longer caption of four.\n"},
            {"id": 10, "image_id": 4, "caption": " Four. "},
            {"id": 20, "image_id": 9, "caption": "Nine."},
            {"id": 40, "image_id": 9, "caption": "  "},
        ]
    content = {"images": images, "annotations": annotations}
    (folder / "annotations/captions_val2017.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", {"4": "Four.", "9": "Nine."}),
        ("longest", {"4": "A much longer caption of four.", "9": "Nine."}),
        ("all", {"4#0": "Four.", "4#1": "A much longer caption of four.", "9#0": "Nine."}),
    ],
)
def test_coco_caption_rules(tmp_path, rule, expected):
    result = read_coco(path=coco_folder(tmp_path / "coco"), split="val2017", caption=rule)
    assert result.problems == []
    assert {record.id: record.caption for record in result.records} == expected
    assert result.records[0].path.name == "000000000004.jpg"


def test_coco_random_captions_depend_on_seed_alone(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    chosen = [
        read_coco(path=folder, split="val2017", caption="random", seed=seed).records[0].caption
        for seed in range(12)
    ]
    again = read_coco(path=folder, split="val2017", caption="random", seed=3).records[0].caption
    assert again == chosen[3]
    assert len(set(chosen)) == 2


def test_coco_prepared_captions(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    content = json.loads((folder / "annotations/captions_val2017.json").read_text())
    content["annotations"] = [{**item, "caption": "prepared"} for item in content["annotations"]]
    (folder / "prepared.json").write_text(json.dumps(content))
    result = read_coco(path=folder, split="val2017", captions_file="prepared.json")
    assert {record.caption for record in result.records} == {"prepared"}


def test_coco_problems(tmp_path):
    folder = coco_folder(tmp_path / "coco", annotations=[{"id": 1, "image_id": 4, "caption": "x"}])
    (folder / "val2017/000000000004.jpg").unlink()
    assert [what.split(": ")[1] for what in texts(read_coco(path=folder, split="val2017"))] == [
        "the image 'val2017/000000000004.jpg' does not exist.",
        "val2017/000000000009.jpg has no caption.",
    ]


def test_coco_bad_input(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_coco(path=tmp_path / "absent")
    folder = coco_folder(tmp_path / "coco")
    with pytest.raises(UserError, match=r"captions_train2017\.json does not exist"):
        read_coco(path=folder)
    with pytest.raises(UserError, match="caption=x"):
        read_coco(path=folder, caption="x")
    for content in ("", "[]", '{"images": 3}', '{"images": [], "annotations": [{}]}'):
        (folder / "annotations/captions_val2017.json").write_text(content)
        with pytest.raises(UserError, match="not COCO's captions JSON"):
            read_coco(path=folder, split="val2017")


@pytest.mark.parametrize("caption", ["\ud800 x", "x" * 100_000, "a\0b"])
def test_coco_captions_that_are_none_are_problems(tmp_path, caption):
    notes = [{"id": 1, "image_id": 4, "caption": caption}, {"id": 2, "image_id": 9, "caption": "Nine."}]
    folder = coco_folder(tmp_path / "coco", annotations=notes)
    result = read_coco(path=folder, split="val2017")
    assert [record.id for record in result.records] == ["9"]
    (problem,) = result.problems
    assert problem.is_skippable
    assert problem.images == (folder / "val2017/000000000004.jpg",)


@pytest.mark.parametrize(
    "note",
    [
        '{"id": 1e999, "image_id": 4, "caption": "x"}',
        '{"id": 1, "image_id": 1e999, "caption": "x"}',
        '{"id": 1, "image_id": 4, "caption": {"a": 1}}',
    ],
)
@pytest.mark.parametrize("adverbs", ["keep", "remove"])
def test_coco_values_of_other_kinds(tmp_path, note, adverbs):
    folder = coco_folder(tmp_path / "coco")
    file = folder / "annotations/captions_val2017.json"
    file.write_text(f'{{"images": [{{"id": 4, "file_name": "x.jpg"}}], "annotations": [{note}]}}')
    with pytest.raises(UserError, match="not COCO's captions JSON"):
        read_coco(path=folder, split="val2017", adverbs=adverbs, cache_dir=tmp_path / "cache")


def test_coco_folders_may_be_links_and_single_files_must_not_lead_out(tmp_path):
    coco_folder(tmp_path / "store")
    noise_image(0).save(tmp_path / "secret.jpg")
    image = tmp_path / "store/val2017/000000000004.jpg"
    image.rename(tmp_path / "store/four.jpg")
    image.symlink_to("../four.jpg")
    folder = tmp_path / "coco"
    folder.mkdir()
    for name in ("val2017", "annotations"):
        (folder / name).symlink_to(tmp_path / "store" / name)
    # The user's own links; but what is in the folder leads out of it.
    result = read_coco(path=folder, split="val2017")
    assert [record.id for record in result.records] == ["9"]
    assert "leads outside the folder" in texts(result)[0]
    image.unlink()
    image.symlink_to("000000000009.jpg")
    assert len(read_coco(path=folder, split="val2017").records) == 2
    (folder / "annotations/secret.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises(UserError, match=r"secret\.json: is a link that leads outside"):
        read_coco(path=folder, split="val2017", captions_file="annotations/secret.json")
