"""A vision model over an API: what is asked, what is taken for an answer, and every way to get none."""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from src.captioning.base import Subject
from src.captioning.llm import LlmCaptioner
from src.captioning.work import write_captions
from src.data.readers.known import known_captions
from src.errors import UserError
from tests.captioning.api_server import KEY, caption_of
from tests.data.pictures import noise_image, photo_folder

pytest.importorskip("anthropic")
TOY = Subject(placeholder="sksToy", class_word="toy")


def captioner(server, **options):
    settings = {"instruction": "Say what is there.", "model": "claude-test", "base_url": server.url}
    return LlmCaptioner(**{**settings, **options})


def write(server, folder, *, num_images=5, suffix="png", **options):
    """Captions as they were written, batch by batch, and the report."""
    photo_folder(folder, num_images, captions=False, suffix=suffix)
    writer = captioner(server, **options)
    batches = []
    images = {path.name: path for path in sorted(folder.glob(f"*.{suffix}"))}
    report = write_captions(
        writer, images, write=lambda some: batches.append(dict(some)), background=(255, 255, 255)
    )
    return batches, report, writer


def all_of(batches):
    return {name: caption for batch in batches for name, caption in batch.items()}


def test_what_is_asked(server, tmp_path):
    examples = photo_folder(tmp_path / "examples", 2, captions=False)
    for number in range(2):
        (examples / f"IMG_{number:04d}.txt").write_text(f"an example, {number}")
    folder = tmp_path / "photos"
    folder.mkdir()
    noise_image(7, size=(900, 300)).save(folder / "wide.png")
    batches, report, _ = write(
        server, folder, num_images=11, examples=str(examples), max_side=256, subject=TOY
    )
    assert server.asked == [10, 2]
    assert [len(batch) for batch in batches] == [10, 2]
    assert report.problems == []
    assert (report.num_written, report.num_left, report.stopped) == (12, 0, None)
    first = server.questions[0]
    # The library's way of sending it has changed before.
    assert KEY in (first.headers["x-api-key"], (first.headers["Authorization"] or "").removeprefix("Bearer "))
    assert first.headers["anthropic-version"]
    assert first.body["model"] == "claude-test"
    assert "Say what is there." in first.body["system"]
    assert '"sksToy toy"' in first.body["system"]
    assert first.labels == [f"Image {number}:" for number in range(1, 11)]
    schema = first.body["output_config"]["format"]
    assert schema["type"] == "json_schema"
    assert schema["schema"]["required"] == [str(number) for number in range(1, 11)]
    assert schema["schema"]["additionalProperties"] is False
    assert [image.size for image in first.opened()] == [(48, 40)] * 10  # none is enlarged
    assert [image.size for image in server.questions[1].opened()] == [(48, 40), (256, 85)]
    # Each image has the caption that was said of it.
    assert all_of(batches)["wide.png"] == caption_of(server.questions[1].images[1])
    shown, said = first.body["messages"][:2]
    assert len(shown["content"]) == 4
    assert json.loads(said["content"]) == {"1": "an example, 0", "2": "an example, 1"}


def without(number):
    return lambda answer: {name: caption for name, caption in answer.items() if name != number}


def changed(**captions):
    return lambda answer: {**answer, **{name.strip("_"): caption for name, caption in captions.items()}}


@pytest.mark.parametrize(
    ("words", "asked_again"),
    [
        (without("2"), 1),
        (changed(_3="  "), 1),
        (changed(_3=None), 1),
        (changed(_3=["a", "b"]), 1),
        (changed(_3="no placeholder here"), 1),
        (changed(_3="sksToy " + "x" * 20_000), 1),
        (lambda answer: {}, 5),
        (changed(_6="one too many"), 5),
        (changed(photo="an invented name"), 5),
        (lambda answer: json.dumps(answer)[:-1] + ', "1": "sksToy twice"}', 5),
        (lambda answer: list(answer.values()), 5),
        (lambda answer: "Here are your captions: " + json.dumps(answer), 5),
        (lambda answer: json.dumps(answer)[:30], 5),
        (lambda answer: "[" * 100_000, 5),
        ("", 5),
    ],
)
def test_a_wrong_answer_is_asked_again(server, tmp_path, words, asked_again):
    server.script = [words]
    batches, report, writer = write(server, tmp_path, subject=TOY)
    assert server.asked == [5, asked_again]
    assert report.problems == []
    assert len(all_of(batches)) == 5
    right = {caption_of(data) for question in server.questions for data in question.images}
    assert set(all_of(batches).values()) <= right
    assert writer.figures() == {"answers": 2, "input_tokens": 2000, "output_tokens": 200}


def test_what_stays_wrong_is_a_problem(server, tmp_path):
    server.script = [without("2"), lambda answer: {}, changed(_1="")]
    server.stop_reason = "max_tokens"
    batches, report, _ = write(server, tmp_path, max_asks=3, batch_size=3)
    assert server.asked == [3, 1, 1, 2]
    assert sorted(all_of(batches)) == ["IMG_0000.png", "IMG_0002.png", "IMG_0003.png", "IMG_0004.png"]
    (problem,) = report.problems
    assert problem.file == "IMG_0001.png"
    assert "asked 3 times" in problem.message
    assert "max_tokens" in problem.message
    assert report.num_left == 0


@pytest.mark.parametrize("trouble", [429, 500, 502, 529, 408, "garbage", "half", "other"])
def test_trouble_that_passes(server, tmp_path, trouble):
    server.script = [trouble, trouble]
    batches, _, writer = write(server, tmp_path)
    assert server.asked == [5, 5, 5]
    assert len(all_of(batches)) == 5
    assert writer.figures()["answers"] == 1


def test_retry_after_is_honoured(server, tmp_path):
    server.script, server.headers = [429], {"Retry-After": "1"}
    write(server, tmp_path)
    first, second = server.questions
    assert second.time - first.time >= 1.0


def test_a_server_that_asks_for_too_much_patience(server, tmp_path):
    server.script, server.headers = [429], {"Retry-After": "3600"}
    with pytest.raises(UserError, match=r"429 and asks to wait 60 minutes.*What was written stays"):
        write(server, tmp_path)
    assert len(server.questions) == 1


def test_a_server_that_hangs(server, tmp_path):
    server.script = ["hang"]
    batches, _, _ = write(server, tmp_path, timeout_seconds=0.3)
    assert len(server.questions) == 2
    assert len(all_of(batches)) == 5


def test_trouble_that_stays(server, tmp_path):
    server.script = [500] * 9
    with pytest.raises(UserError, match=r"answered 500 \(no luck with 500\), 3 attempts.*What was written"):
        write(server, tmp_path, attempts=3)
    assert len(server.questions) == 3


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "Check ANTHROPIC_API_KEY"),
        (403, "ANTHROPIC_API_KEY"),
        (404, "captioner.model=claude-test"),
        (400, "no luck with 400"),
        (302, "refused with 302"),
    ],
)
def test_refusals_are_not_repeated(server, tmp_path, status, remedy):
    server.script = [status]
    server.headers = {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(UserError, match=remedy) as caught:
        write(server, tmp_path)
    assert len(server.questions) == 1
    assert KEY not in str(caught.value)


def test_nobody_there(server, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9.*2 attempts"):
        write(server, tmp_path, base_url="http://127.0.0.1:9", attempts=2)


def test_what_it_costs(server, tmp_path):
    _, _, writer = write(server, tmp_path, batch_size=2)
    assert "3 answers, 3,000 input and 300 output tokens; the cost is not known" in writer.summary()
    _, _, writer = write(server, tmp_path, batch_size=2, price_input=1, price_output=5.0)
    assert writer.summary() == "3 answers, 3,000 input and 300 output tokens, $0.0045"
    assert writer.figures()["cost"] == pytest.approx(0.0045)


def test_limits(server, tmp_path):
    # An answer costs $0.0015 here: a third one would pass the limit.
    batches, report, writer = write(
        server, tmp_path, batch_size=1, price_input=1, price_output=5, max_cost=0.004
    )
    assert len(all_of(batches)) == 2
    assert (report.stopped, report.num_left) == ("captioner.max_cost=0.004", 3)
    assert writer.figures()["cost"] <= 0.004
    batches, report, _ = write(server, tmp_path, max_images=2)
    assert (len(all_of(batches)), report.stopped, report.num_left) == (2, "captioner.max_images=2", 3)
    # Asking again costs, too.
    server.script = [without("1")] * 9
    _, report, writer = write(server, tmp_path, max_asks=9, price_input=1, price_output=5, max_cost=0.004)
    assert writer.figures()["answers"] == 2
    assert "asked 2 times" in report.problems[0].message


def test_the_first_question_is_measured_by_its_images(server, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(2):
        noise_image(number, size=(1500, 1500)).save(folder / f"{number}.png")
    # 1500 x 1500 / 750 = 3,000 tokens an image, $0.003.
    prices = {"max_side": 1568, "price_input": 1, "price_output": 0, "batch_size": 2}
    with pytest.raises(
        UserError, match=r"max_cost=0\.005: the first question alone would cost about \$0\.006"
    ):
        write(server, folder, num_images=0, max_cost=0.005, **prices)
    assert server.questions == []
    batches, _, _ = write(server, folder, num_images=0, max_cost=0.007, **prices)
    assert len(all_of(batches)) == 2


def test_images_that_fail_do_not_use_up_max_images(server, tmp_path):
    photo_folder(tmp_path, 6, captions=False)
    for number in (0, 1):
        (tmp_path / f"IMG_{number:04d}.png").write_bytes(b"\x89PNG cut")
    images = {path.name: path for path in sorted(tmp_path.glob("*.png"))}
    found = {}
    report = write_captions(
        captioner(server, max_images=2), images, write=found.update, background=(255, 255, 255)
    )
    assert sorted(found) == ["IMG_0002.png", "IMG_0003.png"]
    assert (report.num_written, report.num_left, report.stopped) == (2, 2, "captioner.max_images=2")
    assert len(report.problems) == 2
    assert server.asked == [2]


def test_an_image_that_cannot_be_read(server, tmp_path):
    photo_folder(tmp_path, 3, captions=False)
    (tmp_path / "IMG_0001.png").write_bytes(b"\x89PNG cut")
    images = {path.name: path for path in sorted(tmp_path.glob("*.png"))}
    found = {}
    report = write_captions(captioner(server), images, write=found.update, background=(255, 255, 255))
    assert sorted(found) == ["IMG_0000.png", "IMG_0002.png"]
    assert [problem.file for problem in report.problems] == ["IMG_0001.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "captioner.batch_size=0"),
        ({"max_side": 10}, "captioner.max_side=10"),
        ({"max_asks": True}, "captioner.max_asks=True"),
        ({"attempts": 0}, "captioner.attempts=0"),
        ({"max_images": 0}, "captioner.max_images=0"),
        ({"timeout_seconds": 0}, "captioner.timeout_seconds=0"),
        ({"instruction": " "}, "captioner.instruction"),
        ({"base_url": "ftp://x"}, "captioner.base_url=ftp://x"),
        ({"price_input": 1}, "go together"),
        ({"price_input": -1, "price_output": 1}, "captioner.price_input=-1"),
        ({"max_cost": 0, "price_input": 1, "price_output": 1}, "captioner.max_cost=0 lets nothing be asked"),
        ({"max_cost": -1, "price_input": 1, "price_output": 1}, "captioner.max_cost=-1"),
        ({"max_cost": 1}, "captioner.max_cost needs captioner.price_input"),
        ({"examples": "/nowhere"}, "captioner.examples=/nowhere is no folder"),
    ],
)
def test_options_out_of_range(server, options, message):
    with pytest.raises(UserError, match=message):
        captioner(server, **options)
    assert server.questions == []


def test_examples_that_cannot_serve(server, tmp_path):
    folder = photo_folder(tmp_path / "one", 2, captions=False)
    (folder / "IMG_0000.txt").write_text("one")
    with pytest.raises(UserError, match=r"IMG_0001\.png has no caption"):
        captioner(server, examples=str(folder))
    with pytest.raises(UserError, match="holds 21 images"):
        captioner(server, examples=str(photo_folder(tmp_path / "many", 21)))


@pytest.mark.parametrize("key", [None, "", "  ", "sk-\u044f", "two\nlines"])
def test_the_key_comes_from_the_environment(server, monkeypatch, key):
    if key is None:
        monkeypatch.delenv("ANTHROPIC_API_KEY")
    else:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    with pytest.raises(
        UserError, match=r"ANTHROPIC_API_KEY is (not set|no key)\. Set it, or put it into \.env"
    ):
        captioner(server)


@pytest.mark.parametrize(
    "address", ["http://localhost:abc", "not a url", "", "http://[bad", "http://1.2.3.999", "https://[v1.x]/"]
)
@pytest.mark.parametrize("from_environment", [True, False])
def test_an_address_that_is_none(server, monkeypatch, address, from_environment):
    if from_environment:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
    name = "ANTHROPIC_BASE_URL" if from_environment else r"captioner\.base_url"
    with pytest.raises(UserError, match=rf"{name}.*(must be an address|names no host)"):
        captioner(server, base_url=None if from_environment else address)


def test_a_password_in_the_address_is_refused(server):
    with pytest.raises(UserError, match="must not hold a password") as caught:
        captioner(server, base_url="https://me:hidden@example.org")
    assert "hidden" not in str(caught.value)


def test_what_a_photo_says_of_its_owner_is_not_sent(server, tmp_path):
    exif = Image.Exif()
    exif[0x0110], exif[0x010E] = "Phone 7", "secret place"
    noise_image(1).save(tmp_path / "IMG_0000.jpg", exif=exif.tobytes(), comment=b"secret words", dpi=(72, 72))
    write(server, tmp_path, num_images=0, suffix="jpg")
    data = base64.b64decode(server.questions[0].images[0])
    assert not any(word in data for word in (b"secret", b"Phone", b"Exif", b"IMG_0000"))
    assert "IMG_0000" not in json.dumps(server.questions[0].body)


def test_without_the_package(server, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="DARKROOM_EXTRAS=1"):
        captioner(server)


PROGRAM = """
import sys
from pathlib import Path
from src.captioning.llm import LlmCaptioner
from src.captioning.work import write_captions
from src.data.captions_file import open_captions_file
from src.data.readers.known import known_captions

folder, url = Path(sys.argv[1]), sys.argv[2]
captioner = LlmCaptioner(instruction="Say.", model="claude-test", base_url=url, batch_size=2)
with open_captions_file(folder) as file:
    missing = known_captions(folder, photos=False).without
    write = lambda captions: file.add(captions, column="text", captioner=captioner.label)
    write_captions(captioner, missing, write=write, background=(255, 255, 255))
"""


def test_killed_it_goes_on_where_it_stopped(server, tmp_path):
    """The same through the command, and Ctrl-C, is the slow test in tests/run/test_caption.py."""
    folder = photo_folder(tmp_path / "set", 6, captions=False)
    server.script = [lambda answer: answer, lambda answer: answer, "hang"]
    command = [sys.executable, "-c", PROGRAM, str(folder), server.url]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while len(server.questions) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait(30) == -9
    assert len((folder / "metadata.jsonl").read_text().splitlines()) == 4
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == 0
    assert len((folder / "metadata.jsonl").read_text().splitlines()) == 6
    assert known_captions(folder, photos=False).without == {}
    # Nothing was asked twice but the batch that was under way.
    first, second, stopped, again = [question.images for question in server.questions]
    assert again == stopped
    assert len({*first, *second, *again}) == 6
