"""Clones and runs that several tests look at."""

from collections.abc import Iterator

import pytest
import torch

from tests.end_to_end.workbench import Bench, Clone, make_clone

# Short, with everything on: validation, checkpoints and sampling (at another shape) happen in the middle.
# Dropout, so that random states and modes that an observer does not put back are seen in the losses.
FEW_STEPS = (
    "trainer.max_steps=6",
    "trainer.batch_size=4",
    "trainer.log_every=4",
    "trainer.save_every=2",
    "trainer.validate_every=3",
    "trainer.num_validation_timesteps=2",
    "trainer.keep_checkpoints=9",
    "adapter.dropout=0.2",
)
SAMPLING = ("callbacks.samples.every=2", "callbacks.samples.num_steps=4", "callbacks.samples.height=96")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """As `git clone` leaves it: without data and models."""
    return make_clone(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def trained(clone: Clone) -> str:
    """What the very first `sh train_run.sh` in the clone printed: all callbacks, loggers and metrics on."""
    assert not list(clone.folder.glob("data/demo")) + list(clone.folder.glob("assets/pocket"))
    return clone.run("sh", "train_run.sh", *FEW_STEPS, *SAMPLING)


@pytest.fixture(scope="session")
def ready(clone: Clone, trained: str) -> Clone:
    """The clone with data, models and caches. Further runs in it go to folders of their own."""
    return clone


@pytest.fixture(scope="session")
def generated(ready: Clone) -> str:
    """What `sh infer_run.sh` printed afterwards."""
    return ready.run("sh", "infer_run.sh", "num_images=1")


@pytest.fixture(scope="session")
def bench(ready: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Runs inside this process, on one thread as in the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(root=ready.folder, output_dir=tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(before)
