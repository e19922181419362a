"""Commands that a run prints can be pasted where it was started."""

import subprocess
import sys

from src.interpreter import python


def test_it_is_short_inside_its_folder_and_whole_elsewhere(tmp_path, monkeypatch):
    inside = tmp_path / "my project"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (inside / ".venv/bin").mkdir(parents=True)
    (inside / ".venv/bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(inside / ".venv/bin/python"))
    for folder, shown in (
        (inside, ".venv/bin/python"),
        (tmp_path / "my project" / ".venv", "bin/python"),
        (inside / ".venv/bin", f"'{inside}/.venv/bin/python'"),
        (elsewhere, f"'{inside}/.venv/bin/python'"),
    ):
        monkeypatch.chdir(folder)
        assert python() == shown
        done = subprocess.run(
            f"{python()} -c 'print(1)'", shell=True, capture_output=True, text=True, check=False
        )
        assert done.stdout == "1\n", done.stderr
