from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from src.data import download as downloads
from src.data import fetch_http
from src.data.download import download
from src.data.fetch_http import FetchError, Retries, get_json, open_url, shown
from tests.data.fetch_server import Server, serving

CHUNK = downloads._CHUNK
DATA = bytes(range(256)) * 4000
QUICK = Retries(attempts=3, pause=0.01, connect_timeout=2.0, read_timeout=2.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files["/set.zip"] = DATA
        yield running


def fetch(server: Server, target: Path, *, path: str = "/set.zip", sha256: str | None = None) -> None:
    url = server.url + path
    download(lambda: url, target, source=url, sha256=sha256, retries=QUICK, progress=False)


def test_download_is_whole_and_leaves_nothing_beside(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "a", sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "a").read_bytes() == DATA
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_cut_connection_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut_after["/set.zip"] = [36 * CHUNK, 12 * CHUNK]
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    starts = [range_header for _, range_header in server.seen]
    assert starts[0] is None
    assert [int(str(start)[6:-1]) for start in starts[1:]] == [36 * CHUNK, 48 * CHUNK]


def test_a_later_call_resumes_as_well(server: Server, tmp_path: Path) -> None:
    server.cut_after["/set.zip"] = [36 * CHUNK, 1, 1]
    with pytest.raises(FetchError, match="3 attempts"):
        fetch(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    server.seen.clear()
    fetch(server, tmp_path / "a")
    assert server.seen == [("/set.zip", f"bytes={36 * CHUNK}-")]
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("lacking", ["ranges", "validators"])
def test_without_range_or_validator_it_starts_anew(server: Server, tmp_path: Path, lacking: str) -> None:
    setattr(server, lacking, False)
    server.cut_after["/set.zip"] = [36 * CHUNK]
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.cut_after["/set.zip"] = [36 * CHUNK, 1, 1]
    with pytest.raises(FetchError):
        fetch(server, tmp_path / "a")
    server.files["/set.zip"] = DATA[::-1]
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA[::-1]


def test_passing_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.failures["/set.zip"] = [500, 503]
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


FAR_AWAY = "Mon, 01 Jan 2024 00:00:00 +9999999999999999"  # a time zone


@pytest.mark.parametrize("asked", ["7", "date", "soon", FAR_AWAY, None])
def test_a_server_that_asks_for_time_is_given_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch_http.time, "sleep", pauses.append)
    if asked == "date":
        asked = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    server.failures["/set.zip"] = [429]
    server.failure_headers = {} if asked is None else {"Retry-After": asked}
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    (pause,) = pauses
    assert 6 < pause <= 8 if asked not in {"soon", FAR_AWAY, None} else pause == QUICK.pause


def test_a_server_that_asks_for_an_hour_is_left_alone(server: Server, tmp_path: Path) -> None:
    server.failures["/set.zip"] = [503]
    server.failure_headers = {"Retry-After": "3600"}
    with pytest.raises(FetchError, match=r"answered 503 and asks to wait 60 minutes\. Start again then"):
        fetch(server, tmp_path / "a")
    assert len(server.seen) == 1


def test_missing_is_final(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="answered 404"):
        fetch(server, tmp_path / "a", path="/nothing.zip")
    assert len(server.seen) == 1


def test_a_wrong_hash_is_refused_and_nothing_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="expected 00"):
        fetch(server, tmp_path / "a", sha256="00" * 32)
    assert list(tmp_path.iterdir()) == []


def test_the_publishers_md5_and_size_are_checked(server: Server, tmp_path: Path) -> None:
    url = server.url + "/set.zip"
    good = {"md5": hashlib.md5(DATA).hexdigest(), "size": len(DATA)}
    download(lambda: url, tmp_path / "a", source=url, retries=QUICK, progress=False, **good)
    for bad, message in (
        ({"md5": "00" * 16}, "md5 is .*expected 00"),
        ({"size": 7}, "where 7 were expected"),
    ):
        with pytest.raises(FetchError, match=message):
            download(lambda: url, tmp_path / "b", source=url, retries=QUICK, progress=False, **good | bad)
        assert not (tmp_path / "b").exists()


def test_half_a_body_of_unsaid_length_is_noticed_by_the_known_size(server: Server, tmp_path: Path) -> None:
    url = server.url + "/set.zip"
    server.without_length.add("/set.zip")
    server.cut_after["/set.zip"] = [36 * CHUNK]
    download(lambda: url, tmp_path / "a", source=url, size=len(DATA), retries=QUICK, progress=False)
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_download_stopped_while_it_is_checked_is_not_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "hash_fault", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path / "a")
    server.seen.clear()
    fetch(server, tmp_path / "a", sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.seen == []


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.redirects["/old"] = "/older"
    server.redirects["/older"] = server.url + "/set.zip"
    fetch(server, tmp_path / "a", path="/old")
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirects_to_other_schemes_are_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.redirects["/old"] = target
    with pytest.raises(FetchError, match="no http"):
        fetch(server, tmp_path / "a", path="/old")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "target", ["http://[bad", "//[", "http://127.0.0.1:abc/x", "//a..b/x", "http://[v1.x]/"]
)
def test_redirects_to_no_address_are_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.redirects["/old"] = target
    with pytest.raises(FetchError, match=r"redirects to something else: .* is no http|cannot be asked"):
        fetch(server, tmp_path / "a", path="/old")
    assert len(server.seen) == 1


def test_redirects_come_to_an_end(server: Server, tmp_path: Path) -> None:
    server.redirects["/round"] = "/round"
    with pytest.raises(FetchError, match="redirects"):
        fetch(server, tmp_path / "a", path="/round")


def test_no_step_down_from_https() -> None:
    with pytest.raises(FetchError, match="from https"):
        fetch_http._check_url("http://example.org/a", after="https://example.org/a")


@pytest.mark.parametrize("has_length", [True, False])
def test_the_limit_holds_with_and_without_a_length(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_length: bool
) -> None:
    url = server.url + "/set.zip"
    if not has_length:
        server.without_length.add("/set.zip")
    monkeypatch.setattr(downloads, "_CHUNK", 400)
    with pytest.raises(
        FetchError, match="bytes, more than the limit" if has_length else "more than the limit"
    ):
        download(lambda: url, tmp_path / "a", source=url, max_bytes=1000, retries=QUICK, progress=False)
    part = tmp_path / "a.part"
    # Of a length that is said nothing is fetched, else no more than the limit.
    assert (part.stat().st_size if part.exists() else 0) == (0 if has_length else 800)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1"])
def test_a_length_that_is_none_says_nothing(server: Server, tmp_path: Path, length: str) -> None:
    server.headers["/set.zip"] = {"Content-Length": length}
    fetch(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_dead_server_is_named(tmp_path: Path) -> None:
    with serving() as server:
        url = server.url + "/set.zip"
    with pytest.raises(FetchError, match=r"ConnectionError, 3 attempts"):
        download(lambda: url, tmp_path / "a", source=url, retries=QUICK, progress=False)


def test_secrets_in_addresses_are_not_shown(server: Server) -> None:
    assert shown("https://user:word@example.org:8443/a/b.zip?token=1#x") == "https://example.org:8443/a/b.zip"
    with pytest.raises(FetchError) as caught:
        open_url("ftp://user:word@example.org/a?token=1", headers={}, retries=QUICK, stream=False)
    assert "word" not in str(caught.value)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 200_000, "no JSON"),
        (b"<html>sign in</html>", "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'"\xff\xfe', "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"a": "' + bytes(2000) + b'"}', "longer than 1000 bytes"),
    ],
)
def test_answers_that_are_no_json(
    server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes, message: str
) -> None:
    if "longer" in message:
        monkeypatch.setattr(fetch_http, "_MAX_JSON_BYTES", 1000)
        monkeypatch.setattr(fetch_http, "_CHUNK", 100)
    server.files["/api"] = body
    with pytest.raises(FetchError, match=f"the API: the answer is {message}"):
        get_json(server.url + "/api", retries=QUICK, what="the API")
    assert len(server.seen) == 1


def test_half_an_answer_and_a_busy_server_are_asked_again(server: Server) -> None:
    server.files["/api"] = b'{"a": 1}'
    server.cut_after["/api"] = [3]
    server.failures["/api"] = [500]
    assert get_json(server.url + "/api", retries=QUICK, what="the API") == {"a": 1}
    assert len(server.seen) == 3
