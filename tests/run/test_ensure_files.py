"""What a run needs beside its images comes with it, whatever the base model is."""

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.errors import UserError
from src.run.build_data import ensure_files


def ensure(*overrides, root):
    (root / "photos").mkdir()
    (root / "photos" / "a.png").touch()
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        fixed = [f"paths.root_dir={root}", f"dataset.path={root / 'photos'}"]
        ensure_files(check_config(compose("train", overrides=[*fixed, *overrides])))


def test_the_built_in_judges_are_brought_for_any_base_model(tmp_path):
    # This root tracks nothing, so that what is asked for cannot be found.
    with pytest.raises(UserError, match=r"assets/pocket\.dvc"):
        ensure("model=sd15", root=tmp_path)


def test_other_judges_need_nothing_of_ours(tmp_path):
    ensure("model=sd15", "metrics=full", root=tmp_path)
