"""-cn caption from the configuration to a dataset that can be trained on; and killed in the middle."""

import json
import signal
import subprocess
import sys
import time

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, plain, register
from src.config.cli import Job
from src.data.readers.imagefolder import read_imagefolder
from src.data.readers.subject import read_subject
from src.errors import UserError
from src.run.caption import run_caption
from tests.captioning.api_server import KEY, api_serving, caption_of
from tests.captioning.tiny_blip import make_tiny_blip
from tests.data.pictures import photo_folder
from tests.data.test_subject import captions, sidecars


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return make_tiny_blip(tmp_path_factory.mktemp("models") / "tiny-blip")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr("src.captioning.llm._PAUSE", 0.01)
    with api_serving() as running:
        yield running


def caption(folder, run_dir, *overrides):
    """Runs the command; returns its outcome and what it wrote down."""
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = compose("caption", overrides=[f"dataset.path={folder}", "run.name=x", *overrides])
    run_dir.mkdir(exist_ok=True)
    job = Job(run_dir=run_dir, name="x", resolved=plain(config), overrides=overrides, in_sweep=False)
    outcome = run_caption(check_config(config), job)
    return outcome, json.loads((run_dir / "captioned.json").read_text())


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_an_image_folder_by_blip(tmp_path, blip, capsys):
    folder = photo_folder(tmp_path / "set", 3, captions=False)
    by_hand = '{"file_name": "IMG_0001.png", "caption": "by hand"}'
    (folder / "metadata.jsonl").write_text(by_hand)
    settings = ("dataset=imagefolder", "captioner=blip", f"captioner.model={blip}", "captioner.batch_size=2")
    outcome, figures = caption(folder, tmp_path / "run", *settings)
    assert outcome.exit_code == 0
    assert figures == {"images": 3, "had_captions": 1, "written": 2, "problems": 0, "left": 0}
    assert (folder / "metadata.jsonl").read_text().startswith(by_hand + "\n")
    assert [row.get("captioner") for row in rows(folder)] == [None, "blip:tiny-blip", "blip:tiny-blip"]
    result = read_imagefolder(path=folder)
    assert result.problems == []
    assert captions(result)["IMG_0001.png"] == "by hand"
    assert "Review metadata.jsonl before training." in capsys.readouterr().out
    # Again: nothing is left to do, and no model is loaded for it.
    before = (folder / "metadata.jsonl").read_bytes()
    outcome, figures = caption(folder, tmp_path / "again", *settings[:2], "captioner.model=/nowhere")
    assert figures == {"images": 3, "had_captions": 3}
    assert (folder / "metadata.jsonl").read_bytes() == before
    assert "1 with captions by hand, 2 by a captioner, 0 without" in capsys.readouterr().out


def test_photos_of_a_subject_with_some_captions(tmp_path, server, capsys):
    pytest.importorskip("anthropic")
    folder = photo_folder(tmp_path / "photos", 5, captions=False)
    (folder / "captions.txt").write_text("IMG_0000.png|sksToy toy by hand\n")
    sidecars(folder, IMG_0003="sksToy toy beside")
    outcome, figures = caption(
        folder,
        tmp_path / "run",
        "captioner=llm",
        f"captioner.base_url={server.url}",
        "captioner.price_input=1",
        "captioner.price_output=5",
    )
    assert outcome.exit_code == 0
    assert (figures["had_captions"], figures["written"], figures["answers"]) == (2, 3, 1)
    assert figures["cost"] == pytest.approx(0.0015)
    assert server.asked == [3]
    assert '"sksToy toy"' in server.questions[0].body["system"]
    said = capsys.readouterr().out
    assert "1 answers, 1,000 input and 100 output tokens, $0.0015" in said
    assert "then rename captions.txt" in said
    # As it says: without captions.txt all captions are read, the handmade ones unchanged.
    (folder / "captions.txt").rename(tmp_path / "captions.txt")
    result = read_subject(path=folder, placeholder="sksToy")
    assert result.problems == []
    found = captions(result)
    assert found["IMG_0000.png"] == "sksToy toy by hand"
    assert found["IMG_0003.png"] == "sksToy toy beside"
    assert found["IMG_0001.png"] == caption_of(server.questions[0].images[0])
    for file in (tmp_path / "run").iterdir():
        assert KEY not in file.read_text()
    assert KEY not in said


def test_a_problem_is_named_and_the_exit_code_says_so(tmp_path, server, capsys):
    pytest.importorskip("anthropic")
    folder = photo_folder(tmp_path / "set", 2, captions=False)
    (folder / "IMG_0001.png").write_bytes(b"no image")
    settings = ("dataset=imagefolder", "captioner=llm", f"captioner.base_url={server.url}")
    outcome, figures = caption(folder, tmp_path / "run", *settings)
    assert outcome.exit_code == 1
    assert (figures["written"], figures["problems"]) == (1, 1)
    assert "warning: IMG_0001.png: " in capsys.readouterr().out
    server.script = [500, 401]
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        caption(folder, tmp_path / "run", *settings)
    # What it used is said also when it fails.
    assert "llm:claude-haiku-5-5: 0 answers" in capsys.readouterr().out


def test_sets_that_are_not_captioned(tmp_path, blip):
    folder = photo_folder(tmp_path / "set", 1, captions=False)
    with pytest.raises(UserError, match="brings captions of its own"):
        caption(folder, tmp_path / "run", "dataset=arasaac")
    (folder / "metadata.jsonl").write_text("")
    (tmp_path / ".set.darkroom.json").write_text(json.dumps({"files": {"metadata.jsonl": [0]}}))
    with pytest.raises(UserError, match="lists no images"):
        caption(folder, tmp_path / "run", "dataset=imagefolder", f"captioner.model={blip}")
    photo_folder(folder, 2, captions=False)
    (folder / "metadata.jsonl").write_text('{"file_name": "IMG_0000.png", "text": "came with it"}\n')
    (tmp_path / ".set.darkroom.json").write_text(json.dumps({"files": {"metadata.jsonl": [54]}}))
    with pytest.raises(UserError, match=r"was downloaded with the images.*remove .*\.set\.darkroom\.json"):
        caption(folder, tmp_path / "run", "dataset=imagefolder", f"captioner.model={blip}")


@pytest.mark.parametrize(
    ("root", "override"),
    [("train", "captioner=blip"), ("prepare", "captioner=llm"), ("train", "command=caption")],
)
def test_a_captioner_goes_with_its_command(root, override):
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = compose(root, overrides=[override])
    with pytest.raises(UserError, match="-cn caption captioner="):
        check_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_it_goes_on(tmp_path, server, how):
    pytest.importorskip("anthropic")
    folder = photo_folder(tmp_path / "set", 6, captions=False)
    server.script = [lambda answer: answer, lambda answer: answer, "hang"]
    settings = (
        "dataset=imagefolder",
        "captioner=llm",
        f"captioner.base_url={server.url}",
        "captioner.batch_size=2",
    )
    command = [
        sys.executable,
        str(PROJECT_ROOT / "train.py"),
        "-cn",
        "caption",
        f"dataset.path={folder}",
        *settings,
    ]
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*command, f"paths.output_dir={tmp_path / 'out'}"], stdout=said, stderr=said, cwd=tmp_path
        )
        deadline = time.monotonic() + 120
        while len(server.questions) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(how)
        code = process.wait(60)
    said = (tmp_path / "said.txt").read_text()
    assert len(server.questions) == 3, said
    assert code == (-9 if how == signal.SIGKILL else 130), said
    assert len(rows(folder)) == 4
    if how == signal.SIGINT:
        assert "2 answers, 2,000 input" in said
        assert "Stopped by Ctrl-C. The same command starts again." in said
    _, figures = caption(folder, tmp_path / "run", *settings)
    assert (figures["had_captions"], figures["written"]) == (4, 2)
    # Nothing was asked twice but the batch that was under way.
    *first, stopped, again = [question.images for question in server.questions]
    assert again == stopped
    assert len({image for images in [*first, again] for image in images}) == 6
    assert read_imagefolder(path=folder).problems == []
