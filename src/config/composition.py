"""Composition outside Hydra's main, over the same search path: to check before it runs, and for hints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from src.errors import UserError

VERSION_BASE = "1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The root configuration that a command line names.

    Attributes:
        name: its name, without suffix.
        folder: the program's own configurations.
        extra_folder: the user's, from `--config-dir`; looked at first.
    """

    name: str
    folder: Path
    extra_folder: Path | None = None

    @property
    def is_users(self) -> bool:
        """Whether it is a file of the user's own."""
        return self.extra_folder is not None and (self.extra_folder / f"{self.name}.yaml").is_file()

    @property
    def file(self) -> str:
        """Its file, as the user would type it."""
        return f"{self.name}.yaml" if self.is_users else f"conf/{self.name}.yaml"


def compose_root(root: Root, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """Composes without running anything.

    Args:
        root: what to compose.
        overrides: as on the command line.
        with_hydra: keep Hydra's own node.

    Raises:
        UserError: the user's folder is missing.
        HydraException, OmegaConfBaseException: it cannot be composed.
    """
    # Hydra's public `initialize_config_dir` takes one folder; its main prepends the user's as done here.
    search_path = create_config_search_path(str(root.folder))
    if root.extra_folder is not None:
        if not root.extra_folder.is_dir():
            raise UserError(f"--config-dir {root.extra_folder} is not a folder.")
        search_path.prepend(provider="command-line", path=f"file://{root.extra_folder}")
    GlobalHydra.instance().clear()
    version.setbase(VERSION_BASE)
    Hydra.create_main_hydra2(task_name="check", config_search_path=search_path)
    try:
        return compose(root.name, overrides=list(overrides), return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().clear()
