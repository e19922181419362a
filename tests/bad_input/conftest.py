"""A place to work in, and one where something is trained."""

import shutil
from pathlib import Path

import pytest

from tests.bad_input.place import Place


@pytest.fixture
def place(tmp_path: Path, pocket_sd15: Path, capfd: pytest.CaptureFixture[str]) -> Place:
    """Before any training."""
    return Place(tmp_path, pocket_sd15, capfd)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, pocket_sd15: Path) -> Path:
    """A folder in which the run `mine` was trained."""
    folder = tmp_path_factory.mktemp("trained")
    assert Place(folder, pocket_sd15).run("train").code == 0
    return folder


@pytest.fixture
def trained(
    trained_once: Path, tmp_path: Path, pocket_sd15: Path, capfd: pytest.CaptureFixture[str]
) -> Place:
    """A copy of it to spoil."""
    shutil.copytree(trained_once, tmp_path / "place")
    return Place(tmp_path / "place", pocket_sd15, capfd)
