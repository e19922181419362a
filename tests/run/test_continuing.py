"""What is compared with a checkpoint before any work is done for its continuation."""

from dataclasses import replace

import pytest
import torch

from src.errors import UserError
from src.run.continuing import Continuity
from tests.run.test_class_images import compose
from tests.training.tiny import Tiny, make_images


def test_other_trained_weights_are_refused_before_work(tmp_path):
    run = Tiny(folder=tmp_path / "run", records=make_images(tmp_path / "images", 4), max_steps=1)
    run.trainer().fit()
    _, config = compose("model.path=/models/x", "trainer.resume=auto")

    def continuity(resume="auto"):
        trainer = replace(config.trainer, resume=resume)
        return Continuity(
            replace(config, trainer=trainer), run_dir=run.folder, num_processes=1, mixed_precision="no"
        )

    trained = run.weights()
    continuity().require_trained(trained)
    first, *others = sorted(trained)
    fewer = {name: trained[name] for name in others}
    with pytest.raises(UserError, match=rf"it has 1 weights \(such as {first}\) that this run does not"):
        continuity().require_trained(fewer)
    with pytest.raises(UserError, match=r"this run trains 1 weights \(such as up\) that it does not have"):
        continuity().require_trained({**trained, "up": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"1 weights \(such as {first}\) are of another shape"):
        continuity().require_trained({**trained, first: torch.zeros(1)})
    start = Continuity(config, run_dir=tmp_path / "new", num_processes=1, mixed_precision="no")
    start.require_trained(fewer)
