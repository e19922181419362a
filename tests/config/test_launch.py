"""From `accelerate=...` to what accelerate's launcher is told, and what is refused before it starts."""

import re

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from src.config.accelerate_schema import AccelerateConfig
from src.config.build import PROJECT_ROOT
from src.config.cli import _refuse_in_sweeps
from src.config.launch import may_launch, plan_launch, require_as_configured
from src.errors import UserError
from tests.config.test_experiments import checked, options

CONF = PROJECT_ROOT / "conf/accelerate"
SHARDS = ("accelerate=fsdp", "adapter=full", "adapter.token_embedding=frozen")
SLURM = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}


@pytest.mark.parametrize("option", options("accelerate"))
def test_each_file_is_one_of_accelerates_own_and_passes_our_gates(option):
    theirs = load_config_from_file(str(CONF / f"{option}.yaml"))
    needed = SHARDS[1:] if option == "fsdp" else ()
    ours = checked("train", f"accelerate={option}", *needed).accelerate
    assert theirs.distributed_type.value == ours.distributed_type
    assert (theirs.num_processes, theirs.num_machines) == (ours.num_processes, ours.num_machines)


def test_the_default_is_one_process_that_needs_no_launcher():
    accelerate = checked("train").accelerate
    assert not may_launch(accelerate, {"DARKROOM_LAUNCH": "1"})
    require_as_configured(accelerate, {})
    require_as_configured(accelerate, {"WORLD_SIZE": "2"})  # torchrun, started by hand


def test_only_a_run_script_becomes_the_launcher_and_only_once():
    accelerate = checked("train", "accelerate=multi_cpu").accelerate
    assert may_launch(accelerate, {"DARKROOM_LAUNCH": "1"})
    assert not may_launch(accelerate, {})
    assert not may_launch(accelerate, {"DARKROOM_LAUNCH": "1", "WORLD_SIZE": "2"})


def test_without_a_launcher_or_with_another_number_of_processes_it_says_so():
    accelerate = checked("train", "accelerate=multi_cpu").accelerate
    require_as_configured(accelerate, {"WORLD_SIZE": "2"})
    with pytest.raises(UserError, match=r"none were started\. Use sh train_run\.sh"):
        require_as_configured(accelerate, {})
    with pytest.raises(UserError, match="num_processes=2, but the launcher started 1"):
        require_as_configured(accelerate, {"WORLD_SIZE": "1"})


def test_machines_come_from_slurm_from_the_environment_or_from_keys():
    accelerate = checked("train", "accelerate=multi_node", "accelerate.num_processes=16").accelerate
    flags = " ".join(plan_launch(accelerate, SLURM).flags())
    assert flags == (
        "--num_processes 16 --num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29500"
    )
    own = {"NNODES": "4", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    plan = plan_launch(accelerate, SLURM | own)
    assert (plan.num_machines, plan.machine_rank) == (4, 0)
    assert (plan.main_process_ip, plan.main_process_port) == ("a", 7)
    keys = ("num_machines=2", "machine_rank=0", "main_process_ip=b", "main_process_port=8")
    by_keys = checked("train", "accelerate=multi_node", *(f"accelerate.{key}" for key in keys)).accelerate
    by_keys.num_processes = 2
    plan = plan_launch(by_keys, SLURM | own)
    assert (plan.num_machines, plan.main_process_ip, plan.main_process_port) == (2, "b", 8)


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"num_machines": None}, {}, "num_machines is not known. Set it, or one of NNODES, SLURM_NNODES"),
        ({"num_machines": 2, "machine_rank": None}, {}, "machine_rank is not known"),
        ({"num_machines": 2}, {}, "MASTER_ADDR"),
        ({"num_machines": 2, "machine_rank": 2}, {}, "must be less than"),
        ({"num_machines": 2, "num_processes": 3, "main_process_ip": "a"}, {}, "must divide"),
        ({"num_processes": -1}, {}, "no GPU is visible"),
    ],
)
def test_what_is_missing_is_named(settings, environment, message):
    accelerate = AccelerateConfig(distributed_type="MULTI_GPU", **{"num_processes": 4, **settings})
    with pytest.raises(UserError, match=message):
        plan_launch(accelerate, environment)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["accelerate.num_processes=2"], "does not go with accelerate.distributed_type=NO"),
        (["accelerate=multi_gpu", "accelerate.num_processes=0"], "at least 1"),
        (["accelerate=multi_cpu", "accelerate.num_processes=-1"], "counts GPUs"),
        (
            ["accelerate=multi_gpu", "accelerate.distributed_type=MULTI_CPU"],
            "is not one of: NO, MULTI_GPU, FSDP",
        ),
        (["accelerate=fsdp"], "is for full fine-tuning of the UNet alone: adapter=full"),
        ([*SHARDS[:2], "adapter.token_embedding=train"], "adapter.token_embedding=frozen"),
        ([*SHARDS, "optimizer=prodigy", "optimizer.lr=1"], "goes with optimizer=adamw"),
        ([*SHARDS, "trainer.memory_preflight=true"], "measures one process at a time"),
        ([*SHARDS, "trainer.mixed_precision=fp16"], "does not go with trainer.mixed_precision=fp16"),
        (
            ["accelerate=cpu", "trainer.device=cuda"],
            "trainer.device=cuda contradicts accelerate.use_cpu=true",
        ),
        (["accelerate=gpu", "trainer.device=cpu"], "trainer.device=cpu contradicts accelerate.use_cpu=false"),
        (["accelerate=multi_cpu", "command=prepare"], "-cn prepare is one process"),
        (["queue=gpu", "logger=[tensorboard]"], "clearml among the loggers"),
        (["queue=gpu", "command=prepare"], "it goes with train"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        checked("train", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("accelerate=multi_gpu", "A sweep (-m) runs each job in one process"),
        ("queue=gpu", "does not go with a sweep (-m)"),
    ],
)
def test_what_a_sweep_cannot_do(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        _refuse_in_sweeps(checked("train", override))
