"""Pictograms from a server that speaks ARASAAC's API, well and badly."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.checks import require_flag, require_whole_number
from src.data.data_manager import PROJECT_ROOT, DataManager
from src.data.fetch_http import Retries
from src.data.readers.arasaac import CREDIT, read_arasaac
from src.data.sources import arasaac
from src.data.sources.arasaac import ArasaacSource
from src.data.sources.pace import Pace
from src.data.sources.png_files import is_whole_png
from src.errors import UserError
from tests.data.fetch_server import Server, serving
from tests.data.pictures import noise_image
from tests.data.test_fetch_archives import content

QUICK = Retries(attempts=3, pause=0.01, connect_timeout=2.0, read_timeout=2.0)
LIST = "/v1/pictograms/all/en"
IDS = (2248, 2256, 2276, 2317, 2349, 2369, 2406, 2439, 2517, 3057)


def item(id: int, word: str, **more: Any) -> dict[str, Any]:
    """An entry as the API gives it."""
    return {
        "_id": id,
        "keywords": [{"type": 2, "keyword": word, "hasLocution": True, "plural": f"{word}s"}],
        "categories": ["animal"] if id % 2 else ["Food", "beverage"],
        "tags": ["living being"] if id % 2 else ["feeding"],
        "violence": False,
        "sex": False,
        "schematic": False,
    } | more


def png(number: int) -> bytes:
    file = io.BytesIO()
    noise_image(number, (24, 20)).convert("RGBA").save(file, "png")
    return file.getvalue()


def image(id: int, kind: str = "500") -> str:
    return f"/pictograms/{id}/{id}_{kind}.png"


def serve(server: Server, items: list[dict[str, Any]], kind: str = "500") -> None:
    server.files[LIST] = json.dumps(items).encode()
    for entry in items:
        server.files[image(entry["_id"], kind)] = png(entry["_id"])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        serve(running, [item(id, f"word {id}") for id in IDS])
        yield running


def source(server: Server, **options: Any) -> ArasaacSource:
    addresses = {"api": f"{server.url}/v1", "static": f"{server.url}/pictograms/"}
    return ArasaacSource(**{"requests_per_second": 1000, **addresses, **options})


def manager(server: Server, path: Path, **options: Any) -> DataManager:
    return DataManager(
        path=path, dvc_target=None, source=source(server, **options), retries=QUICK, progress=False
    )


def fetch(server: Server, path: Path, **options: Any) -> set[int]:
    """The ids of the records that there are afterwards."""
    assert manager(server, path, **options).ensure() == "downloaded and verified"
    result = read_arasaac(path=path)
    assert result.problems == []
    return {int(record.id) for record in result.records}


def images_asked_for(server: Server) -> list[str]:
    return [path for path, _ in server.seen if path.endswith(".png")]


def test_pictograms_come_with_keywords_licence_and_credit(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "set") == set(IDS)
    found = content(tmp_path / "set")
    assert found["images/2248.png"] == png(2248)
    assert json.loads(found["pictograms.json"])[0]["keywords"][0]["keyword"] == "word 2248"
    assert found["ATTRIBUTION.txt"].decode().strip() == CREDIT
    assert b"creativecommons.org/licenses/by-nc-sa/4.0" in found["LICENSE.md"]
    assert len(found) == len(IDS) + 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".set.darkroom-lock",
        ".set.darkroom.json",
        "set",
    ]
    assert len(server.seen) == len(IDS) + 1
    assert manager(server, tmp_path / "set").ensure() == "present and verified"
    assert len(server.seen) == len(IDS) + 1
    (tmp_path / "set/images/2248.png").unlink()
    with pytest.raises(UserError, match=r"2248\.png missing or changed"):
        manager(server, tmp_path / "set").ensure()


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"colour": False}, "nocolor_500"), ({"size": 300}, "300"), ({"size": 2500}, "2500")],
)
def test_colour_and_size(server: Server, tmp_path: Path, options: dict[str, Any], kind: str) -> None:
    serve(server, [item(id, "word") for id in IDS], kind)
    assert fetch(server, tmp_path / "set", **options) == set(IDS)
    assert set(images_asked_for(server)) == {image(id, kind) for id in IDS}


def test_the_language_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.files["/v1/pictograms/all/de"] = json.dumps([item(2248, "Wasser")]).encode()
    fetch(server, tmp_path / "set", language="de")
    assert read_arasaac(path=tmp_path / "set").records[0].caption == "Wasser"


def test_a_choice_does_not_depend_on_the_order_of_the_list(server: Server, tmp_path: Path) -> None:
    items = json.loads(server.files[LIST])
    few = fetch(server, tmp_path / "few", max_samples=4)
    assert len(few) == 4
    assert len(images_asked_for(server)) == 4
    random.Random(1).shuffle(items)
    server.files[LIST] = json.dumps(items).encode()
    assert fetch(server, tmp_path / "again", max_samples=4) == few
    assert few < fetch(server, tmp_path / "more", max_samples=7)
    # What the reader takes of all is what the source would have brought.
    fetch(server, tmp_path / "all")
    assert {int(record.id) for record in read_arasaac(path=tmp_path / "all", max_samples=4).records} == few


@pytest.mark.parametrize("categories", [["animal"], ["LIVING being"], ["animal", "absent"]])
def test_categories_and_tags(server: Server, tmp_path: Path, categories: list[str]) -> None:
    assert fetch(server, tmp_path / "set", categories=categories) == {id for id in IDS if id % 2}


def test_an_unknown_category_names_near_ones(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.source\.categories=\['animl'\].*Near: animal"):
        manager(server, tmp_path / "set", categories=["animl"]).ensure()
    assert images_asked_for(server) == []


def test_what_cannot_be_used_is_not_fetched(server: Server, tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        item(1, "gun", violence=True),
        item(2, "x", sex=True),
        item(3, "", keywords=[]),
        item(4, "", keywords=[{"type": 2}]),
        {"keywords": [{"keyword": "no id"}]},
        item(5, "path") | {"_id": "../../etc/passwd"},
        item(6, "digits") | {"_id": "\u0663"},
    ]
    items = json.loads(server.files[LIST])
    server.files[LIST] = json.dumps(odd + items + items[:2]).encode()
    assert fetch(server, tmp_path / "set") == set(IDS)
    assert len(images_asked_for(server)) == len(IDS)


def test_a_cut_download_goes_on(server: Server, tmp_path: Path) -> None:
    # Half a body at each attempt for one image; the list and whole images are not fetched again.
    server.cut_after[image(2369)] = [100] * QUICK.attempts
    with pytest.raises(UserError, match=r"2369_500\.png: .*3 attempts.*start again.*dataset\.path") as caught:
        manager(server, tmp_path / "set", num_parallel=1).ensure()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()
    came = set(images_asked_for(server)) - {image(2369)}
    assert came
    server.seen.clear()
    assert fetch(server, tmp_path / "set") == set(IDS)
    assert {path for path, _ in server.seen} == {image(id) for id in IDS} - came


def test_a_half_or_damaged_file_is_not_taken_as_whole(server: Server, tmp_path: Path) -> None:
    waiting = tmp_path / ".set.darkroom-download/colour_500/images"
    waiting.mkdir(parents=True)
    good, half, flipped = png(2248), png(2256)[:-13], bytearray(png(2276))
    flipped[60] ^= 1
    for id, data in ((2248, good), (2256, half), (2276, bytes(flipped)), (2317, b""), (99, good)):
        (waiting / f"{id}.png").write_bytes(data)
    assert fetch(server, tmp_path / "set") == set(IDS)
    assert set(images_asked_for(server)) == {image(id) for id in IDS} - {image(2248)}
    assert (tmp_path / "set/images/2256.png").read_bytes() == png(2256)
    assert not (tmp_path / "set/images/99.png").exists()


def test_whole_is_from_signature_to_end() -> None:
    data = png(1)
    assert is_whole_png(data)
    assert not any(is_whole_png(data[:size]) for size in range(len(data)))
    assert not is_whole_png(b"<html>" + data)


def test_other_options_do_not_mix_with_what_an_earlier_try_left(server: Server, tmp_path: Path) -> None:
    server.failures[image(3057)] = [500] * QUICK.attempts
    with pytest.raises(UserError, match="answered 500"):
        manager(server, tmp_path / "set").ensure()
    serve(server, [item(id, "word") for id in IDS], "nocolor_500")
    assert len(fetch(server, tmp_path / "set", colour=False, max_samples=5)) == 5
    assert len(content(tmp_path / "set")) == 5 + 3


@pytest.mark.parametrize("path", [LIST, image(2317)])
def test_a_passing_error_is_tried_again(server: Server, tmp_path: Path, path: str) -> None:
    server.failures[path] = [500, 503]
    assert fetch(server, tmp_path / "set") == set(IDS)


@pytest.mark.parametrize("path", [LIST, image(2317)])
def test_an_error_that_stays_is_named(server: Server, tmp_path: Path, path: str) -> None:
    server.failures[path] = [500] * QUICK.attempts
    with pytest.raises(UserError, match=rf"{path}: the server answered 500, 3 attempts"):
        manager(server, tmp_path / "set").ensure()
    assert fetch(server, tmp_path / "set") == set(IDS)


@pytest.mark.parametrize(
    "body", [b"<html>sign in</html>", b'[{"_id": 1,', b"{}", b"[]", b"[1]", b"[" * 100_000, b""]
)
def test_an_answer_that_is_no_list_is_named(server: Server, tmp_path: Path, body: bytes) -> None:
    good = server.files[LIST]
    server.files[LIST] = body
    with pytest.raises(UserError, match=r"something else than a list.*Is a sign-in page"):
        manager(server, tmp_path / "set").ensure()
    server.files[LIST] = good
    assert fetch(server, tmp_path / "set") == set(IDS)


def test_half_a_list_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.cut_after[LIST] = [200]
    assert fetch(server, tmp_path / "set") == set(IDS)


def test_an_old_list_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    waiting = tmp_path / ".set.darkroom-download"
    waiting.mkdir()
    (waiting / "list_en.json").write_text(json.dumps([item(7, "gone")]))
    yesterday = time.time() - 25 * 3600
    os.utime(waiting / "list_en.json", (yesterday, yesterday))
    assert fetch(server, tmp_path / "set") == set(IDS)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_time_is_given_it_by_all(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    clock, holds = Clock(), []

    class WatchedPace(Pace):
        def hold(self, seconds: float) -> None:
            holds.append(seconds)
            super().hold(seconds)

    monkeypatch.setattr(arasaac, "Pace", partial(WatchedPace, clock=clock, sleep=clock.sleep))
    server.failures[image(2248)] = [status]
    server.failure_headers = {"Retry-After": "30"}
    assert fetch(server, tmp_path / "set") == set(IDS)
    assert clock() >= 30
    assert holds == [30]


def test_a_server_that_asks_for_an_hour_ends_the_try(server: Server, tmp_path: Path) -> None:
    server.failures[image(2248)] = [429]
    server.failure_headers = {"Retry-After": "3600"}
    start = time.monotonic()
    with pytest.raises(UserError, match="asks to wait 60 minutes"):
        manager(server, tmp_path / "set").ensure()
    assert time.monotonic() - start < 5


class Clock:
    """A time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> bool:
        with self._lock:
            self.now += max(0.0, seconds)
        return False


def test_the_pace_is_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(arasaac, "Pace", partial(Pace, clock=clock, sleep=clock.sleep))
    fetch(server, tmp_path / "set", requests_per_second=0.5, num_parallel=1)
    # The list and ten images, two seconds apart.
    assert clock() == pytest.approx(2.0 * len(IDS))


def test_turns_are_evenly_apart_and_behind_a_pause() -> None:
    clock = Clock()
    pace = Pace(per_second=4, clock=clock, sleep=clock.sleep)
    turns = []
    for number in range(8):
        if number == 5:
            pace.hold(10)
        pace.wait()
        turns.append(clock())
    assert turns == [0.0, 0.25, 0.5, 0.75, 1.0, 11.0, 11.25, 11.5]


def test_who_waits_when_a_pause_is_asked_for_waits_for_its_end() -> None:
    clock = Clock()

    def sleep(seconds: float) -> bool:
        if clock() == 0:
            pace.hold(60)
        return clock.sleep(seconds)

    pace = Pace(per_second=1, clock=clock, sleep=sleep)
    pace.wait()
    assert clock() == 0
    pace.wait()
    assert clock() >= 60


@pytest.mark.parametrize("status", [404, 410])
def test_single_images_that_are_gone_are_left_out_and_named(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server.failures[image(2349)] = [status]
    assert fetch(server, tmp_path / "set") == set(IDS) - {2349}
    assert "1 pictograms have no image at ARASAAC and were left out: 2349." in caplog.text


def test_many_images_that_are_gone_are_an_error(server: Server, tmp_path: Path) -> None:
    serve(server, [item(id, "word") for id in range(1, 401)])
    with pytest.raises(UserError, match=r"21 of 400 pictograms are not there \(404\).*Check the address"):
        manager(server, tmp_path / "set", static=f"{server.url}/elsewhere").ensure()
    # It did not ask for all of them to find out.
    assert len(images_asked_for(server)) < 400


def test_the_only_image_is_gone(server: Server, tmp_path: Path) -> None:
    serve(server, [item(2248, "water")])
    server.failures[image(2248)] = [404]
    with pytest.raises(UserError, match="has none of the pictograms"):
        manager(server, tmp_path / "set").ensure()


def test_a_redirect_to_another_host_is_followed_and_what_comes_is_checked(
    server: Server, tmp_path: Path
) -> None:
    with serving() as other:
        other.files["/a.png"] = png(2248)
        other.files["/b.png"] = b"<html>sign in</html>"
        del server.files[image(2248)], server.files[image(2256)]
        server.redirects[image(2248)] = f"{other.url}/a.png"
        server.redirects[image(2256)] = f"{other.url}/b.png"
        with pytest.raises(UserError, match=r"2256_500\.png: 20 bytes came that are no whole PNG"):
            manager(server, tmp_path / "set", num_parallel=1).ensure()
        assert (tmp_path / ".set.darkroom-download/colour_500/images/2248.png").read_bytes() == png(2248)


@pytest.mark.parametrize("path", [LIST, image(2248)])
def test_a_redirect_to_another_scheme_is_refused(server: Server, tmp_path: Path, path: str) -> None:
    del server.files[path]
    server.redirects[path] = "file:///etc/hostname"
    with pytest.raises(UserError, match="no http"):
        manager(server, tmp_path / "set").ensure()


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with serving() as server:
        pass
    with pytest.raises(UserError, match=r"ConnectionError, 3 attempts.*with a network.*Set dataset\.path"):
        manager(server, tmp_path / "set").ensure()


def test_a_disk_too_small_is_noticed_before_the_first_image(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=9 * 60_000))
    with pytest.raises(UserError, match=r"Not enough disk space for 10 pictograms.*dataset\.path"):
        manager(server, tmp_path / "set").ensure()
    assert images_asked_for(server) == []


def test_ctrl_c_ends_it_soon_and_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from src.data.data_manager import DataManager\n"
        "from src.data.sources.arasaac import ArasaacSource\n"
        "source = ArasaacSource(api=sys.argv[1] + '/v1', static=sys.argv[1] + '/pictograms',"
        " requests_per_second=5)\n"
        "DataManager(path=sys.argv[2], dvc_target=None, source=source, progress=False).ensure()"
    )
    command = [sys.executable, "-c", program, server.url, str(tmp_path / "set")]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 15
    while len(images_asked_for(server)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert not (tmp_path / "set").exists()
    waiting = tmp_path / ".set.darkroom-download/colour_500/images"
    came = {image(int(file.stem)) for file in waiting.glob("*.png") if is_whole_png(file.read_bytes())}
    assert 3 <= len(came) < len(IDS)
    server.seen.clear()
    assert fetch(server, tmp_path / "set") == set(IDS)
    assert {path for path, _ in server.seen} == {image(id) for id in IDS} - came


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    results: list[str] = []

    def bring() -> None:
        results.append(manager(server, tmp_path / "set").ensure())

    threads = [threading.Thread(target=bring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["downloaded and verified", *["present and verified"] * 2]
    assert len(server.seen) == len(IDS) + 1


def test_other_options_than_what_is_there_are_refused(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "set", max_samples=4)
    with pytest.raises(UserError, match=r"holds ARASAAC.*at most 4\), and .* asks for ARASAAC.*Rename"):
        manager(server, tmp_path / "set").ensure()
    # What does not change the content may change.
    other = {"max_samples": 4, "num_parallel": 1, "requests_per_second": 7}
    assert manager(server, tmp_path / "set", **other).ensure() == "present and verified"


def test_a_folder_of_the_user_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(png(0))
    assert manager(server, tmp_path / "set").ensure() == "present, taken as it is"
    assert server.seen == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "xx"}, "language=xx is not one of: an, ar"),
        ({"language": "eng"}, "Did you mean en"),
        ({"size": 512}, "size=512 is not one of: 300, 500, 2500"),
        ({"max_samples": 0}, "max_samples=0 must be a whole number of at least 1"),
        ({"categories": "animal"}, r"categories=animal must be a list of words"),
        ({"requests_per_second": 0}, "requests_per_second=0 must be a number"),
        ({"requests_per_second": float("nan")}, "requests_per_second=nan"),
        ({"num_parallel": 17}, "num_parallel=17 must be a whole number between 1 and 16"),
        ({"api": "ftp://x"}, "api=ftp://x must be an address"),
        ({"api": "http://localhost:abc"}, "api=http://localhost:abc must be an address"),
        ({"static": "static.arasaac.org"}, "must be an address that begins with https://"),
    ],
)
def test_options_are_checked_before_anything_is_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ArasaacSource(**options)
    assert str(caught.value).startswith("dataset.source.")


@pytest.mark.parametrize("value", ["many", "3", 2.5, True, None])
def test_what_is_no_number_or_flag_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=rf"some\.key={value} must be a whole number"):
        require_whole_number("some.key", value, least=1)
    with pytest.raises(UserError, match=rf"some\.key={value} must be true or false"):
        require_flag("some.key", value if value is not True else "True")
