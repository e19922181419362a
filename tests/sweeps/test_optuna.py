"""Optuna's trials: what they minimise, what fails, and a study that is kept."""

import json
import shutil

import optuna
import pytest
import yaml

from tests.sweeps.commands import BARE, OPTUNA, ROOT


def best_of(sweep):
    return yaml.safe_load((sweep.folder / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_optuna_minimises_the_validation_loss_and_survives_failed_trials(sweep):
    done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=3", "adapter.rank=0,2", *BARE)
    table, under = sweep.rows()
    # TPE with the experiment's seed draws both ranks.
    assert {row["status"] for row in table} == {"failed", "completed"}, done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(table) == 3
    losses = {
        row["job"]: json.loads((sweep.folder / row["job"] / "result.json").read_text())[
            "best_validation_loss"
        ]
        for row in table
        if row["status"] == "completed"
    }
    assert len(set(losses.values())) > 1
    best = best_of(sweep)
    assert best["best_value"] == min(losses.values())
    job = min(losses, key=lambda name: losses[name])
    config = yaml.safe_load((sweep.folder / job / "config.yaml").read_text())
    assert best["best_params"]["optimizer.lr"] == config["optimizer"]["lr"]
    assert f", job {job} (" in under


def test_optuna_searches_the_learning_rate_on_a_log_scale(sweep):
    config = yaml.safe_load((ROOT / "conf/experiment/optuna_lr_rank.yaml").read_text())
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    params = [f"{key}={value}" for key, value in config["hydra"]["sweeper"]["params"].items()]
    space, _ = create_params_from_overrides(params)
    assert space["optimizer.lr"] == optuna.distributions.LogUniformDistribution(1e-5, 1e-2)
    assert space["adapter.rank"].choices == (4, 8, 16, 32)


@pytest.mark.slow
def test_optuna_without_a_single_completed_trial_ends_with_the_table(sweep):
    done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=2", "dataset.path=/nowhere", *BARE)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [row["status"] for row in sweep.rows()[0]] == ["failed", "failed"]


@pytest.mark.slow
def test_a_study_in_a_database_goes_on_where_it_was(sweep):
    """Optuna's database layer must fit the locked SQLAlchemy."""
    study = ("hydra.sweeper.study_name=mine", f"hydra.sweeper.storage=sqlite:///{sweep.place}/study.db")
    for count in (1, 2):
        shutil.rmtree(sweep.folder, ignore_errors=True)
        done = sweep.run(*OPTUNA, "hydra.sweeper.n_trials=1", *study, *BARE)
        assert done.returncode == 0, done.stderr
        (kept,) = optuna.get_all_study_summaries(storage=study[1].partition("=")[2])
        assert kept.n_trials == count
