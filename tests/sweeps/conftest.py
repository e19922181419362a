"""A folder to sweep in. Caches are shared by the tests of a process."""

import pytest

from tests.sweeps.commands import Sweep


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sweep(tmp_path, cache):
    return Sweep(tmp_path, cache)
