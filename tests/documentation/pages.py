"""What all tests of the documentation read: the pages, and the parts of a page."""

import re
from dataclasses import fields, is_dataclass
from functools import cache

import yaml

from src.config.build import PROJECT_ROOT, plain, register
from src.config.cli import CONFIG_DIR
from src.config.composition import Root, compose_root
from src.config.schema import InferenceConfig, TrainConfig

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
GROUPS = sorted(
    {
        field.name
        for config in (TrainConfig, InferenceConfig)
        for field in fields(config)
        if field.name in {"callbacks", "logger", "captioner"} or is_dataclass(field.type)
    }
)
ROOTS = {
    "train_run.sh": "train",
    "train.py": "train",
    "infer_run.sh": "inference",
    "inference.py": "inference",
}
# With what may stand before it: variables, exec, a launcher.
COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ |exec |srun |accelerate launch --config_file \S+ (?=train))*"
    r"(?:sh (?=train_run|infer_run)|python (?=train|inference)|(?<=yaml )(?=train))"
    r"(?P<script>train_run\.sh|infer_run\.sh|train\.py|inference\.py)(?P<rest> .*)?"
)
FILE_SUFFIXES = (
    ".safetensors",
    ".json",
    ".jsonl",
    ".yaml",
    ".py",
    ".md",
    ".html",
    ".csv",
    ".tsv",
    ".txt",
    ".dvc",
    ".log",
)


def text_of(page: str) -> str:
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


def fenced(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each row by its column's header."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found.append([dict(zip(lines[0], line, strict=False)) for line in lines[2:]])
    return found


@cache
def help_template(root: str) -> str:
    content = yaml.safe_load((CONFIG_DIR / f"{root}.yaml").read_text(encoding="utf-8"))
    return content["hydra"]["help"]["template"]


@cache
def composed(root: str, *overrides: str) -> dict:
    register()
    return plain(compose_root(Root(name=root, folder=CONFIG_DIR), overrides))
