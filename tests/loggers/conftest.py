"""Every test starts with no ClearML credentials and ends with no ClearML task open."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from clearml.backend_api import Session
    from clearml.backend_interface.base import InterfaceBase

    from src.loggers.clearml_session import leave_behind

    for name in ("API_HOST", "WEB_HOST", "FILES_HOST", "API_ACCESS_KEY", "API_SECRET_KEY", "OFFLINE_MODE"):
        monkeypatch.delenv(f"CLEARML_{name}", raising=False)
    # Ours to set, past monkeypatch: set and taken away here, it is taken away again at the end.
    monkeypatch.setenv("CLEARML_CACHE_DIR", "")
    monkeypatch.delenv("CLEARML_CACHE_DIR")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no-clearml.conf"))
    yield
    leave_behind()
    # They know the server of this test.
    InterfaceBase._default_session = None
    Session._sessions_weakrefs.clear()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a picture, weights in a file, and weights in a folder."""
    folder = tmp_path / "files"
    (folder / "model").mkdir(parents=True)
    Image.new("RGB", (16, 8), "red").save(folder / "toy.png")
    (folder / "adapter.safetensors").write_bytes(b"weights")
    (folder / "model" / "unet.bin").write_bytes(b"unet")
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "a run"
