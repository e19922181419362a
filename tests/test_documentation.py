"""The pages say what the program does: links, commands, keys, defaults, file names."""

import re
import shlex
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from src.callbacks.samples import SampleImages
from src.config.build import PROJECT_ROOT, check_config, plain, register
from src.config.cli import CONFIG_DIR, Job, as_text
from src.config.composition import Root, compose_root
from src.config.schema import InferenceConfig, TrainConfig
from src.data.readers.common import IMAGE_SUFFIXES
from src.inference.generate import plan_images
from src.models import detect
from src.run.training import run_training

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
GROUPS = sorted(
    {
        field.name
        for config in (TrainConfig, InferenceConfig)
        for field in fields(config)
        if field.name in {"callbacks", "logger"} or is_dataclass(field.type)
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
    r"(?:[A-Z_]+=\S+ |exec |\.venv/bin/torchrun --nproc-per-node \d (?=train))*"
    r"(?:sh (?=train_run|infer_run)|python (?=train|inference)|(?<=\d )(?=train))"
    r"(?P<script>train_run\.sh|infer_run\.sh|train\.py|inference\.py)(?P<rest> .*)?"
)
FILE_SUFFIXES = (
    ".safetensors",
    ".json",
    ".jsonl",
    ".yaml",
    ".py",
    ".md",
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


# Links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(place), f"{page.name} links to {target}"


def test_every_page_is_linked_from_the_readme():
    readme = text_of("README.md")
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme] == []


# Commands


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    lines = [line for block in fenced(text) for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in [*lines, *inline(text)] if COMMAND.fullmatch(line.strip())]
    return [line for line in found if "<TAB>" not in line]


@cache
def help_template(root: str) -> str:
    content = yaml.safe_load((CONFIG_DIR / f"{root}.yaml").read_text(encoding="utf-8"))
    return content["hydra"]["help"]["template"]


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


# Keys


@cache
def composed(root: str, *overrides: str) -> dict:
    register()
    return plain(compose_root(Root(name=root, folder=CONFIG_DIR), overrides))


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
    for group in ("dataset", "metrics", "model", "adapter"):
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
        ("train", ("model", "dataset", "trainer", "adapter", "optimizer")),
        ("inference", ("adapter", "inference")),
    ):
        config = composed(root)
        # What is not the user's to set, and blocks whose own keys are described elsewhere.
        expected = {f"{group}.{name}" for group in groups for name in config[group]}
        assert expected - documented - {"model.name", "dataset.name", "dataset.reader"} == set()
    groups = {name for name, value in composed("inference").items() if isinstance(value, dict)}
    top_level = set(composed("inference")) - groups - {"command", "experiment"}
    assert top_level - documented == set()


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
    groups = {folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()}
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


# What the pages promise


@pytest.mark.parametrize("file", sorted((CONFIG_DIR / "dataset").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_negative_prompt_of_each_dataset(file):
    rows = [
        row for table in tables(text_of("docs/inference.md")) for row in table if "Negative prompt" in row
    ]
    documented = {row["Dataset"].strip("`"): row["Negative prompt"].strip("`") for row in rows}
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert documented[f"dataset={file.stem}"] == content["negative_prompt"]


def test_the_parameters_in_a_png():
    page = text_of("docs/inference.md").partition("## In each PNG")[2]
    settings = {"negative_prompt": "", "num_steps": 1, "guidance_scale": 1.0, "scheduler": "ddim"}
    (params,) = plan_images(prompts=["a"], num_images=1, seed=0, width=8, height=8, **settings)
    assert [name for name in params if f"`{name}`" not in page] == []


def test_the_default_caption_and_the_split_file():
    page = text_of("docs/data.md")
    assert f"`{composed('train')['dataset']['reader']['default_caption']}`" in page
    split = re.search(r"data/splits/<dataset.name>-<[^>]+>/(\S+)", page)
    assert split is not None
    assert split[1] == "split_seed0_validation0.2.json"
    assert {".heic", ".jpg", ".png", ".webp"} <= {s for s in IMAGE_SUFFIXES if f"`{s}`" in page}


def test_what_is_refused_as_a_base_model():
    page = text_of("docs/models.md").replace("\n  ", " ")
    names = [*(name for name, _ in detect._REFUSED), *detect._REFUSED_CLASSES.values()]
    assert [name for name in names if re.split(r" \(|,", name)[0] not in page] == []
    assert [suffix for suffix in detect._PICKLES if f"`{suffix}`" not in page] == []


def test_the_labels_of_the_judges():
    page = text_of("docs/metrics.md")
    for option in ("default", "full"):
        judges = composed("train", f"metrics={option}")["metrics"]
        for name in ("dino", "clip"):
            assert f"`{judges[name]['label']}`" in page


# docs/clearml.md


COMPONENTS = {
    "unet_lora",
    "unet",
    "text_encoder_lora",
    "text_encoder",
    "text_encoder_2_lora",
    "text_encoder_2",
}


def documented_series() -> dict[str, set[str]]:
    """Title to series, from the table of docs/clearml.md."""
    (table,) = [table for table in tables(text_of("docs/clearml.md")) if "Series" in table[0]]
    found: dict[str, set[str]] = {}
    titles: list[str] = []
    for row in table:
        named = re.findall(r"`([^`]+)`", row["Title"])
        if row["Title"] == "both":
            titles = [title for title in found if "<label>" in title]
        elif named:
            titles = named
        series = set(re.findall(r"`([^`]+)`", row["Series"]))
        if row["Series"] == "the same components":
            series = found["grad_norm"] - {"total"}
        for title in titles:
            found.setdefault(title, set()).update(series)
    return found


def test_what_is_documented_is_logged(tmp_path):
    overrides = [
        f"paths.output_dir={tmp_path}",
        "logger=[]",
        "trainer.max_steps=2",
        "trainer.max_validation_images=2",
        "trainer.num_validation_timesteps=2",
        "adapter.text_encoder=lora",
        "adapter.token_embedding=train",
        "callbacks.samples.num_steps=2",
        "callbacks.machine_load.seconds_between_samples=0.05",
        "run.name=documented",
    ]
    register()
    config = compose_root(Root(name="train", folder=CONFIG_DIR), overrides)
    checked = check_config(config)
    job = Job(
        run_dir=tmp_path / "run",
        name="documented",
        resolved=plain(config),
        overrides=overrides,
        in_sweep=False,
    )
    outcome = run_training(checked, job)
    assert outcome.exit_code == 0
    events = [yaml.safe_load(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {
        re.sub(r"\[.*\]", "[<label>]", key)
        for event in events
        if event["kind"] == "scalars"
        for key in event["scalars"]
    }
    documented = {f"{title}/{series}" for title, names in documented_series().items() for series in names}
    assert logged - documented == set()
    not_here = {name for name in documented if "gpu<n>" in name or name.endswith("/gap_closed")}
    not_here |= {f"{title}/{name}" for title in ("grad_norm", "lr") for name in COMPONENTS}
    not_here.add("gradient_scaling/skipped_steps")  # with fp16 only, and that needs a GPU
    assert documented - logged - not_here == set()
    page = text_of("docs/clearml.md")
    for kind, name in {
        (e["kind"], e.get("title") or e.get("name")) for e in events if e["kind"] != "scalars"
    }:
        if kind in ("image", "curve", "table", "artifact", "model"):
            assert f"`{name}`" in page, f"{kind} {name}"
    assert {file.name for file in (tmp_path / "run").iterdir()} - {"tensorboard", "clearml"} <= {
        name.strip("/`") for span in inline(text_of("README.md")) for name in span.split()
    }


def test_sample_settings_are_documented():
    import inspect

    runtime = {"prompts", "clip_prompts", "negative_prompt", "resolution", "held_out", "held_out_captions"}
    runtime |= {"load_image", "dino", "clip", "self"}
    page = text_of("docs/configuration.md")
    settings = set(inspect.signature(SampleImages.__init__).parameters) - runtime
    assert {name for name in settings if f"`callbacks.samples.{name}`" not in page} == set()
