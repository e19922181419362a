"""The table of a sweep and the check before it, without running anything. Whole sweeps: tests/sweeps."""

import pytest

from src.config import sweep


def row(status="completed", notes=(), swept=None, **results):
    return {"swept": swept or {}, "status": status, "results": results, "notes": list(notes)}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_columns_are_what_was_swept_the_status_and_what_differs():
    rows = [
        ("0", row(swept={"a": "1", "b": "x|y"}, best_validation_loss=0.123456789, zeta=1.0, steps=3.0)),
        ("1", row(swept={"a": "0.004433456789", "b": "z"}, best_validation_loss=0.1, zeta=2.0, steps=3.0)),
    ]
    table = sweep.format_table(rows)
    header, _, first, second = table.splitlines()[:4]
    assert cells(header) == ["job", "a", "b", "status", "best_validation_loss", "zeta"]
    assert cells(first) == ["0", "1", r"x\|y", "completed", "0.12346", "1"]
    assert cells(second) == ["1", "0.0044335", "z", "completed", "0.1", "2"]
    assert "Same in all jobs: steps 3" in table
    assert "Lowest validation loss: 0.1, job 1 (a=0.0044335 b=z)" in table


def test_the_objective_is_a_column_also_where_it_is_the_same():
    table = sweep.format_table([(str(job), row(best_validation_loss=1.0)) for job in range(2)])
    assert "best_validation_loss" in table.splitlines()[0]


@pytest.mark.parametrize(
    "key", ["dataset.split_seed", "model", "+dataset.x", "trainer.max_validation_images"]
)
def test_no_job_is_the_best_where_losses_do_not_compare(key):
    rows = [(str(job), row(swept={key: str(job)}, best_validation_loss=1.0 + job)) for job in range(2)]
    table = sweep.format_table(rows)
    assert "Lowest" not in table
    assert f"with another {key}, losses do not compare" in table


def test_seeds_of_many_digits_are_told_apart():
    seeds = ("12345678901", "12345678902")
    table = sweep.format_table([(seed, row(swept={"trainer.seed": seed})) for seed in seeds])
    assert [cells(line)[1] for line in table.splitlines()[2:4]] == list(seeds)


def test_failed_jobs_are_rows_and_a_reason_is_told_once():
    rows = [
        ("0", row("failed", ["no rank"], {"a": "0"})),
        ("1", row("completed", ["samples failed"], {"a": "1"}, steps=3.0)),
        ("10", row("failed", ["no rank"], {"a": "0"})),
    ]
    table = sweep.format_table(rows)
    assert [cells(line)[2] for line in table.splitlines()[2:5]] == ["failed", "completed", "failed"]
    assert "- jobs 0, 10: no rank" in table
    assert "- job 1: samples failed" in table
    assert "Same in all jobs" not in table


def test_rows_come_back_in_the_jobs_order_and_a_killed_job_is_a_failed_row(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.SweepTable, "folder", tmp_path)
    sweep.write_row(tmp_path / "10", {"a": "2"}, sweep.RUNNING)
    sweep.write_row(tmp_path / "9", {"b": "1", "a": "1"}, sweep.COMPLETED, results={"z": 1.0, "c": 2.0})
    (first, completed), (second, killed) = sweep.read_rows()
    assert (first, second) == ("9", "10")
    assert list(completed["swept"]) == ["b", "a"]
    assert list(completed["results"]) == ["z", "c"]
    assert killed["status"] == sweep.FAILED
    assert "killed" in killed["notes"][0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a=1"], [["a=1"]]),
        (
            ["a=1,2,3", "b=x", "c=4,5"],
            [["b=x", "a=1", "c=4"], ["b=x", "a=2", "c=4"], ["b=x", "a=3", "c=4"], ["b=x", "a=1", "c=5"]],
        ),
        (["+a=range(1,3)"], [["+a=1"], ["+a=2"]]),
        (["lr=tag(log, interval(0.1, 0.2))", "m=glob(*)"], [["lr=0.1"]]),
        (["p=[a,b]", "q='1,2'"], [["p=[a,b]", "q='1,2'"]]),
    ],
)
def test_each_swept_value_is_composed_once_before_a_sweep(overrides, expected):
    assert sweep.one_at_a_time(overrides) == expected


def test_fixed_keys_are_those_with_one_value():
    assert sweep.fixed_keys(["a=1,2", "+b=1", "~c", "d=[1,2]", "e=interval(0,1)"]) == {"b", "c", "d"}
