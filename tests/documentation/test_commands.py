"""Every command on the pages and in --help composes."""

import re
import shlex
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from src.config.arguments import as_text
from src.config.build import check_config, register
from src.config.cli import CONFIG_DIR
from src.config.composition import Root, compose_root
from src.config.schema import InferenceConfig, TrainConfig
from tests.documentation.pages import COMMAND, PAGES, ROOTS, fenced, help_template, inline, text_of


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    lines = [line for block in fenced(text) for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in [*lines, *inline(text)] if COMMAND.fullmatch(line.strip())]
    return [line for line in found if "<TAB>" not in line]


def help_commands() -> list[str]:
    """The examples of --help; two spaces or more stand before what is said of them."""
    lines = [line for root in ("train", "inference") for line in help_template(root).splitlines()]
    return [re.split(r"\s{2,}", line)[0] for line in lines if COMMAND.fullmatch(line)]


COMMANDS = sorted({*help_commands(), *(command for page in PAGES for command in commands(page))})


@pytest.fixture(scope="module")
def own_yaml(tmp_path_factory) -> dict[str, Path]:
    """The folders of users who have copied the page's example, and begun one as --help says."""
    (example,) = [
        block for block in fenced(text_of("docs/configuration.md"), "yaml") if "# mine.yaml" in block
    ]
    (begins,) = re.findall(r"beginning with: (.+)", help_template("train"))
    folders = {}
    for root, content in (("inference", example), ("train", begins)):
        folders[root] = tmp_path_factory.mktemp(root)
        (folders[root] / "mine.yaml").write_text(content, encoding="utf-8")
    return folders


def test_commands_are_found():
    # Were the pages written in another way, the test below would pass without looking at anything.
    assert len(COMMANDS) > 30
    assert len(help_commands()) > 12
    assert len({page.name for page in PAGES if commands(page)}) >= 7


def values_of(override: Override) -> list[str]:
    """What a sweep sets a key to; of an interval, as only Optuna takes it, an end."""
    if override.is_interval_sweep():
        return [f"{override.key_or_group}={override.value().start}"]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command, own_yaml):
    found = COMMAND.fullmatch(command)
    assert found is not None
    script, words = found["script"], shlex.split(found["rest"] or "", comments=True)
    root, extra_folder, overrides = ROOTS[script], None, []
    flags = iter(words)
    for word in flags:
        if word in ("-m", "--help", "--hydra-help", "..."):
            continue
        if word == "--cfg":
            assert next(flags) in ("job", "hydra", "all")
        elif word == "-cn":
            root = next(flags)
        elif word == "--config-dir":
            assert next(flags) == "."
            extra_folder = own_yaml[ROOTS[script]]
        elif word == "-sc":
            assert next(flags) == "install=bash"
        else:
            assert re.match(r"[\w./]+=", word), f"{word} is neither a flag nor an override"
            if not word.endswith("=..."):
                overrides.append(as_text(word))
    register()
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [item for item in parsed if item.is_sweep_override()]
    assert ("-m" in words) == bool(swept) or {"...", "experiment=optuna_lr_rank"} & set(words)
    fixed = [item.input_line for item in parsed if not item.is_sweep_override()]
    for job in product(*(values_of(item) for item in swept)):
        composed = compose_root(Root(name=root, folder=CONFIG_DIR, extra_folder=extra_folder), [*fixed, *job])
        assert isinstance(check_config(composed), InferenceConfig if "infer" in script else TrainConfig)
