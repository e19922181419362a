"""The third gate, on the real allow-list and the real signatures."""

import copy
import sys

import pytest

from src.config.targets import SLOTS, _signature, build, check_blocks, check_external_blocks, resolve
from src.errors import UserError

GOOD = {
    "dataset": {
        "reader": {"_target_": "src.data.readers.subject.read_subject", "default_caption": "a photo"}
    },
    "optimizer": {"algorithm": {"_target_": "torch.optim.AdamW", "weight_decay": 0.1}},
    "callbacks": {"off": None},
    "logger": {"tensorboard": {"_target_": "src.loggers.tensorboard.TensorboardLogger"}},
}


def check_all(config):
    check_blocks(config)
    check_external_blocks(config)


def with_value(key, value):
    config = copy.deepcopy(GOOD)
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    return config


def test_the_shipped_blocks_pass():
    check_all(GOOD)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset.reader._target_", "os.system", "dataset.reader._target_=os.system is not allowed"),
        ("dataset.reader._target_", "logging.os.system", "is not allowed"),
        ("dataset.reader._target_", "src.data.readers.subject.Path", "is not allowed"),
        ("dataset.source", {"_target_": "src.data.readers.coco.read_coco"}, "is not allowed"),
        ("dataset.source", {"_target_": "src.data.sources.coco.CocoSource", "split": 1}, "Did you mean"),
        ("optimizer.algorithm._target_", "src.data.readers.subject.read_subject", "is not allowed"),
        ("dataset.reader", "read_subject", "must be a block"),
        ("dataset.reader.default_captoin", "x", "Did you mean dataset.reader.default_caption"),
        ("dataset.reader.path", "/etc", "set by the program"),
        ("optimizer.algorithm.weight_decy", 0.1, "Did you mean optimizer.algorithm.weight_decay"),
        ("optimizer.algorithm.lr", 0.1, "set by the program"),
        ("optimizer.algorithm.warmup_steps", 3, "set by the program"),
        ("optimizer.algorithm._target_", "schedulefree.SGDScheduleFree", "is not allowed"),
        ("logger.tensorboard.flush", 1, "logger.tensorboard.flush"),
        ("trainer.hook", {"_target_": "os.system"}, "trainer.hook: a _target_ is not allowed here"),
        ("optimizer.algorithm.betas", [{"_target_": "os.system"}], "not allowed here"),
    ],
)
def test_anything_else_is_refused_before_it_is_built(key, value, message):
    with pytest.raises(UserError, match=message):
        check_all(with_value(key, value))


def test_the_warm_up_is_the_schedules_alone():
    block = {"_target_": "schedulefree.AdamWScheduleFree", "warmup_steps": 3}
    with pytest.raises(UserError, match=r"optimizer\.algorithm\.warmup_steps is set by the program"):
        check_all(with_value("optimizer.algorithm", block))


@pytest.mark.parametrize(
    "gate",
    [
        resolve,
        lambda slot, block: check_all(GOOD | {"optimizer": {"algorithm": block}}),
    ],
)
def test_a_package_that_is_not_installed_is_one_line_with_the_remedy(monkeypatch, gate):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.optim", raising=False)
    _signature.cache_clear()
    with pytest.raises(UserError, match=r"needs the package bitsandbytes.*DARKROOM_EXTRAS=1"):
        gate("optimizer.algorithm", {"_target_": "bitsandbytes.optim.AdamW8bit"})


def test_building_checks_again():
    with pytest.raises(UserError, match="not allowed"):
        resolve("optimizer.algorithm", {"_target_": "os.system", "command": "true"})


def test_every_allowed_target_exists_and_has_a_signature():
    for slot in SLOTS.values():
        for target in slot.targets:
            assert _signature(target) is not None


def test_a_block_is_built_with_its_keywords_and_the_runtimes(tmp_path):
    logger = build(
        "logger",
        {"_target_": "src.loggers.tensorboard.TensorboardLogger", "flush_seconds": 3},
        run_dir=tmp_path,
        run_name="a",
        cache_dir=tmp_path,
        not_accepted=1,
    )
    assert str(tmp_path) in logger.where()
