import pytest

from src.checks import is_web_address, require_choice, require_web_address
from src.config.checks import parse_size, require_positive
from src.config.dataset_schema import DatasetConfig
from src.errors import UserError


def test_a_size_is_a_number_or_a_pair():
    assert parse_size("dataset.resolution", 512) == (512, 512)
    assert parse_size("dataset.resolution", [1280, 720]) == (1280, 720)


@pytest.mark.parametrize(
    "value", ["512", 512.0, True, [512], [512, 512, 512], None, ["a", "b"], {"width": 8}]
)
def test_anything_else_is_no_size(value):
    with pytest.raises(UserError, match=r"dataset\.resolution.*whole number or \[width, height\]"):
        parse_size("dataset.resolution", value)


def test_a_size_that_is_not_divisible_names_the_nearest():
    with pytest.raises(UserError, match="96 and 104"):
        parse_size("dataset.resolution", 100)
    with pytest.raises(UserError, match="not a positive multiple"):
        parse_size("dataset.resolution", 0)


def test_a_wrong_choice_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean lora"):
        require_choice("adapter.unet", "lor", ("lora", "full", "frozen"))


@pytest.mark.parametrize(
    "address",
    [
        "http://[bad",
        "http://localhost:abc/x",
        "http://localhost:99999",
        "http://",
        "https:///x",
        "ftp://example.org",
        "example.org",
        "http://a b/",
        "http://a..b",
        "http://1.2.3.999",
        "http://[v1.x]/",
        "http://a/\0",
        " http://a",
        "",
        None,
        7,
    ],
)
def test_what_is_no_web_address(address):
    with pytest.raises(
        UserError, match=r"some\.key=.* must be an address that begins with https:// or http://"
    ):
        require_web_address("some.key", address)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000",
        "HTTPS://u:p@example.org/a b.zip?x=1#y",
        "http://[::1]:80/",
        "https://пример.рф/",
    ],
)
def test_web_addresses(address):
    assert is_web_address(address)


def test_a_password_in_a_wrong_address_is_not_shown():
    with pytest.raises(UserError, match="must be an address") as caught:
        require_web_address("dataset.url", "https://me:hidden@host:abc/x?token=secret")
    assert not any(word in str(caught.value) for word in ("hidden", "secret"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://[bad"}, r"dataset\.url=http://\[bad must be an address"),
        ({"url": "http://localhost:abc/x"}, r"dataset\.url=.* must be an address"),
        ({"url": "ftp://example.org/x.zip"}, r"dataset\.url=.* must be an address"),
        ({"yandex_api": "http://localhost:abc"}, r"dataset\.yandex_api=.* must be an address"),
    ],
)
def test_addresses_of_the_dataset_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        DatasetConfig(name="x", path="x", **options)


@pytest.mark.parametrize(
    "url", ["x.zip", "/data/x y.zip", "file:///data/x.zip", "https://u:p@a.org/x", "C:/x"]
)
def test_archives_on_this_machine_are_no_addresses(url):
    assert DatasetConfig(name="x", path="x", url=url).url == url


@pytest.mark.parametrize(
    ("path", "export"),
    [("photos", "photos/out"), ("out/photos", "out"), ("photos", "photos/"), ("photos", "link/out")],
)
def test_an_export_inside_the_dataset_is_refused(tmp_path, monkeypatch, path, export):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("photos")
    with pytest.raises(
        UserError, match=rf"dataset\.export={export} and dataset\.path={path} must not lie one in"
    ):
        DatasetConfig(name="x", path=path, export=export)
    assert DatasetConfig(name="x", path=path, export="photos_out").export == "photos_out"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_means_positive_and_finite(value):
    with pytest.raises(UserError, match="positive"):
        require_positive("optimizer.lr", value)
