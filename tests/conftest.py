"""Settings and fixtures for all tests: no hub, no tracker, shapes and types checked while running."""

import os
import signal
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
from jaxtyping import install_import_hook

# Behind nohup, or with & in a script, Ctrl-C is ignored, and so it would be by what the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fixtures_judges", "tests.fixtures_models"]

# Every function of src annotated with jaxtyping shapes is checked at each call, by beartype.
# The numeric tower: an int is welcome where a float is annotated (PEP 484).
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
_hook = install_import_hook("src", _CHECKER)
_hook.__enter__()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests as well")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process a file, and one for all end-to-end tests: they share a clone and its first run."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "end_to_end" if "/end_to_end/" in file else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The long files first: a core that meets one last would go on alone.
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
    if config.getoption("--all") or config.option.markexpr:
        return
    quick = [item for item in items if "slow" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
    items[:] = quick
