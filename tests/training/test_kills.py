"""Kill -9 at any place: what is left is whole, and the run goes on from there to the same end, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kill_main", str(tmp_path_factory.mktemp("kills"))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_they_were_killed(outcomes) -> None:
    """Six files (weights, optimiser, three documents, manifest) and the folder twice."""
    writes = [outcome for name, outcome in outcomes.items() if name.startswith("write")]
    assert [outcome["code"] for outcome in writes] == [-signal.SIGKILL] * 8 + [0]
    others = {
        n: outcome["code"] for n, outcome in outcomes.items() if not n.startswith(("write", "unbroken"))
    }
    assert set(others.values()) == {-signal.SIGKILL}
    assert len(others) == 4


def test_what_is_left_is_whole_and_the_last_one_that_was_finished(outcomes) -> None:
    assert {name: outcome["broken"] for name, outcome in outcomes.items() if outcome["broken"]} == {}
    assert outcomes["mid-pass"]["whole"] == ["step_00000002"]
    assert outcomes["accumulation 2"]["whole"] == [], "before the first one"
    assert outcomes["accumulation 10"]["whole"] == ["step_00000002"]
    # The last sync of the folder comes after the rename: then the new one counts already.
    for number in range(1, 8):
        assert outcomes[f"write {number}"]["whole"] == ["step_00000002"]
    assert outcomes["write 8"]["whole"] == ["step_00000002", "step_00000004"]


def test_the_end_is_that_of_an_unbroken_run(outcomes) -> None:
    """Weights, optimiser, position and the means since the last log; and the next save cleared up."""
    expected = outcomes["unbroken"]
    assert expected["newest"] == "step_00000006"
    for name, outcome in outcomes.items():
        assert (outcome["resumed"], outcome["newest"], outcome["hash"], outcome["rest"]) == (
            0,
            "step_00000006",
            expected["hash"],
            [],
        ), name
