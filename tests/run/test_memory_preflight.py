"""The memory preflight: it leaves no trace, and what it proposes was tried and fits."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from src.config.build import PROJECT_ROOT
from src.errors import UserError
from src.models.load import load_model
from src.run.memory_preflight import _undone
from src.training.accelerator import make_accelerator
from tests.data.pictures import noise_image, photo_folder
from tests.run.test_class_images import compose, train

SAMPLES = [
    "callbacks.samples.num_steps=1",
    "callbacks.samples.every=9",
    "callbacks.samples.batch_size=2",
    'dataset.prompts=["a photo of a toy","another toy"]',
]


@pytest.fixture
def place(tmp_path, pocket_sd15):
    photo_folder(tmp_path / "photos", 9)
    for seed in range(3):
        (tmp_path / "others").mkdir(exist_ok=True)
        noise_image(100 + seed).save(tmp_path / "others" / f"{seed}.png")
    return [
        f"model.path={pocket_sd15}",
        f"dataset.path={tmp_path / 'photos'}",
        "dataset.resolution=32",
        f"paths.data_dir={tmp_path}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "adapter.rank=2",
        "trainer.device=cpu",
        "trainer.batch_size=4",
        "trainer.max_steps=2",
        "trainer.log_every=1",
        "trainer.num_validation_timesteps=1",
        "logger=[]",
        "metrics=none",
    ]


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without_it(place, tmp_path):
    settings = [
        "trainer.mixed_precision=bf16",
        "trainer.gradient_accumulation_steps=2",
        "trainer.prior_loss_weight=1",
        f"dataset.class_images.path={tmp_path / 'others'}",
        "adapter.dropout=0.1",
        *SAMPLES,
    ]
    plain, _ = train(tmp_path / "plain", *place, *settings)
    tried, _ = train(tmp_path / "tried", *place, *settings, "trainer.memory_preflight=true")
    assert _of_training(tried) == _of_training(plain)
    assert {"loss/train", "loss/prior", "loss/validation"} <= {name for _, name, _ in plain}
    (line,) = said(tmp_path / "tried")
    peaks = re.findall(r"(training step|validation|sample images) ([\d.]+) MB", line)
    assert [name for name, _ in peaks] == ["training step", "validation", "sample images"]
    assert float(peaks[0][1]) > float(peaks[1][1])

    # A smaller card: the first thing that is tried fits, and is what the error says.
    limit = float(peaks[0][1]) * 0.97
    message, attempts = refused(
        place, tmp_path / "small", *settings, f"trainer.memory_limit_gb={limit / 1000}"
    )
    assert "training step takes too much" in message
    assert "It fits with: trainer.gradient_checkpointing=true (training step" in message
    assert len(attempts) == 2
    assert attempts[0] == pytest.approx(float(peaks[0][1]), rel=0.01)
    assert attempts[1] < limit
    assert not (tmp_path / "small" / "checkpoints").exists()


def _of_training(logged):
    return [entry for entry in logged if not entry[1].startswith(("machine_", "memory_", "throughput/"))]


def refused(place, folder, *overrides):
    """The error, and the peak of each attempt's training step in MB."""
    with pytest.raises(UserError) as caught:
        train(folder, *place, "trainer.memory_preflight=true", *overrides)
    return str(caught.value), [float(re.search(r"step ([\d.]+) MB", line)[1]) for line in said(folder)]


def said(folder):
    """What the preflight logged of its attempts."""
    lines = (folder / "train.log").read_text().splitlines()
    return [line for line in lines if "Memory preflight" in line]


@pytest.mark.slow
def test_it_proposes_the_first_settings_that_fit(place, tmp_path):
    settings = ["trainer.batch_size=2", "adapter.rank=16", "callbacks.samples=null"]
    message, peaks = refused(place, tmp_path / "none", *settings, "trainer.memory_limit_gb=0.001")
    assert "Nor did anything that was tried, up to trainer.gradient_checkpointing=true" in message
    assert "trainer.batch_size=1 trainer.gradient_accumulation_steps=2" in message
    assert "trainer.base_precision=int8" in message
    assert "dataset.resolution=16" in message
    assert not (tmp_path / "none" / "adapter").exists()
    # AdamW's moments in 8 bits save nothing here: tensors this small keep theirs in fp32.
    assert all(later < 1.05 * earlier for earlier, later in pairwise(peaks)), peaks
    assert peaks[-1] < 0.6 * peaks[0]
    # Between the first and the third: checkpointing alone may or may not be enough.
    limit = (peaks[1] + peaks[2]) / 2
    fitting = [*settings, f"trainer.memory_limit_gb={limit / 1000}"]
    message, again = refused(place, tmp_path / "some", *fitting)
    assert again == pytest.approx(peaks[:3], rel=1e-3), "what is tried again takes the same"
    assert message.endswith(f"(training step {again[-1]:.1f} MB, validation {_validation(message)} MB).")
    proposed = re.search(r"It fits with: (.*) \(training step", message)[1].split()
    assert proposed[0] == "trainer.gradient_checkpointing=true"
    # To paste.
    pasted = [*fitting, *proposed, "trainer.memory_preflight=true"]
    logged, _ = train(tmp_path / "fits", *place, *pasted)
    assert logged


def _validation(message):
    return re.findall(r"validation ([\d.]+) MB", message)[-1]


def test_a_limit_without_the_preflight_is_refused():
    with pytest.raises(UserError, match="memory_limit_gb=3"):
        compose("trainer.memory_limit_gb=3")


@pytest.mark.slow
def test_two_ranks_try_alike(place, tmp_path):
    def run(name, *overrides):
        folder = tmp_path / "out" / "train" / name
        names = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
                *("train.py", *place, "adapter.text_encoder=frozen", "adapter.token_embedding=frozen"),
                *(f"paths.output_dir={tmp_path / 'out'}", f"run.name={name}", "model.dvc=null"),
                *("callbacks=none", "trainer.batch_size=2", *overrides),
            ],
            cwd=PROJECT_ROOT,
            env={name: v for name, v in os.environ.items() if name not in names} | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        return folder, done

    plain, done = run("plain")
    assert done.returncode == 0, done.stderr
    tried, done = run("tried", "trainer.memory_preflight=true")
    assert done.returncode == 0, done.stderr
    assert len(said(tried)) == 1
    weights = [next((folder / "checkpoints").glob("*2/weights.safetensors")) for folder in (plain, tried)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    limited = ["trainer.memory_preflight=true", "trainer.memory_limit_gb=0.001"]
    refused_at, done = run("refused", *limited)
    assert done.returncode != 0
    assert "Nor did anything that was tried" in done.stderr + done.stdout
    assert len(said(refused_at)) > 4


def test_what_a_step_that_failed_left_in_the_gradient_scaler_is_taken_back(pocket_sd15):
    """The next optimiser may get the id of the rehearsed one."""
    model, accelerator = load_model(str(pocket_sd15)), make_accelerator(device="cpu")
    weight = model.unet.conv_out.weight.requires_grad_(True)
    scaler = accelerator.scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(2):
        with _undone(model, accelerator, seed=0):
            scaler.scale(weight.sum()).backward()
            scaler.unscale_(optimizer)
