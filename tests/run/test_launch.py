"""`sh train_run.sh accelerate=multi_cpu`: two real processes, one name, a signal that reaches both."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from src.config.build import PROJECT_ROOT
from src.training.checkpoint import find_damage, list_checkpoints

FEW = ("callbacks=none", "metrics=none", "logger=[]", "trainer.batch_size=2", "trainer.save_every=1")


def start(folder, *arguments, **own):
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.Popen(
        ["sh", str(PROJECT_ROOT / "train_run.sh"), *FEW, f"paths.cache_dir={folder}/cache", *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "DARKROOM_PYTHON": sys.executable} | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    try:
        out, err = process.communicate(timeout=250)
    finally:
        process.kill()
    return process.returncode, out, err


def runs(folder):
    return list((folder / "outputs/train").glob("*"))


@pytest.mark.slow
def test_two_processes_under_one_name_stop_at_a_signal_and_one_process_goes_on(tmp_path):
    """Without a run.name: each process would read another second."""
    process = start(
        tmp_path, "accelerate=multi_cpu", "trainer.max_steps=100000", "trainer.validate_every=null"
    )
    deadline = time.monotonic() + 250
    while not list(tmp_path.glob("outputs/train/*/checkpoints/step_*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    code, _, err = end(process)
    assert code == 128 + signal.SIGUSR1, err
    assert "Traceback" not in err, "the run's own lines are the last"
    (run,) = runs(tmp_path)
    log = (run / "train.log").read_text()
    assert "signal SIGUSR1" in log
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert find_damage(newest) is None
    loop = json.loads((newest / "loop.json").read_text())
    assert loop["must_match"]["global batch size"] == 4, "two processes with two images each"
    step = int(newest.name.removeprefix("step_"))
    again = start(
        *(tmp_path, f"run.name={run.name}", "trainer.resume=auto", "trainer.batch_size=4"),
        *(f"trainer.max_steps={step + 1}", "trainer.validate_every=null"),
    )
    code, out, err = end(again)
    assert code == 0, err
    assert f"Training from step {step} to step {step + 1}" in out


@pytest.mark.slow
def test_two_launchers_as_on_two_machines(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    machines = [
        start(
            *(tmp_path, "accelerate=multi_node", "accelerate.use_cpu=true", "accelerate.num_processes=2"),
            *("run.name=mine", "trainer.max_steps=2"),
            **common,
            NODE_RANK=str(rank),
        )
        for rank in (0, 1)
    ]
    ends = [end(machine) for machine in machines]
    assert [code for code, _, _ in ends] == [0, 0], ends
    (newest,) = list_checkpoints(tmp_path / "outputs/train/mine/checkpoints")[-1:]
    loop = json.loads((newest / "loop.json").read_text())
    assert loop["must_match"]["global batch size"] == 4


@pytest.mark.slow
def test_a_mistake_ends_several_processes_as_it_ends_one(tmp_path):
    """Found when the model is there, by all of them."""
    process = start(tmp_path, "accelerate=multi_cpu", "run.name=mine", "adapter.rank_pattern={foo:3}")
    code, _, err = end(process)
    assert code == 2
    assert set(err.strip().splitlines()) == {
        line for line in err.splitlines() if "adapter.rank_pattern: foo" in line
    }


def test_generation_under_a_launcher_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "inference.py")],
        cwd=tmp_path,
        env=os.environ | {"WORLD_SIZE": "2", "RANK": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Generation is one process, and the launcher started 2" in done.stderr


@pytest.mark.slow
def test_a_unet_trained_in_shards_is_the_one_trained_whole(tmp_path):
    """The built-in model in full: losses, the saved pipeline, and samples drawn meanwhile."""
    full = ("adapter=full", "adapter.token_embedding=frozen", "trainer.max_steps=2")
    shards = ("accelerate=fsdp", "accelerate.use_cpu=true", "accelerate.num_processes=2")
    sampling = ("callbacks=default", "callbacks.machine_load=null", "callbacks.samples.num_steps=1")
    code, out, err = end(start(tmp_path, "trainer.batch_size=4", *full, "run.name=whole"))
    assert code == 0, err
    code, out, err = end(start(tmp_path, *full, *shards, *sampling, "run.name=shards"))
    assert code == 0, err
    assert "Failed" not in out
    one, two = (tmp_path / "outputs/train" / name for name in ("whole", "shards"))
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    for name in ("loss_train", "loss_validation", "loss_train_probe"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-5)
    for file in ("model_index.json", "unet/config.json"):
        assert (two / "adapter/model" / file).read_text() == (one / "adapter/model" / file).read_text()
    weights = [
        load_file(run / "adapter/model/unet/diffusion_pytorch_model.safetensors") for run in (one, two)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)
    assert len(list((two / "images/step_00000002").glob("*.png"))) == 4
