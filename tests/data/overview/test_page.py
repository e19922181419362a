"""inspect.html and inspect.json."""

import json
from html.parser import HTMLParser

import pytest

from src.data.overview.findings import CaptionTokens, LostText
from src.data.overview.page import MAX_LINES, Pictures, render_page
from src.data.overview.write import write_overview
from src.data.records import Problem
from tests.data.overview.places import WHITE, find, finding, findings, tokens
from tests.data.pictures import noise_image, photo_folder, truncate

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> \"&'"
NO_PICTURES = Pictures(sheets=[], num_shown=0, duplicates=None, sizes=[], tokens=None)
VOID = {"meta", "img", "br", "link", "hr"}


class Reader(HTMLParser):
    """The tags, addresses and texts of a page; complains of tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def close(self):
        super().close()
        assert self._open == []


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def written(folder, out, *, max_images=480, **keywords):
    found = find(folder, **keywords)
    overview = write_overview(found, out, max_images=max_images, background=WHITE)
    return read(overview.page.read_text("utf-8")), json.loads(overview.summary.read_text()), overview


def test_a_sound_dataset(tmp_path):
    photo_folder(tmp_path / "set", 6)
    page, summary, overview = written(tmp_path / "set", tmp_path / "out")
    assert "No problems" in page.text
    assert summary["problems"] == []
    assert [image["file"] for image in summary["images"]] == [f"IMG_000{number}.png" for number in range(6)]
    assert {image["side"] for image in summary["images"]} == {"train", "held out"}
    assert summary["training_size"] == [32, 32]
    assert [path.stem for path in overview.pictures] == [
        "contact_sheet_001",
        "sizes",
        "shapes",
        "shorter_sides",
        "tokens",
    ]


def test_every_picture_is_there_and_nothing_comes_from_elsewhere(tmp_path):
    photo_folder(tmp_path / "set", 6)
    noise_image(0).save(tmp_path / "set" / "IMG_0001.png")
    page, _, overview = written(tmp_path / "set", tmp_path / "out", buckets={(32, 40): 3, (40, 32): 4})
    files = {path.relative_to(tmp_path / "out").as_posix() for path in overview.pictures}
    assert set(page.addresses) == files
    assert {"inspect/duplicates.png", "inspect/buckets.png"} <= files
    assert all((tmp_path / "out" / file).is_file() for file in files)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_what_comes_from_the_dataset_is_escaped(tmp_path):
    folder = photo_folder(tmp_path / "set", 4, captions=False)
    name = "<b>&'\".png"
    noise_image(8).save(folder / name)
    (folder / "captions.txt").write_text(
        "".join(f"IMG_000{number}.png|{EVIL}\n" for number in range(4)) + f"{EVIL}|x\nno bar {EVIL}\n"
    )
    page, summary, _ = written(folder, tmp_path / "out", limit=2)
    assert "script" not in page.tags
    assert page.tags.count("b") == 1  # the verdict
    assert page.text.count(EVIL) >= 4
    assert name in page.text
    assert summary["images"][1]["captions"] == [EVIL]


def test_problems_warnings_and_lost_text(tmp_path):
    folder = photo_folder(tmp_path / "set", 6)
    truncate(folder / "IMG_0001.png")
    (folder / "IMG_0002.png").unlink()
    page, summary, _ = written(folder, tmp_path / "out", limit=5)
    assert "2 problems." in page.text
    assert "dataset.on_problem=skip" in page.text
    assert "must be mended" not in page.text
    assert [problem["file"] for problem in summary["problems"]] == ["captions.txt:3", "IMG_0001.png"]
    assert [problem["images"] for problem in summary["problems"]] == [[], ["IMG_0001.png"]]
    assert all(problem["can_be_skipped"] for problem in summary["problems"])
    assert {"image": "IMG_0003.png", "tokens": 6, "not_seen": "3"} in summary["captions_cut"]
    assert "do not fit into 5 tokens" in page.text
    assert "2 different" not in page.text
    assert "without the images that have problems" in page.text


def test_what_must_be_mended_is_marked():
    problems = [Problem(file="captions.txt", message="is UTF-16."), Problem(file="a", message="b")]
    page = read(render_page(findings([], problems=problems), NO_PICTURES))
    assert "must be mended before training" in page.text
    assert page.tags.count("span") == 0  # all must: no mark is needed
    problems.append(Problem(file="c", message="d", is_skippable=True))
    page = read(render_page(findings([], problems=problems), NO_PICTURES))
    assert page.tags.count("span") == 2


def test_a_large_set_says_what_it_leaves_out(tmp_path):
    folder = photo_folder(tmp_path / "set", 8)
    page, _, overview = written(folder, tmp_path / "out", max_images=3)
    assert "3 of 8 images" in page.text
    assert "inspect.max_images" in page.text
    assert len([path for path in overview.pictures if path.stem.startswith("contact")]) == 1


def test_long_lists_are_cut_and_counted():
    problems = [Problem(file=f"{number}.png", message="x", is_skippable=True) for number in range(2000)]
    lost = [LostText(name="a", num_tokens=99, text="x" * 5000)] * (MAX_LINES + 1)
    found = findings(
        [], problems=problems, tokens=CaptionTokens(chunk_size=75, max_chunks=1, counts=[99], lost=lost)
    )
    text = render_page(found, NO_PICTURES)
    page = read(text)
    assert "1,500 more in inspect.json" in page.text
    assert "1 more in inspect.json" in page.text
    assert "5,000 letters" in page.text
    assert len(text) < 1_000_000


def test_pictures_of_an_earlier_inspection_go(tmp_path):
    photo_folder(tmp_path / "set", 6)
    old = tmp_path / "out" / "inspect" / "contact_sheet_007.png"
    old.parent.mkdir(parents=True)
    noise_image(1).save(old)
    (old.parent / "mine.txt").write_text("x")
    written(tmp_path / "set", tmp_path / "out")
    assert not old.exists()
    assert (old.parent / "mine.txt").exists()


@pytest.mark.parametrize("counted", [None, tokens(), tokens(5, 6)])
def test_without_images_or_tokens(tmp_path, counted):
    overview = write_overview(findings([], tokens=counted), tmp_path, max_images=10, background=WHITE)
    page = read(overview.page.read_text("utf-8"))
    assert ("Tokens were not counted" in page.text) == (counted is None)
    assert [path.stem for path in overview.pictures] == (["tokens"] if counted and counted.counts else [])


def test_several_captions_of_an_image(tmp_path):
    images = [finding(tmp_path, "a.png", captions=["one", "two"])]
    page = read(render_page(findings(images), Pictures(**{**_fields(NO_PICTURES), "sheets": ["a.png"]})))
    assert "onetwo" in page.text


def _fields(pictures: Pictures) -> dict[str, object]:
    return {name: getattr(pictures, name) for name in Pictures.__dataclass_fields__}
