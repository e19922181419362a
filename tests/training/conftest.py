"""Tiny images on disk, made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.data.records import Record
from tests.training.tiny import Tiny, make_images


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """14 images: with batches of 4 a pass is 3 full ones and a half."""
    return make_images(tmp_path_factory.mktemp("images"), 20)[:14]


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return make_images(tmp_path_factory.mktemp("held_out"), 20)[14:]


@pytest.fixture
def tiny(tmp_path: Path, records: list[Record]) -> Callable[..., Tiny]:
    """Makes settings of a tiny run in a folder of its own name."""

    def make(name: str = "run", **settings: Any) -> Tiny:
        return Tiny(folder=tmp_path / name, **({"records": records} | settings))

    return make
