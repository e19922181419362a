"""What several processes agree on before they train: the data, and room in the caches."""

import json
import os
import subprocess
import sys

import pytest

from src.config.build import PROJECT_ROOT
from src.errors import UserError
from src.run.training import _prepare_main_first
from src.training.accelerator import Agreement
from tests.data.pictures import photo_folder, truncate
from tests.run.test_cache_keys import configuration


class Told(Agreement):
    """Stands in for the other ranks: keeps what the main one says, or is what it said."""

    def __init__(self, text=None):
        self.text = text

    def from_main(self, text):
        self.text = self.text or text
        return self.text


def test_what_is_wrong_with_the_data_reaches_all_ranks_in_full(tmp_path):
    photo_folder(tmp_path / "photos", 4)
    truncate(tmp_path / "photos" / "IMG_0002.png")
    config = configuration(tmp_path)
    told = Told()
    with pytest.raises(UserError, match=r"(?s)1 problem .*IMG_0002\.png: ") as caught:
        _prepare_main_first(config, size=(32, 32), is_main=True, agreement=told)
    assert told.text == str(caught.value)
    photo_folder(tmp_path / "photos", 4)
    with pytest.raises(UserError, match=r"(?s)1 problem .*IMG_0002\.png: "):
        _prepare_main_first(config, size=(32, 32), is_main=False, agreement=told)
    main, other = (
        _prepare_main_first(config, size=(32, 32), is_main=is_main, agreement=Told())
        for is_main in (True, False)
    )
    assert other == main


@pytest.mark.slow
def test_two_ranks_agree_on_data_and_room(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 6)
    photo_folder(tmp_path / "damaged", 4)
    truncate(tmp_path / "damaged" / "IMG_0002.png")
    cases = {
        "damaged": [f"dataset.path={tmp_path / 'damaged'}"],
        "refused": ["paths.cache_limit_gb=0.00001"],
        "live": ["paths.cache_limit_gb=0.00006"],
        "kept": [],
    }
    cases = {name: ["adapter.token_embedding=frozen", *overrides] for name, overrides in cases.items()}
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "tests.run.rank_main", str(tmp_path), str(pocket_sd15), json.dumps(cases)),
        ],
        cwd=PROJECT_ROOT,
        env={name: v for name, v in os.environ.items() if name not in names} | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=200,
    )
    main, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name, message in (("damaged", "IMG_0002.png: "), ("refused", "Not enough disk space for the caches")):
        assert message in main[name]["error"]
        assert other[name]["error"] == main[name]["error"]
    for name, is_kept in (("live", False), ("kept", True)):
        assert main[name]["keeps_text"] is other[name]["keeps_text"] is is_kept
        assert main[name]["num_missing"] == other[name]["num_missing"] == 0
        assert main[name]["prepared"][1] <= other[name]["prepared"][0], (
            "the other reads what the main one saw"
        )
    assert other["damaged"]["prepared"] == []
    assert len(list((tmp_path / "cache" / "texts").rglob("*.safetensors"))) == 7, "each once"
