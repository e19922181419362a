"""The pocket judges, made once a test session."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dino/ and clip/."""
    # Imported here: a session that needs no judge does not pay for importing timm and open_clip.
    from src.pocket.make_evaluators import make_clip, make_dino

    folder = tmp_path_factory.mktemp("judges")
    make_dino(folder / "dino")
    make_clip(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def dino(judges: Path) -> Any:
    from src.metrics.features import DinoExtractor

    return DinoExtractor(model=str(judges / "dino"), label="pocket-random")


@pytest.fixture(scope="session")
def clip(judges: Path) -> Any:
    from src.metrics.features import ClipExtractor

    return ClipExtractor(model=str(judges / "clip"), label="pocket-random")
