"""The command line as a user meets it: each case is a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, script="train.py", cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.max_stps=3"], ["trainer.max_stps", "trainer.max_steps", "conf/trainer/default.yaml"]),
        (["+trainer.max_stps=3"], ["trainer.max_stps", "trainer.max_steps"]),
        (["++dataset.reader.default_captoin=x"], ["dataset.reader.default_caption"]),
        (["callbacks.samples.evry=3"], ["callbacks.samples.every", "conf/callbacks"]),
        (["modl=pocket"], ["modl", "Did you mean model"]),
        (["model=pockt"], ["model=pocket", "conf/model/"]),
        (["trainer.max_steps=many"], ["trainer.max_steps=many", "Integer"]),
        (["trainer.max_steps=["], ["Quote"]),
        (["adapter.rank=0"], ["adapter.rank=0"]),
        (["dataset.resolution=100"], ["96 and 104"]),
        (["dataset.reader._target_=os.system"], ["dataset.reader._target_=os.system is not allowed"]),
        (["trainer.batch_size=${nothing}"], ["trainer.batch_size", "nothing"]),
        (["-cn", "nothing"], ["nothing"]),
        (["--cfg", "job", "trainer.max_stps=3"], ["trainer.max_steps"]),
        (["trainer.seed=1", "--cfg", "job", "adapter.rank=0"], ["adapter.rank=0"]),
        (["trainer.num_validation_timesteps=5000"], ["trainer.num_validation_timesteps=5000", "1000"]),
        (["dataset.background=nocolour"], ["dataset.background=nocolour is no colour"]),
        (["model=from_adapter"], ["model.path is not set"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(arguments, expected, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    for part in expected:
        assert part in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "append to your config" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_shows_the_configuration_without_torch(tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{str(ROOT / 'train.py')!r}, '--cfg', 'job', 'adapter.rank=8']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as error:\n    assert not error.code, error.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rank: 8" in done.stdout


def test_help_explains_the_groups(tmp_path):
    for script, group in (
        ("train.py", "dataset    where images"),
        ("inference.py", "model      the base model"),
    ):
        done = run("--help", script=script, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert group in done.stdout


def test_a_yaml_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [inference, _self_]\nnum_images: 7\n")
    done = run("--config-dir", ".", "-cn", "mine", "--cfg", "job", script="inference.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "num_images: 7" in done.stdout


def test_a_typo_in_a_yaml_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [inference, _self_]\nnum_imags: 7\n")
    done = run("--config-dir", ".", "-cn", "mine", script="inference.py", cwd=tmp_path)
    assert done.returncode != 0
    assert "num_images" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_yaml_that_builds_on_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text("num_images: 7\n")
    done = run("--config-dir", ".", "-cn", "mine", script="inference.py", cwd=tmp_path)
    assert done.returncode != 0
    assert "defaults: [train, _self_]" in done.stderr


def test_several_processes_need_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(f"paths.output_dir={tmp_path}/out", cwd=tmp_path)
    assert done.returncode == 2
    assert "run.name=my_run" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "a photo of sksToy, on the moon",
        "it's (red): a & b!",
        "\u0444\u043e\u0442\u043e sksToy",
        'says "hi"',
        'back\\slash \\\\" and at the end\\',
        "plain",
    ],
)
def test_a_plain_text_is_a_prompt(text, tmp_path):
    done = run(f"prompts={text}", "--cfg", "job", "--package", "prompts", script="inference.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == text


def test_a_broken_yaml_is_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [inference, _self_]\nprompts: [a, b\n")
    done = run("--config-dir", ".", "-cn", "mine", script="inference.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.yaml" in done.stderr
    assert "line 3" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
