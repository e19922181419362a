"""A step that does not fit: what is said, what is saved, and that the run goes on from there."""

import gc
import weakref

import pytest
import torch

from src.callbacks.base import Callback
from src.training.out_of_memory import OutOfMemory, is_out_of_memory
from tests.training.test_resume import Losses
from tests.training.tiny import same

REMEDIES = ("trainer.gradient_checkpointing=true", "trainer.batch_size=2")


def too_much_for_the_host():
    torch.empty(1 << 50)


def too_much_for_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def no_memory_for_python():
    raise MemoryError


@pytest.mark.parametrize("fail", [too_much_for_the_host, too_much_for_the_gpu, no_memory_for_python])
@pytest.mark.parametrize("backward", [False, True])
def test_it_names_batch_and_remedies_and_saves_what_was_trained(tiny, fail, backward):
    later = Losses()

    class Watch(Callback):
        held: list[bool]

        def on_exception(self, run, error):
            gc.collect()
            self.held = [reference() is not None for reference in activations]

    watch, activations, passes = Watch(), [], []
    # The third step's second micro-batch.
    settings = {"max_steps": 6, "log_every": 1, "batch_size": 2, "accumulation": 2}
    run = tiny("broken", callbacks=[watch], **settings)
    trainer = run.trainer()
    trainer._memory_remedies = REMEDIES

    def hook(module, _inputs, output):
        passes.append(1)
        if len(passes) == 6:
            failing = output * 2  # what a graph holds
            activations.append(weakref.ref(failing))
            if not backward:
                fail()
            failing.register_hook(lambda gradient: fail())
            return failing
        return output

    run.denoiser.out.register_forward_hook(hook)
    with pytest.raises(OutOfMemory) as caught:
        trainer.fit()
    message = str(caught.value)
    assert message.startswith("Out of memory at step 3, with a batch of 2 images of 16x16 pixels")
    assert message.index(REMEDIES[0]) < message.index(REMEDIES[1])
    assert watch.held == [False], "the failed step's tensors are gone before anything else needs memory"

    unbroken = tiny("unbroken", callbacks=[later], **settings)
    unbroken.trainer().fit()
    resumed = tiny("broken", resume="auto", **settings)
    again = resumed.trainer()
    again.restore()
    assert again._state.step == 2
    again.fit()
    assert same(resumed.weights(), unbroken.weights())


def test_other_errors_stay_what_they_are(tiny):
    run = tiny()
    trainer = run.trainer()

    def hook(*_):
        raise RuntimeError("shapes do not fit")

    run.denoiser.frozen.register_forward_hook(hook)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.fit()
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
