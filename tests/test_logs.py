import logging
from pathlib import Path

import pytest

from src.logs import run_log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_log_on_a_full_disk_ends_nothing_and_is_gone_afterwards(tmp_path, capsys) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    before = list(logging.getLogger().handlers)
    with run_log(tmp_path / "train.log"):
        logging.getLogger("src.x").info("a line")
    assert logging.getLogger().handlers == before
    assert "cannot write" in capsys.readouterr().err
