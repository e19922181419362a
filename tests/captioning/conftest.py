"""What the tests of captioning share."""

import pytest

from tests.captioning.api_server import KEY, api_serving


@pytest.fixture
def server(monkeypatch):
    """The API, its key in the environment, and no patience between attempts."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.setattr("src.captioning.llm._PAUSE", 0.01)
    with api_serving() as running:
        yield running
