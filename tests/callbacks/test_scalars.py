from pathlib import Path

from src.callbacks.scalars import ScalarsCallback
from tests.callbacks.recorder import SCALARS, VALIDATION, Recorder, make_run


def test_numbers_and_curves_reach_the_logger(tmp_path: Path) -> None:
    logger = Recorder()
    callback = ScalarsCallback()
    callback.on_log(make_run(logger, tmp_path, step=3), SCALARS)
    callback.on_validation_end(make_run(logger, tmp_path, step=4), VALIDATION)
    callback.on_memory(make_run(logger, tmp_path, step=5), {"memory_save/process": 1.5})
    assert logger.scalars == [
        (3, SCALARS),
        (4, {"loss/validation": 0.25, "loss/train_probe": 0.2}),
        (5, {"memory_save/process": 1.5}),
    ]
    assert logger.curves == [
        ("loss by timestep", "validation", [(1, 0.5), (500, 0.125)], 4),
        ("loss by timestep", "train_probe", [(1, 0.4), (500, 0.1)], 4),
    ]
