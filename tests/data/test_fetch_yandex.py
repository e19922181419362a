from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.data import download as downloads
from src.data import fetch_yandex
from src.data.fetch_http import FetchError, Retries
from src.data.fetch_yandex import download_public_file, is_yandex_link, list_public_files
from tests.data.fetch_server import Server, serving

LINK = "https://disk.yandex.ru/d/abc"
QUICK = Retries(attempts=3, pause=0.01, connect_timeout=2.0, read_timeout=2.0)


def serve_disk(server: Server, tree: dict[str, bytes]) -> None:
    """Makes the server speak the API for a public folder; hrefs work once."""
    hrefs = iter(range(1000))

    def item(path: str, kind: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": kind, "name": path.rsplit("/", 1)[1], "path": path}
        if kind == "file":
            entry |= {"size": len(tree[path]), "sha256": hashlib.sha256(tree[path]).hexdigest()}
        return entry

    def resources(question: dict[str, str]) -> tuple[int, object]:
        if question["public_key"] != LINK:
            return 404, {"error": "DiskNotFoundError"}
        folder = question.get("path", "/").rstrip("/") + "/"
        below = [path for path in tree if path.startswith(folder)]
        files = [item(path, "file") for path in below if "/" not in path[len(folder) :]]
        names = sorted({path[len(folder) :].split("/")[0] for path in below if "/" in path[len(folder) :]})
        items = [item(folder + name, "dir") for name in names] + files
        start, limit = int(question["offset"]), int(question["limit"])
        return 200, {"type": "dir", "name": "set", "_embedded": {"items": items[start : start + limit]}}

    def address(question: dict[str, str]) -> tuple[int, object]:
        place = f"/content/{next(hrefs)}"
        server.files[place] = tree[question["path"]]
        server.cut_after[place] = server.cut_after.pop("next", [])
        return 200, {"href": server.url + place, "method": "GET", "templated": False}

    server.answers["/v1/disk/public/resources"] = resources
    server.answers["/v1/disk/public/resources/download"] = address


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.mark.parametrize(
    "link",
    [
        "https://disk.yandex.ru/d/x",
        "https://disk.yandex.com.tr/i/x",
        "https://disk.360.yandex.ru/d/x",
        "https://yadi.sk/d/x",
        "https://www.disk.yandex.com/d/x",
    ],
)
def test_links_are_recognised(link: str) -> None:
    assert is_yandex_link(link)


@pytest.mark.parametrize(
    "link",
    [
        "https://disk.yandex.evil.com/d/x",
        "https://yadi.sk.example.org/",
        "https://yandex.ru/",
        "disk.yandex.ru",
    ],
)
def test_other_addresses_are_not(link: str) -> None:
    assert not is_yandex_link(link)


def test_folders_are_walked_page_by_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_yandex, "_PAGE", 2)
    tree = {f"/{k}.png": bytes([k]) * 9 for k in range(5)} | {"/in/ner/ä b.png": b"deep"}
    serve_disk(server, tree)
    api = server.url + "/v1/disk"
    files = list_public_files(LINK, api=api, retries=QUICK)
    assert [str(file.name) for file in files] == sorted(path[1:] for path in tree)
    for file in files:
        target = tmp_path / file.name
        download_public_file(LINK, file, target, api=api, retries=QUICK, progress=False)
        assert target.read_bytes() == tree[f"/{file.name}"]


def test_a_new_address_is_asked_for_on_resume(server: Server, tmp_path: Path) -> None:
    tree = {"/a.bin": bytes(range(256)) * 4000}
    serve_disk(server, tree)
    server.cut_after["next"] = [30 * downloads._CHUNK]
    api = server.url + "/v1/disk"
    (file,) = list_public_files(LINK, api=api, retries=QUICK)
    download_public_file(LINK, file, tmp_path / "a.bin", api=api, retries=QUICK, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == tree["/a.bin"]
    content = [entry for entry in server.seen if entry[0].startswith("/content")]
    assert content == [("/content/0", None), ("/content/1", f"bytes={30 * downloads._CHUNK}-")]


def test_unknown_links_and_bad_names(server: Server) -> None:
    serve_disk(server, {"/..": b"evil"})
    api = server.url + "/v1/disk"
    with pytest.raises(FetchError, match="no such public link"):
        list_public_files(LINK + "x", api=api, retries=QUICK)
    with pytest.raises(FetchError, match="unusable name"):
        list_public_files(LINK, api=api, retries=QUICK)


def test_content_that_differs_from_the_listing_is_refused(server: Server, tmp_path: Path) -> None:
    tree = {"/a.bin": b"listed"}
    serve_disk(server, tree)
    api = server.url + "/v1/disk"
    (file,) = list_public_files(LINK, api=api, retries=QUICK)
    tree["/a.bin"] = b"served"
    with pytest.raises(FetchError, match="sha256"):
        download_public_file(LINK, file, tmp_path / "a.bin", api=api, retries=QUICK, progress=False)


RESOURCES = "/v1/disk/public/resources"


def listed(server: Server) -> list[str]:
    return [str(file.name) for file in list_public_files(LINK, api=server.url + "/v1/disk", retries=QUICK)]


@pytest.mark.parametrize(
    "answer",
    [
        {"_embedded": None},
        {},
        {"_embedded": {"items": None}},
        {"_embedded": {"items": ["x"]}},
        {"_embedded": ["items"]},
    ],
)
def test_listings_that_are_none_are_refused(server: Server, answer: dict[str, Any]) -> None:
    server.answers[RESOURCES] = lambda _: (200, {"type": "dir", "name": "set"} | answer)
    with pytest.raises(FetchError, match="lists no items"):
        listed(server)


@pytest.mark.parametrize("name", ["\ud800.png", "a" * 231, "a/b", "a\0", 7, None, ""])
def test_names_that_no_file_can_have(server: Server, name: Any) -> None:
    item = {"type": "file", "name": name}
    server.answers[RESOURCES] = lambda _: (200, {"type": "dir", "_embedded": {"items": [item]}})
    with pytest.raises(FetchError, match="unusable name") as caught:
        listed(server)
    str(caught.value).encode()


def test_a_file_that_is_a_folder_as_well_is_refused(server: Server) -> None:
    items = [{"type": "file", "name": "a"}, {"type": "dir", "name": "a"}]
    server.answers[RESOURCES] = lambda _: (200, {"type": "dir", "_embedded": {"items": items}})
    with pytest.raises(FetchError, match="lists '/a' twice"):
        listed(server)


@pytest.mark.parametrize(
    "item",
    [
        lambda path, number: [{"type": "dir", "name": "a"}],  # a folder in a folder in a folder
        lambda path, number: [{"type": "dir", "name": f"{n}"} for n in range(5)],  # more and more of them
        lambda path, number: [{"type": "file", "name": f"{number}-{n}"} for n in range(5)],  # one without end
        lambda path, number: [{"type": "file", "name": f"{n}"} for n in range(5)],  # the same again and again
    ],
    ids=["deep", "wide", "long", "round"],
)
def test_a_listing_without_an_end_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, item: Any
) -> None:
    monkeypatch.setattr(fetch_yandex, "_PAGE", 5)
    monkeypatch.setattr(fetch_yandex, "_MAX_FILES", 200)
    monkeypatch.setattr(fetch_yandex, "_MAX_FOLDERS", 50)

    def answer(question: dict[str, str]) -> tuple[int, object]:
        items = item(question.get("path"), len(server.seen))
        return 200, {"type": "dir", "_embedded": {"items": items}}

    server.answers[RESOURCES] = answer
    with pytest.raises(FetchError, match="refused"):
        listed(server)
    assert len(server.seen) <= 60


def test_an_api_that_is_busy_or_breaks_off_is_asked_again(server: Server) -> None:
    serve_disk(server, {"/a.png": b"1"})
    server.failures[RESOURCES] = [429, 500]
    server.cut_after[RESOURCES] = [20]
    listing = Retries(attempts=4, pause=0.01, connect_timeout=2.0, read_timeout=2.0)
    (file,) = list_public_files(LINK, api=server.url + "/v1/disk", retries=listing)
    assert file.name.name == "a.png"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((429, {}), "the Yandex Disk API: the server answered 429, 3 attempts"),
        ((403, {}), "the Yandex Disk API: the server answered 403"),
        ((200, b"<html>"), "the Yandex Disk API: the answer is no JSON"),
        ((200, b"[" * 200_000), "the Yandex Disk API: the answer is no JSON"),
        ((200, b""), "the Yandex Disk API: the answer is no JSON"),
    ],
)
def test_an_api_that_does_not_answer_is_named(
    server: Server, answer: tuple[int, object], message: str
) -> None:
    server.answers[RESOURCES] = lambda _: answer
    with pytest.raises(FetchError, match=message):
        listed(server)


@pytest.mark.parametrize("href", [None, 7, "http://[bad", "//[", "file:///etc/hostname", ""])
def test_download_addresses_that_are_none(server: Server, tmp_path: Path, href: Any) -> None:
    serve_disk(server, {"/a.png": b"1"})
    server.answers[f"{RESOURCES}/download"] = lambda _: (200, {"href": href})
    api = server.url + "/v1/disk"
    (file,) = list_public_files(LINK, api=api, retries=QUICK)
    with pytest.raises(FetchError, match=r"no download address|no http"):
        download_public_file(LINK, file, tmp_path / "a", api=api, retries=QUICK, progress=False)
    assert list(tmp_path.iterdir()) == []
