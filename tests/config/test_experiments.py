"""Every configuration that ships passes all gates."""

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register

CONF = PROJECT_ROOT / "conf"


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def checked(root, *overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check_config(compose(root, overrides=list(overrides)))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment(experiment):
    checked("train", f"experiment={experiment}")


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={option}"
        for group in ("model", "dataset", "trainer", "adapter", "optimizer", "callbacks", "metrics", "paths")
        for option in options(group)
        if option != "from_adapter"
    ]
    + [f"logger=[{option}]" for option in options("logger")],
)
def test_an_option_of_a_group(override):
    checked("train", override)


def test_the_roots():
    assert checked("train").command == "train"
    assert checked("prepare").command == "prepare"
    assert checked("inference").command == "generate"


def rates(*overrides):
    optimizer = checked("train", *overrides).optimizer
    return (optimizer.lr, optimizer.lr_token_embedding)


def test_a_models_suggested_rates_hold_for_it_and_no_other():
    usual = (1e-4, 5e-4)
    assert all(own > other for own, other in zip(rates(), usual, strict=True))
    assert rates(f"model.path={PROJECT_ROOT}/assets/../assets/pocket/sd15") == rates()
    assert rates("model=sd15") == rates("model=sdxl") == rates("model=pocket_sdxl") == usual
    assert rates("model.path=/models/sdxl.safetensors") == usual
    assert rates("optimizer.lr=0.5")[0] == 0.5
    assert rates("model.path=/models/x", "model.suggested_lr=0.25") == (0.25, usual[1])


def test_num_epochs_replaces_the_default_number_of_steps():
    assert checked("train").trainer.max_steps is not None
    by_epochs = checked("train", "trainer.num_epochs=3").trainer
    assert (by_epochs.max_steps, by_epochs.num_epochs) == (None, 3)
    both = checked("train", "trainer.num_epochs=3", "trainer.max_steps=7").trainer
    assert (both.max_steps, both.num_epochs) == (7, 3)


def test_the_sample_prompts_speak_of_the_placeholder_or_else_the_class_word():
    assert (
        checked("train", "dataset.placeholder=mybear").dataset.prompts[0].startswith("a photo of mybear on")
    )
    nameless = checked("train", "dataset.placeholder=null", "dataset.class_word=bear").dataset.prompts
    assert nameless[-1] == "a painting of a bear"
