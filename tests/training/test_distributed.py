"""Two gloo processes give what one process gives."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from src.training.checkpoint import find_damage, list_checkpoints, load_checkpoint

_ROOT = Path(__file__).resolve().parents[2]


def _start(folder: Path, world_size: int, **settings: Any) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world_size)]
    command = [*(launcher if world_size > 1 else []), "-m", "tests.training.rank_main"]
    environment = {
        name: v for name, v in os.environ.items() if name not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    }
    return subprocess.run(
        [sys.executable, *command, str(folder), json.dumps(settings)],
        cwd=_ROOT,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _run(folder: Path, world_size: int, **settings: Any) -> list[dict[str, Any]]:
    completed = _start(folder, world_size, **settings)
    assert completed.returncode == 0, completed.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


def _flat(scalars: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{step} {name}": value for step, row in scalars.items() for name, value in row.items()}


@pytest.mark.parametrize("buckets", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path, buckets) -> None:
    """The last of 13 images is alone in its batch, so one rank is padded; 7 held out do not divide by 2.

    So it is with the 5 class images, which are seen several times in a pass.
    """
    settings = {"max_steps": 6, "accumulation": 2, "validate_every": 3, "buckets": buckets}
    settings |= {"num_class_images": 5, "prior_loss_weight": 0.5}
    settings |= {"masks": True, "objective": {"noise_offset": 0.1, "unmasked_weight": 0.1}}
    [alone] = _run(tmp_path / "one", 1, **settings, batch_size=6)
    first, second = _run(tmp_path / "two", 2, **settings, batch_size=3)
    assert (alone["world_size"], first["world_size"], second["world_size"]) == (1, 2, 2)

    for expected, left, right in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        for (ids, _), *shares in zip(expected, left, right, strict=True):
            real = [i for share in shares for i, weight in zip(*share, strict=True) if weight == 1.0]
            assert sorted(real) == sorted(ids), "the same samples in each global micro-batch"
    assert any(address.startswith("class:") for step in alone["seen"] for ids, _ in step for address in ids)
    assert any("loss/prior" in scalars for scalars in alone["losses"].values())
    assert any(0.0 in weights for step in second["seen"] for _, weights in step), "padding was exercised"
    assert _flat(first["losses"]) == pytest.approx(_flat(alone["losses"]), rel=1e-5)
    assert first["curves"].keys() == alone["curves"].keys() == {"3", "6"}
    for step in alone["curves"]:
        assert first["curves"][step] == pytest.approx(alone["curves"][step], rel=1e-5)
    assert first["weights"] == second["weights"]
    for name, values in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(values, rel=1e-3, abs=1e-5)
    assert second["losses"] == {}, "callbacks run in the main process only"


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_from_there(tmp_path) -> None:
    settings = {"max_steps": 6, "batch_size": 3}
    unbroken, _ = _run(tmp_path / "unbroken", 2, **settings)
    stopped = _run(tmp_path / "killed", 2, **settings, signal=(1, 2))
    assert {(r["step"], r["stop_reason"], r["exit_code"]) for r in stopped} == {(3, "signal SIGTERM", 143)}
    resumed = _run(tmp_path / "killed", 2, **settings, resume="auto")
    assert {r["step"] for r in resumed} == {6}
    assert resumed[0]["weights"] == resumed[1]["weights"] == unbroken["weights"]


@pytest.mark.slow
@pytest.mark.parametrize(("failing_rank", "place"), [(0, "step"), (1, "step"), (1, "loader")])
def test_an_error_on_one_rank_ends_all_with_its_cause(tmp_path, failing_rank, place) -> None:
    started = time.monotonic()
    failing = {"failing": (failing_rank, 3), "failing_in": place}
    completed = _start(tmp_path / "run", 2, max_steps=6, batch_size=3, save_every=2, **failing)
    assert completed.returncode != 0
    assert "this rank is broken" in completed.stderr
    assert time.monotonic() - started < 60
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    # Whichever rank fails, the main one saves the last good step, after the one of its own accord.
    assert {path.name for path in checkpoints} == {"step_00000002", "step_00000003"}
    assert all(find_damage(path) is None for path in checkpoints)


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_failed_is_ended_in_a_minute(tmp_path, monkeypatch) -> None:
    """NCCL's waits do not end with a peer, and the launcher's signal reaches the code behind them only."""
    monkeypatch.setenv("PET_SHUTDOWN_TIMEOUT", "600")
    started = time.monotonic()
    settings = {"failing": (1, 3), "stuck": (0, 3)}
    completed = _start(tmp_path / "run", 2, max_steps=6, batch_size=3, save_every=2, **settings)
    assert completed.returncode != 0
    assert time.monotonic() - started < 90
    assert "Rank 1 failed (OSError: this rank is broken), and rank 0 still waits for it" in completed.stderr
    (kept,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert (kept.name, find_damage(kept)) == ("step_00000002", None)


@pytest.mark.slow
def test_ranks_that_see_other_checkpoints_do_not_start(tmp_path) -> None:
    _run(tmp_path / "run", 2, max_steps=2, batch_size=3)
    settings = {"max_steps": 4, "batch_size": 3, "resume": "auto"}
    completed = _start(tmp_path / "run", 2, **settings, elsewhere=1)
    assert completed.returncode != 0
    assert re.search(
        r"Rank 1 finds no checkpoint in .*, the main process step_00000002\. All machines", completed.stderr
    )
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000002"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "changes", "elsewhere"),
    [
        ("validation", {}, "RuntimeError: it failed on another rank"),
        # Before the shards are gathered, where the other one would wait.
        ("applied", {"sharded": True, "ema_decay": 0.9}, "RankError: rank 1: OSError: this rank is broken"),
    ],
)
def test_a_validation_that_fails_on_one_rank_is_skipped_by_both(tmp_path, place, changes, elsewhere) -> None:
    settings = {"max_steps": 4, "batch_size": 3, "validate_every": 2, **changes}
    good, _ = _run(tmp_path / "good", 2, **settings)
    failing = {"failing": (1, 2), "failing_in": place}
    main, other = _run(tmp_path / "bad", 2, **settings, **failing)
    assert other["failures"] == ["validation at step 2: OSError: this rank is broken"]
    assert main["failures"] == [f"validation at step 2: {elsewhere}"]
    assert main["curves"] == {"4": good["curves"]["4"]}
    assert main["losses"] == good["losses"]
    assert main["weights"] == other["weights"] == good["weights"]


@pytest.mark.slow
def test_a_rehearsal_waits_for_no_other_rank(tmp_path) -> None:
    """As the other one may have run out of memory in it."""
    settings = {"max_steps": 4, "batch_size": 3, "accumulation": 2, "prior_loss_weight": 1.0}
    main, other = _run(tmp_path / "run", 2, **settings, num_class_images=5, rehearsing_rank=1)
    assert (main["steps"], other["steps"]) == (0, 2)


@pytest.mark.slow
def test_two_processes_go_on_as_one(tmp_path) -> None:
    """The same global batch; losses within 1e-5, samples exactly."""
    settings = {"accumulation": 2, "validate_every": 3}
    [unbroken] = _run(tmp_path / "unbroken", 1, **settings, max_steps=6, batch_size=6)
    _run(tmp_path / "run", 2, **settings, max_steps=3, batch_size=3)
    [resumed] = _run(tmp_path / "run", 1, **settings, max_steps=6, batch_size=6, resume="auto")
    assert resumed["seen"] == unbroken["seen"][3:]
    expected = {step: row for step, row in unbroken["losses"].items() if int(step) > 3}
    assert _flat(resumed["losses"]) == pytest.approx(_flat(expected), rel=1e-5)


@pytest.mark.slow
def test_the_main_rank_failing_to_save_ends_all(tmp_path) -> None:
    started = time.monotonic()
    completed = _start(tmp_path / "run", 2, max_steps=6, batch_size=3, save_every=2, unwritable=True)
    assert completed.returncode != 0
    assert re.search(
        "The main process could not write a checkpoint: .*could not be written", completed.stderr
    )
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_checkpoints_by_minutes_are_those_of_the_main_process_s_clock(tmp_path) -> None:
    """A millionth of a minute is over at each step: the ranks agree on it, and none waits for another."""
    settings = {"max_steps": 3, "batch_size": 3, "keep": 9, "save_every_minutes": 1e-6}
    results = _run(tmp_path / "run", 2, **settings)
    assert {result["step"] for result in results} == {3}
    assert [path.name[-1] for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_sharded_weights_train_as_whole_ones_do_and_checkpoints_do_not_tell(tmp_path, ema_decay) -> None:
    settings = {"accumulation": 2, "validate_every": 3, "save_every": 3, "ema_decay": ema_decay}
    [alone] = _run(tmp_path / "one", 1, **settings, max_steps=6, batch_size=6)
    first, second = _run(tmp_path / "two", 2, **settings, max_steps=6, batch_size=3, sharded=True)
    assert _flat(first["losses"]) == pytest.approx(_flat(alone["losses"]), rel=1e-5)
    for step in alone["curves"]:
        assert first["curves"][step] == pytest.approx(alone["curves"][step], rel=1e-5)
    assert first["weights"] == second["weights"]
    one, two = (
        load_checkpoint(tmp_path / name / "checkpoints/step_00000006").tensors for name in ("one", "two")
    )
    assert ("evaluation" in one) == (ema_decay is not None)
    assert one.keys() == two.keys()
    for file in one:
        assert one[file].keys() == two[file].keys()
        for name, tensor in one[file].items():
            torch.testing.assert_close(two[file][name], tensor, rtol=1e-3, atol=1e-5)

    shutil.rmtree(tmp_path / "two/checkpoints/step_00000006")
    resumed, _ = _run(tmp_path / "two", 2, **settings, max_steps=6, batch_size=3, sharded=True, resume="auto")
    assert resumed["weights"] == first["weights"]
    assert _flat(resumed["losses"]) == {
        name: value for name, value in _flat(first["losses"]).items() if int(name.split()[0]) > 3
    }
    shutil.rmtree(tmp_path / "two/checkpoints/step_00000006")
    [one_alone] = _run(tmp_path / "two", 1, **settings, max_steps=6, batch_size=6, resume="auto")
    assert one_alone["curves"]["6"] == pytest.approx(first["curves"]["6"], rel=1e-5)
