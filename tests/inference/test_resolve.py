"""Every way to name trained weights, and every way in which they may not be there."""

import os
import shutil
import time

import pytest

from src.errors import UserError
from src.inference.resolve import resolve_weights
from tests.inference.runs import write_checkpoint, write_config, write_export
from tests.models.common import settings_for, trained


@pytest.fixture(scope="module")
def outputs_once(pocket_sd15, tmp_path_factory):
    """Two runs: `old` with an export and the best checkpoint not the last, `new` cut off before its end."""
    outputs = tmp_path_factory.mktemp("outputs")
    model, _ = trained(pocket_sd15)
    for name, steps, best in (("old", (100, 200, 300), 200), ("new", (10, 20), 10)):
        run = outputs / "train" / name
        write_config(run, settings_for("sd15"))
        for step in steps:
            write_checkpoint(run, None, step=step, best_step=best if step >= best else None)
        if name == "old":
            write_export(run, model)
            _age(run)
    (outputs / "train" / "nothing_yet").mkdir()
    (outputs / "train" / "stray.txt").touch()
    return outputs


@pytest.fixture
def outputs(outputs_once, tmp_path):
    return shutil.copytree(outputs_once, tmp_path / "outputs")


def _age(run) -> None:
    for path in (*run.rglob("*"), run):
        os.utime(path, (time.time() - 1000,) * 2)


def _found(outputs, weights, run_name=None):
    source = resolve_weights(weights, output_dir=outputs, run_name=run_name)
    place = source.path.resolve().relative_to(outputs.resolve() / "train")
    return str(place), source.is_checkpoint, source.step


@pytest.mark.parametrize(
    ("weights", "run_name", "expected"),
    [
        ("best", None, ("new/checkpoints/step_00000010", True, 10)),
        ("last", None, ("new/checkpoints/step_00000020", True, 20)),
        ("best", "old", ("old/checkpoints/step_00000200", True, 200)),
        ("last", "old", ("old/checkpoints/step_00000300", True, 300)),
        (100, "old", ("old/checkpoints/step_00000100", True, 100)),
        ("100", "old", ("old/checkpoints/step_00000100", True, 100)),
    ],
)
def test_by_name(outputs, weights, run_name, expected):
    assert _found(outputs, weights, run_name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("old", ("old/checkpoints/step_00000200", True, 200)),
        ("old/checkpoints", ("old/checkpoints/step_00000200", True, 200)),
        ("old/checkpoints/step_00000300", ("old/checkpoints/step_00000300", True, 300)),
        ("old/adapter", ("old/adapter", False, None)),
        (
            "old/adapter/pytorch_lora_weights.safetensors",
            ("old/adapter/pytorch_lora_weights.safetensors", False, None),
        ),
    ],
)
def test_by_path(outputs, path, expected, monkeypatch):
    assert _found(outputs, str(outputs / "train" / path)) == expected
    monkeypatch.chdir(outputs / "train")
    assert _found(outputs, path) == expected
    source = resolve_weights(path, output_dir=outputs)
    assert source.run_folder.name == "old"
    assert source.run_config()["dataset"]["placeholder"] == "sksToy"


def test_an_adapter_from_elsewhere_has_no_run(outputs, tmp_path):
    lora = outputs / "train" / "old" / "adapter" / "pytorch_lora_weights.safetensors"
    embedding = lora.with_name("learned_embeds.safetensors")
    (tmp_path / "downloads").mkdir()
    for file in (lora, embedding):
        shutil.copy(file, tmp_path / "downloads")
    source = resolve_weights(str(tmp_path / "downloads" / lora.name), output_dir=outputs)
    assert (source.run_folder, source.run_config(), source.name) == (None, None, lora.name)


def test_without_checkpoints_the_export_is_the_best(outputs):
    shutil.rmtree(outputs / "train" / "old" / "checkpoints")
    assert _found(outputs, "best", "old") == ("old/adapter", False, None)
    with pytest.raises(UserError, match=r"no checkpoints any more.*adapter\.weights=best"):
        resolve_weights("last", output_dir=outputs, run_name="old")


def test_never_validated_means_last_and_says_so(outputs, caplog):
    run = outputs / "train" / "unseen"
    write_checkpoint(run, None, step=5, best_step=None)
    assert _found(outputs, "best") == ("unseen/checkpoints/step_00000005", True, 5)
    assert "Nothing was validated" in caplog.text


def test_jobs_of_a_sweep_are_runs(outputs):
    job = outputs / "sweeps" / "ranks" / "1"
    write_config(job, settings_for("sd15"))
    write_checkpoint(job, None, step=7, best_step=7)
    newest = resolve_weights("best", output_dir=outputs)
    assert (newest.run_folder, newest.step) == (job.resolve(), 7)
    assert resolve_weights("best", output_dir=outputs, run_name="ranks/1").path == newest.path
    with pytest.raises(UserError, match="Newest: ranks/1, new"):
        resolve_weights("best", output_dir=outputs, run_name="1")


def test_before_any_training(tmp_path):
    for folder in (tmp_path / "outputs", tmp_path):
        with pytest.raises(UserError) as caught:
            resolve_weights("best", output_dir=folder)
        assert str(caught.value) == (
            f"No trained adapter found under {folder}. Train one first: sh train_run.sh"
        )


def test_a_damaged_last_is_skipped_and_named(outputs, caplog):
    (outputs / "train" / "new" / "checkpoints" / "step_00000020" / "weights.safetensors").write_bytes(b"")
    assert _found(outputs, "last")[2] == 10
    assert "step_00000020" in caplog.text
    with pytest.raises(UserError, match=r"step_00000020 is damaged"):
        resolve_weights(20, output_dir=outputs)


def test_a_damaged_best_is_not_replaced_in_silence(outputs):
    (outputs / "train" / "new" / "checkpoints" / "step_00000010" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step_00000010 is damaged"):
        resolve_weights("best", output_dir=outputs)


def test_all_damaged(outputs):
    for path in (outputs / "train" / "new" / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"All checkpoints of .*new are damaged"):
        resolve_weights("last", output_dir=outputs, run_name="new")


@pytest.mark.parametrize(
    ("weights", "run_name", "message"),
    [
        (150, "old", "no checkpoint of that step. Kept are the steps 100, 200, 300"),
        ("best", "odl", "adapter.run=odl: no trained run of that name under .* Newest: new, old"),
        ("bset", None, "adapter.weights=bset: there is no such file or folder"),
        ("/nowhere/adapter.safetensors", None, "there is no such file or folder"),
    ],
)
def test_what_is_not_there(outputs, weights, run_name, message):
    with pytest.raises(UserError, match=message):
        resolve_weights(weights, output_dir=outputs, run_name=run_name)


def test_a_folder_without_an_adapter(outputs, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="holds no adapter"):
        resolve_weights(str(tmp_path / "photos"), output_dir=outputs)
