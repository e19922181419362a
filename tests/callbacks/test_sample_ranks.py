"""Samples drawn and judged by two processes are those of one."""

import json
import os
import subprocess
import sys

import pytest

from src.config.build import PROJECT_ROOT
from tests.callbacks.test_samples import photos  # noqa: F401 (a fixture)

NAMES = ["a_dog_0", "a_dog_1", "a_photo_of_skstoy_0", "a_photo_of_skstoy_1"]


@pytest.mark.slow
def test_two_processes_draw_half_each_and_a_failure_on_one_is_skipped_by_both(
    tmp_path,
    pocket_sd15,
    judges,
    photos,  # noqa: F811
):
    (tmp_path / "photos").symlink_to(photos[0].parent)
    for world_size in (1, 2):
        (tmp_path / f"world{world_size}").mkdir()
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world_size}"]
        module = ["-m", "tests.callbacks.sample_ranks", str(tmp_path), str(pocket_sd15), str(judges), "1"]
        subprocess.run(
            [sys.executable, *(launcher if world_size > 1 else []), *module],
            cwd=PROJECT_ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            timeout=250,
        )
    alone = json.loads((tmp_path / "world1/rank0.json").read_text())
    main, other = (json.loads((tmp_path / f"world2/rank{rank}.json").read_text()) for rank in (0, 1))
    assert alone["drawn"] == {"0": 4, "2": 4, "4": 4, "6": 4}
    assert main["drawn"] == {"0": 2, "2": 2, "4": 2, "6": 2}
    assert other["drawn"] == {"0": 2, "2": 2, "4": 1, "6": 2}
    assert alone["failures"] == []
    what = "callback SampleImages.on_step_end at step 4: "
    assert other["failures"] == [f"{what}OutOfMemoryError: no memory left"]
    assert main["failures"] == [f"{what}RankError: rank 1: OutOfMemoryError: no memory left"]
    for folder in ("base", "step_00000002", "step_00000006"):
        one, two = (tmp_path / world / "images" / folder for world in ("world1", "world2"))
        assert sorted(path.stem for path in two.iterdir()) == NAMES
        for name in NAMES:
            assert (one / f"{name}.png").read_bytes() == (two / f"{name}.png").read_bytes(), name
    assert not (tmp_path / "world2/images/step_00000004").exists()
    assert main["scores"] == pytest.approx(alone["scores"], rel=1e-5)
    judged = {
        f"{judge}[pocket-random]/{series}" for judge in ("dino", "clip_t") for series in ("base", "held_out")
    }
    assert main["scores"].keys() >= judged
    assert other["scores"] == {}
