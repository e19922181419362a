"""Keys, options and defaults on the pages are those of the configuration, and none is left out."""

import re
from functools import cache

import pytest
import yaml

from src.config.cli import CONFIG_DIR
from tests.documentation.pages import (
    COMMAND,
    FILE_SUFFIXES,
    GROUPS,
    PAGES,
    composed,
    help_template,
    inline,
    tables,
    text_of,
)


def leaves(config: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        found[key] = value
        if isinstance(value, dict):
            found |= leaves(value, f"{key}.")
    return found


@cache
def known_keys() -> frozenset[str]:
    """All keys of all options."""
    compositions = [composed("inference"), composed("train", "logger=[clearml,tensorboard,wandb]")]
    for group in ("dataset", "metrics", "model", "adapter", "optimizer", "captioner", "accelerate"):
        options = {file.stem for file in (CONFIG_DIR / group).glob("*.yaml")} - {"from_adapter"}
        compositions += [composed("train", f"{group}={option}") for option in sorted(options)]
    return frozenset(key for config in compositions for key in leaves(config))


def keys_in(span: str) -> list[str]:
    """The keys that a span of code names, alone or with a value: `trainer.seed`, `trainer.seed=1 model=sdxl`."""
    found = re.findall(rf"(?<![\w./-])((?:{'|'.join(GROUPS)})(?:\.[\w<>]+)+)(?![\w/-])", span)
    return [key for key in found if "<" not in key and not key.endswith(FILE_SUFFIXES)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_exist(page):
    text = page.read_text(encoding="utf-8")
    spans = [span for span in inline(text) if not COMMAND.fullmatch(span)]
    unknown = {key for span in spans for key in keys_in(span)} - known_keys()
    assert unknown == set()


def test_keys_are_recognised():
    assert keys_in("trainer.max_stps=3") == ["trainer.max_stps"]
    assert keys_in("a metrics.jsonl and callbacks.<name>, src.inference.x, docs/metrics.md") == []
    assert {"trainer", "dataset", "callbacks", "inference", "run"} <= set(GROUPS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_exist(page):
    for span in inline(page.read_text(encoding="utf-8")):
        for group, option in re.findall(r"(?<![\w.])(\w+)=(\w+)\b(?!\.)", span):
            if (CONFIG_DIR / group).is_dir():
                assert (CONFIG_DIR / group / f"{option}.yaml").is_file(), f"{page.name}: {span}"


def key_rows() -> list[tuple[str, str, str]]:
    """(page, key, default) of all tables of keys."""
    rows = []
    for page in PAGES:
        for table in tables(page.read_text(encoding="utf-8")):
            for row in table:
                if "Key" in row and "Default" in row:
                    keys = re.findall(r"`([^`]+)`", row["Key"])
                    assert keys, f"{page.name}: {row}"
                    rows += [(page.name, key, row["Default"]) for key in keys]
    return rows


def default_of(page: str, key: str) -> object:
    """What a run has if nobody sets the key; pages on inference mean inference."""
    root = "inference" if page == "inference.md" else "train"
    known = leaves(composed(root))
    if key in known or page == "inference.md":
        return known[key]
    assert key in known_keys(), f"{page}: {key}"
    return None


@pytest.mark.parametrize(("page", "key", "default"), key_rows(), ids=lambda value: str(value)[:40])
def test_defaults(page, key, default):
    """A default in backticks is the value itself, other words describe it."""
    value = default_of(page, key)
    if match := re.fullmatch(r"`([^`]*)`", default):
        if match[1] in known_keys():
            value, expected = default_of(page, key), default_of(page, match[1])
        elif isinstance(value, dict):
            value, expected = value["_target_"], match[1]
        else:
            expected = yaml.safe_load(match[1])
        assert value == expected, f"{page}: {key}"
    elif default.isdecimal():
        assert value == int(default), f"{page}: {key}"


def test_no_key_is_left_out():
    documented = {key for _, key, _ in key_rows()}
    for root, groups in (
        ("train", ("model", "dataset", "trainer", "adapter", "optimizer", "inspect", "accelerate")),
        ("inference", ("adapter", "inference")),
    ):
        config = composed(root)
        # What is not the user's to set, and blocks whose own keys are described elsewhere.
        expected = {f"{group}.{name}" for group in groups for name in config[group]}
        if root == "train":
            expected.remove("dataset.buckets")
            expected |= {f"dataset.buckets.{name}" for name in config["dataset"]["buckets"]}
        assert expected - documented - {"model.name", "dataset.name", "dataset.reader"} == set()
    groups = {name for name, value in composed("inference").items() if isinstance(value, dict)}
    top_level = set(composed("inference")) - groups - {"command", "experiment"}
    assert top_level - documented == set()


@pytest.mark.parametrize("option", ["arasaac", "coco"])
def test_the_options_of_a_source(option):
    column = f"Option (`dataset={option}`)"
    rows = [row for table in tables(text_of("docs/sources.md")) for row in table if column in row]
    source = composed("train", f"dataset={option}")["dataset"]["source"]
    documented = {row[column].strip("`").removeprefix("dataset.source."): row["Default"] for row in rows}
    assert documented.keys() == source.keys() - {"_target_"}
    for name, default in documented.items():
        if match := re.fullmatch(r"`([^`]*)`", default):
            assert yaml.safe_load(match[1]) == source[name], name


@pytest.mark.parametrize("option", ["blip", "llm"])
def test_the_options_of_a_captioner(option):
    column = f"Option (`captioner={option}`)"
    rows = [row for table in tables(text_of("docs/captioning.md")) for row in table if column in row]
    captioner = composed("train", f"captioner={option}")["captioner"]
    documented = {row[column].strip("`").removeprefix("captioner."): row["Default"] for row in rows}
    assert documented.keys() == captioner.keys() - {"_target_"}
    for name, default in documented.items():
        if match := re.fullmatch(r"`([^`]*)`", default):
            assert yaml.safe_load(match[1]) == captioner[name], name


def test_every_experiment_is_listed():
    text = text_of("docs/configuration.md")
    experiments = {file.stem for file in (CONFIG_DIR / "experiment").glob("*.yaml")}
    listed = {
        re.sub("`", "", row["experiment"]) for table in tables(text) for row in table if "experiment" in row
    }
    assert listed == experiments


def test_every_option_of_a_group_is_listed():
    rows = [row for table in tables(text_of("docs/configuration.md")) for row in table if "group" in row]
    for row in rows:
        folder = CONFIG_DIR / row["group"].strip("`")
        options = {file.stem for file in folder.glob("*.yaml")}
        # One file a callback, chosen through the default; and a model for inference only.
        options -= {"machine_load", "progress", "samples", "scalars", "from_adapter"}
        if folder.name != "experiment":
            assert set(re.findall(r"`(\w+)`", row["options"])) == options, folder.name
    groups = {folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()} - {"hydra"}
    assert {row["group"].strip("`") for row in rows} == groups


@pytest.mark.parametrize("root", ["train", "inference"])
def test_help_lists_the_groups_that_there_are(root):
    part = help_template(root).partition("== Groups")[2].partition("== Keys")[0]
    described = set(re.findall(r"^([a-z]+) +\S", part, flags=re.MULTILINE))
    groups = {name for name in composed(root) if (CONFIG_DIR / name).is_dir()}
    # For inference the adapter is keys and not a group, and experiments are for training.
    assert groups - described == ({"adapter", "experiment"} if root == "inference" else set())
    listed = re.findall(r"^([a-z]+) [^\n]*\n +\[(.+)\]$", part, flags=re.MULTILINE)
    # Hydra's own list has all groups, those of the other program included; so inference has one by hand.
    assert "$APP_CONFIG_GROUPS" in part or {group for group, _ in listed} == described
    for group, options in listed:
        assert set(options.split(", ")) == {file.stem for file in (CONFIG_DIR / group).glob("*.yaml")}
