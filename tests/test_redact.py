import pytest

from src.redact import flatten, redact, redact_text, redact_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/data.zip", "https://host/data.zip"),
        ("https://me:pw@host/data.zip", "https://***@host/data.zip"),
        (r"https\://me\:pw@host/data.zip", r"https\://***@host/data.zip"),
        ("url: s3://key@bucket/x\nnext: 1", "url: s3://***@bucket/x\nnext: 1"),
        ("https://h/x?part=1&access_token=abc&n=2", "https://h/x?part=1&access_token=***&n=2"),
        ("a photo of sksToy @ home", "a photo of sksToy @ home"),
    ],
)
def test_addresses_lose_their_secrets(text: str, expected: str) -> None:
    assert redact_text(text) == expected


def test_secrets_are_known_by_their_names() -> None:
    config = {
        "dataset": {"url": "https://me@host/x", "hf_token": "abc", "password": ""},
        "adapter": {"token_embedding": "train", "rank": 4},
        "fallbacks": ["https://a:b@host"],
    }
    assert redact(config) == {
        "dataset": {"url": "https://***@host/x", "hf_token": "***", "password": ""},
        "adapter": {"token_embedding": "train", "rank": 4},
        "fallbacks": ["https://***@host"],
    }


def test_flatten_keeps_empty_groups_and_lists() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1, 2]}) == {"a.b.c": 1, "a.d": {}, "e": [1, 2]}


def test_yaml_keeps_its_form() -> None:
    text = (
        "hub:\n  api_key: 'abc: d'\n  token: null\nadapter:\n  token_embedding: train\nurl: https://a@b/c\n"
    )
    expected = text.replace("'abc: d'", "***").replace("a@b", "***@b")
    assert redact_yaml(text) == expected
