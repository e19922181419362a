"""The pocket models, made once a test session. Tests read them and never write into these folders."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pocket_sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory, "sd15")


@pytest.fixture(scope="session")
def pocket_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory, "sdxl")


@pytest.fixture(scope="session", params=["sd15", "sdxl"])
def pocket(request: pytest.FixtureRequest) -> Path:
    """Both architectures, one after the other."""
    folder: Path = request.getfixturevalue(f"pocket_{request.param}")
    return folder


def _make(tmp_path_factory: pytest.TempPathFactory, architecture: str) -> Path:
    # Imported here: a session that needs no model does not pay for importing diffusers.
    from src.pocket.make_models import make_pocket

    folder = tmp_path_factory.mktemp("pocket") / architecture
    make_pocket(folder, architecture=architecture)
    return folder
