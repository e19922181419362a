"""COCO's JSON, ARASAAC's tables, class images, credits and a captioner's file as no one would write them."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.captions_file import open_captions_file
from src.data.readers.arasaac import read_arasaac
from src.data.readers.class_images import read_class_images
from src.data.readers.coco import CAPTION_RULES, read_coco
from src.data.readers.common import MAX_CAPTION, is_text, read_attribution
from src.errors import UserError
from tests.data.test_reader_fuzz import (
    ANY,
    CAPTIONS,
    FOLDERS,
    LINKS,
    PICTURE,
    TARGETS,
    TEXTS,
    VALUES,
    WRITTEN,
    look,
    made,
    snapshot,
    watched,
)

QUICK = settings(max_examples=40, deadline=None)
NUMBERS = st.one_of(
    st.integers(-1, 3), st.sampled_from([float("inf"), float("nan"), 1e300, "1", True, None]), VALUES
)
# With a byte of anything else now and then: mostly what a file could be, so that the reader gets on.
IMAGES = st.fixed_dictionaries({"id": NUMBERS, "file_name": st.one_of(WRITTEN, VALUES)})
NOTES = st.fixed_dictionaries({"id": NUMBERS, "image_id": NUMBERS, "caption": st.one_of(CAPTIONS, VALUES)})
SOUND_IMAGE = {"id": 1, "file_name": "a.png"}
SOUND_NOTE = {"id": 1, "image_id": 1, "caption": "a house"}
ANNOTATIONS = st.one_of(
    st.fixed_dictionaries(
        {
            "images": st.lists(st.one_of(st.just(SOUND_IMAGE), IMAGES), max_size=3),
            "annotations": st.lists(st.one_of(st.just(SOUND_NOTE), NOTES), max_size=4),
        }
    ),
    st.fixed_dictionaries({"images": VALUES, "annotations": VALUES}),
    st.fixed_dictionaries(
        {
            "images": st.just([SOUND_IMAGE]),
            "annotations": st.lists(
                st.fixed_dictionaries({"id": st.integers(), "image_id": st.just(1), "caption": CAPTIONS}),
                max_size=4,
            ),
        }
    ),
    VALUES,
)
PICTOGRAMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "_id": st.one_of(st.integers(1, 3), VALUES),
            "file_name": st.one_of(WRITTEN, VALUES),
            "title": st.one_of(CAPTIONS, VALUES),
            "keywords": st.one_of(VALUES, st.lists(st.fixed_dictionaries({"keyword": VALUES}), max_size=2)),
            "categories": VALUES,
            "violence": VALUES,
        },
    ),
    max_size=4,
)


def as_json(value) -> bytes:
    return json.dumps(value).encode()


def links_in(names):
    return st.dictionaries(st.sampled_from(names), TARGETS, max_size=2)


@QUICK
@given(
    text=st.one_of(ANNOTATIONS.map(as_json), st.binary(max_size=40)),
    rule=st.sampled_from(CAPTION_RULES),
    links=links_in(["val/b.jpg", "val/link.png", "annotations/captions_val.json", "annotations"]),
)
def test_coco(text, rule, links):
    content = {
        "images": {"val/a.png": PICTURE},
        "texts": {"annotations/captions_val.json": text},
        "links": links,
    }
    if "annotations/captions_val.json" in links or "annotations" in links:
        content["texts"] = {}
    if "annotations/captions_val.json" in links:
        content["images"]["annotations/x.png"] = PICTURE  # so that there is such a folder
        links.pop("annotations", None)
    with made(content) as folder:
        result = look(lambda path: read_coco(path=path, split="val", caption=rule), folder)
        check(result)


@QUICK
@given(
    table=st.one_of(
        st.tuples(st.just("metadata.json"), st.one_of(PICTOGRAMS, VALUES).map(as_json)),
        st.tuples(st.sampled_from(["metadata.json", "metadata.csv", "metadata.tsv"]), TEXTS),
        st.tuples(
            st.just("metadata.csv"),
            TEXTS.map(lambda rest: b"id,title,keywords,file_name\n1,one,a|b,a.png\n" + rest),
        ),
    ),
    style=st.sampled_from(["simple", "descriptive", "template"]),
    most=st.sampled_from([None, 1]),
    links=links_in(["b.jpg", "link.png", "metadata.tsv", "pictograms.json"]),
)
def test_arasaac(table, style, most, links):
    images = {"a.png": PICTURE, "1_500.png": PICTURE, "sub/c.png": PICTURE}
    with made({"images": images, "texts": dict([table]), "links": links}) as folder:
        check(look(lambda path: read_arasaac(path=path, caption_style=style, max_samples=most), folder))


def check(result) -> None:
    for record in [] if result is None else result.records:
        assert is_text(record.id)
        assert is_text(record.caption)
        assert len(record.caption) <= 2 * MAX_CAPTION


@QUICK
@given(content=FOLDERS, prompt=CAPTIONS, placeholder=st.sampled_from([None, "sksToy", "a"]))
def test_class_images(content, prompt, placeholder):
    with made(content) as folder:
        before = snapshot(folder)
        with watched(), contextlib.suppress(UserError):
            result = read_class_images(path=folder, prompt=prompt, placeholder=placeholder)
            assert all(record.id.startswith("class:") for record in result.records)
            assert all("\n" not in warning for warning in result.warnings)
        assert snapshot(folder) == before


@QUICK
@given(
    text=st.one_of(TEXTS, st.binary(max_size=40)),
    name=st.sampled_from(["ATTRIBUTION.txt", "attribution", "Attribution.MD"]),
    links=st.dictionaries(st.sampled_from(["ATTRIBUTION.md", "ATTRIBUTION"]), TARGETS, max_size=2),
)
def test_credits(text, name, links):
    with made({"images": {}, "texts": {name: text}, "links": links}) as folder:
        with watched() as opened:
            credit = read_attribution(folder)
        assert [place for place in opened if "outside" in place or place == "/etc/passwd"] == []
        assert credit is None or (0 < len(credit) <= 2000 and is_text(credit) and credit.encode())


@QUICK
@given(
    before=st.one_of(st.none(), TEXTS, st.binary(max_size=40)),
    cut=st.integers(0, 80),
    captions=st.dictionaries(st.sampled_from(["a.png", "sub/c.webp"]), ANY.filter(is_text), min_size=1),
    captioner=st.sampled_from([None, "blip:x"]),
    links=st.dictionaries(LINKS, TARGETS, max_size=1),
)
def test_a_file_of_captions_only_grows(before, cut, captions, captioner, links):
    texts = {} if before is None else {"metadata.jsonl": before}
    with made({"images": {"a.png": PICTURE}, "texts": texts, "links": links}) as folder:
        path = folder / "metadata.jsonl"
        elsewhere = {name: data for name, data in snapshot(folder).items() if name != path.as_posix()}
        with contextlib.suppress(UserError), open_captions_file(folder) as file:
            file.add(captions, column="text", captioner=captioner)
        after = {name: data for name, data in snapshot(folder).items() if name != path.as_posix()}
        assert after == elsewhere
        if path.is_symlink():
            return
        data = path.read_bytes()
        added = data.decode(errors="replace").split("\n")[-len(captions) - 1 : -1]
        assert [json.loads(line)["text"] for line in added] == list(captions.values())
        # Half a line of a captioner's own may go; what else was there stays.
        assert data.startswith((before or b"")[: (before or b"").rfind(b"\n") + 1])
        # Cut off anywhere by a crash, the next start mends it.
        path.write_bytes(data[: max(0, len(data) - cut)])
        with open_captions_file(folder) as file:
            file.add({"b.png": "again"}, column="text", captioner=captioner)
        last = path.read_bytes().decode(errors="replace").split("\n")[-2]
        assert json.loads(last)["file_name"] == "b.png"
