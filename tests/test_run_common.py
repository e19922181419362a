"""The shell helper behind the three run scripts, under plain sh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "cut", "sha256sum", "dirname", "cat", "rm", "mkdir", "printf")


@pytest.fixture
def project(tmp_path):
    """A folder with the helper and small requirements files, and nothing else."""
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(ROOT / "run_common.sh", folder)
    for name in ("requirements.txt", "requirements-extras.txt", "requirements-dev.txt"):
        (folder / name).write_text(f"# {name}\n")
    return folder


@pytest.fixture
def empty_path(tmp_path):
    """A PATH with the usual tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    return folder


def sh(project, script, **env):
    environment = {"PATH": os.environ["PATH"], "HOME": str(project)} | {k: str(v) for k, v in env.items()}
    return subprocess.run(
        ["sh", "-c", f'set -u; ROOT="{project}"; . "$ROOT/run_common.sh"; {script}'],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def fake_python(path, log, *, supported=True):
    """A program that answers like Python to the helper and writes down how it was called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\n'
        f'case "$*" in "-c import sys"*) exit {0 if supported else 1} ;; esac\n'
        'case "$1 $2" in "-m venv") mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python" ;; esac\n'
    )
    path.chmod(0o755)


def test_env_file_is_read_and_not_executed(project):
    (project / ".env").write_text(
        "# a comment\nA=1\nexport B='two words'\nC=\"$(touch made)\"\nD=x=y\nnot a line\nE=from file\r\n9X=1\nF;G=2\n=foo\nexport =foo\nH=last\n"
    )
    done = sh(
        project,
        'cd "$ROOT"; read_env_file "$ROOT/.env"; printf "%s|" "$A" "$B" "$C" "$D" "$E" "${F-unset}" "$H"; sh -c \'printf %s "$B"\'',
        A="already",
    )
    assert done.stdout == "already|two words|$(touch made)|x=y|from file|unset|last|two words", done.stderr
    assert done.stderr == ""
    assert not (project / "made").exists()


def test_no_python_is_one_clear_line(project, empty_path):
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_old_python_is_the_same_line(project, empty_path, tmp_path):
    fake_python(empty_path / "python3", tmp_path / "log", supported=False)
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_installs_once_then_again_only_when_the_file_changes(project, empty_path, tmp_path):
    log = tmp_path / "log"
    fake_python(empty_path / "python3", log)
    for tool in ("chmod",):
        (empty_path / tool).symlink_to(shutil.which(tool))

    def installs():
        done = sh(project, 'prepare requirements-dev.txt; printf %s "$PYTHON"', PATH=empty_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == str(project / ".venv/bin/python")
        return [line for line in log.read_text().splitlines() if "pip install" in line], done.stderr

    first, said = installs()
    assert len(first) == 1
    assert "--require-hashes" in first[0]
    assert "installing requirements-dev.txt" in said
    again, said = installs()
    assert len(again) == 1
    assert said == ""
    # The larger file holds the smaller one.
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert done.stderr == ""
    (project / "requirements-dev.txt").write_text("# changed\n")
    assert len(installs()[0]) == 2


def _says_it_installs(project, path):
    done = sh(project, "prepare requirements.txt", PATH=path)
    assert done.returncode == 0, done.stderr
    return "installing requirements.txt" in done.stderr


def test_going_back_to_an_older_lock_installs_it_again(project, empty_path, tmp_path):
    """Its packages are no longer there: the lock in between has replaced them."""
    (empty_path / "chmod").symlink_to(shutil.which("chmod"))
    fake_python(empty_path / "python3", tmp_path / "log")
    lock = project / "requirements.txt"
    for text in ("# A\n", "# B\n", "# A\n"):
        lock.write_text(text)
        assert _says_it_installs(project, empty_path)
        assert not _says_it_installs(project, empty_path)


def test_an_interrupted_upgrade_is_not_installed(project, empty_path, tmp_path):
    (empty_path / "chmod").symlink_to(shutil.which("chmod"))
    fake_python(empty_path / "python3", tmp_path / "log")
    assert _says_it_installs(project, empty_path)
    old = (project / "requirements.txt").read_text()
    python = project / ".venv/bin/python"
    whole = python.read_text()
    python.write_text('#!/bin/sh\ncase "$*" in *install*) exit 1 ;; esac\n')
    (project / "requirements.txt").write_text("# new\n")
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert done.returncode != 0
    assert "the installation failed" in done.stderr
    python.write_text(whole)
    (project / "requirements.txt").write_text(old)
    assert _says_it_installs(project, empty_path)


def test_a_half_made_environment_is_not_left_behind(project, empty_path, tmp_path):
    """Debian without python3-venv: -m venv makes bin/python and then fails."""
    (empty_path / "chmod").symlink_to(shutil.which("chmod"))
    python = empty_path / "python3"
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in "-m venv") mkdir -p "$3/bin"; cat "$0" >"$3/bin/python"; '
        'chmod +x "$3/bin/python"; exit 1 ;; esac\n'
    )
    python.chmod(0o755)
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (project / ".venv").exists()
    fake_python(python, tmp_path / "log")
    assert _says_it_installs(project, empty_path)


@pytest.mark.parametrize("has_ensurepip", [True, False])
def test_an_environment_without_pip(project, empty_path, tmp_path, has_ensurepip):
    log, has_pip = tmp_path / "log", tmp_path / "has pip"
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    answer = f': >"{has_pip}"' if has_ensurepip else "exit 1"
    python.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\n'
        f'case "$*" in "-m ensurepip") {answer} ;; '
        f'"-m pip"*) [ -e "{has_pip}" ] ;; esac\n'
    )
    python.chmod(0o755)
    done = sh(project, "prepare requirements.txt", PATH=empty_path)
    assert ("pip install" in log.read_text()) == has_ensurepip
    assert (done.returncode == 0) == has_ensurepip
    assert ("Remove the folder" in done.stderr) != has_ensurepip


def test_a_name_on_the_path_becomes_a_path(project):
    """The tools of a gate are looked for beside it."""
    folder = Path(sys.executable).parent
    done = sh(
        project,
        'prepare requirements.txt; printf %s "$PYTHON"',
        DARKROOM_PYTHON="python3",
        PATH=f"{folder}:{os.environ['PATH']}",
    )
    assert done.stdout == str(folder / "python3")


def test_an_environment_of_ones_own(project):
    done = sh(project, 'prepare requirements.txt; printf %s "$PYTHON"', DARKROOM_PYTHON=sys.executable)
    assert done.stdout == sys.executable
    assert not (project / ".venv").exists()
    done = sh(project, "prepare requirements.txt", DARKROOM_PYTHON="/nowhere/python")
    assert done.returncode != 0
    assert "DARKROOM_PYTHON=/nowhere/python is not there" in done.stderr


@pytest.mark.parametrize("script", ["train_run.sh", "infer_run.sh", "test_run.sh"])
def test_scripts_are_posix_and_pass_arguments_through(script, tmp_path):
    assert subprocess.run(["sh", "-n", str(ROOT / script)], check=False).returncode == 0
    text = (ROOT / script).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert 'exec "$PYTHON"' in text
    assert '"$@"' in text


def test_waiting_threads_spin_briefly_unless_told_otherwise(project, tmp_path):
    fake_python(tmp_path / "python", tmp_path / "log")

    def spins(**env):
        script = 'prepare requirements.txt; printf %s "${GOMP_SPINCOUNT-unset}"'
        done = sh(project, script, DARKROOM_PYTHON=tmp_path / "python", **env)
        return done.stdout.splitlines()[-1]

    assert spins() == "1000"
    assert spins(GOMP_SPINCOUNT=7) == "7"
    assert spins(OMP_WAIT_POLICY="active") == "unset"
