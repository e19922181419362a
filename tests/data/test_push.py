"""Where an export may be pushed to. What is sent, and that it is private, is in test_export.py."""

from types import SimpleNamespace

import pytest

from src.data import push
from src.errors import UserError


@pytest.fixture
def hub(monkeypatch):
    """Sets which files the hub says that a private repository holds."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(push, "get_token", lambda: "hf_x")

    def holds(*names):
        info = SimpleNamespace(private=True, siblings=[SimpleNamespace(rfilename=name) for name in names])
        monkeypatch.setattr(push, "HfApi", lambda: SimpleNamespace(dataset_info=lambda *_, **__: info))

    return holds


def test_an_empty_repository_is_taken(hub):
    hub(".gitattributes", "README.md")
    push.require_hub("me/mine")


def test_a_repository_with_files_is_refused(hub):
    hub(".gitattributes", "README.md", "train/b.png", "train/a.png")
    with pytest.raises(
        UserError, match=r"me/mine is there and holds 2 files, such as train/a\.png"
    ) as caught:
        push.require_hub("me/mine")
    assert "\n" not in str(caught.value)
