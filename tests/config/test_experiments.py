"""Every configuration that ships passes all gates."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.errors import UserError
from src.run.build_trainer import check_optimizer

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


@pytest.mark.parametrize("model", ["pocket", "sdxl", pytest.param("sd15", marks=pytest.mark.slow)])
def test_the_trainers_suit_every_model(model):
    usual = checked("train", f"model={model}").trainer
    low = checked("train", f"model={model}", "trainer=low_memory").trainer
    assert low.batch_size == 1
    assert low.gradient_accumulation_steps == usual.batch_size * usual.gradient_accumulation_steps
    assert low.max_steps == usual.max_steps
    best = checked("train", f"model={model}", "trainer=best_quality", "trainer.num_epochs=2").trainer
    assert best.max_steps is None
    checked("train", f"model={model}", "trainer=fast")


def test_eight_bits_are_for_frozen_weights():
    for full in ("adapter=full", "adapter.text_encoder=full"):
        with pytest.raises(UserError, match=r"trainer\.base_precision=auto"):
            checked("train", full, "trainer=low_memory")
    checked("train", "adapter=full", "trainer=low_memory", "trainer.base_precision=auto")


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
    own = ("model.path=/models/x", "model.suggested.lr=0.25")
    assert rates(*own) == usual
    assert rates(*own, "model.suggested_for=/models/x", "model.suggested.lr_token_embedding=null") == (
        0.25,
        5e-4,
    )


def test_the_default_adapter_suits_the_model_and_the_data():
    def adapter(*overrides):
        return checked("train", *overrides).adapter

    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    assert adapter().token_embedding == "train"
    assert set(adapter().target_modules) > set(attention)
    assert adapter("dataset.placeholder=null").token_embedding == "frozen"
    for plain in (("model=sd15",), ("model.path=/models/x",), ("adapter=lora",)):
        assert (adapter(*plain).token_embedding, adapter(*plain).target_modules) == ("frozen", attention)
    assert adapter("adapter.token_embedding=frozen").token_embedding == "frozen"


@pytest.mark.parametrize("option", options("adapter"))
def test_alpha_follows_the_rank_unless_given(option):
    def scale(*overrides):
        adapter = checked("train", f"adapter={option}", *overrides).adapter
        return adapter.alpha / adapter.rank

    assert scale() == scale("adapter.rank=4") == 1
    assert scale("adapter.rank=4", "adapter.alpha=1") == 0.25


def test_steps_and_schedule_suit_the_model():
    def plan(*overrides):
        config = checked("train", *overrides)
        return (config.trainer.batch_size, config.trainer.max_steps, config.optimizer.schedule)

    assert plan() != plan("model=sd15") == plan("model.path=/models/x") == (4, 300, "constant")
    assert plan("trainer.batch_size=2", "trainer.max_steps=5", "optimizer.schedule=linear") == (
        2,
        5,
        "linear",
    )
    assert plan("trainer.num_epochs=3")[1] is None


def test_num_epochs_replaces_the_default_number_of_steps():
    assert checked("train").trainer.max_steps is not None
    by_epochs = checked("train", "trainer.num_epochs=3").trainer
    assert (by_epochs.max_steps, by_epochs.num_epochs) == (None, 3)
    both = checked("train", "trainer.num_epochs=3", "trainer.max_steps=7").trainer
    assert (both.max_steps, both.num_epochs) == (7, 3)


def test_the_sample_prompts_speak_of_the_placeholder_or_else_the_class_word():
    assert (
        checked("train", "dataset.placeholder=mybear")
        .dataset.prompts[0]
        .startswith("a photo of mybear toy on")
    )
    nameless = checked("train", "dataset.placeholder=null", "dataset.class_word=bear").dataset.prompts
    assert nameless[-1] == "a pictogram of a bear"


def test_the_article_before_the_class_word_is_the_right_one():
    dataset = checked("train", "dataset.placeholder=null", "dataset.class_word=umbrella").dataset
    assert dataset.class_images.prompt == "a photo of an umbrella"
    assert dataset.prompts[0] == "a photo of an umbrella on a wooden table"
    # Where no file sets it, the word is "object".
    assert checked("train", "dataset=coco").dataset.class_images.prompt == "a photo of an object"


def test_the_warm_up_is_in_steps_or_in_passes():
    def warm_up(*overrides):
        optimizer = checked("train", *overrides).optimizer
        return (optimizer.warmup_steps, optimizer.warmup_epochs)

    assert warm_up() == (20, None), "the pocket's"
    assert warm_up("optimizer.warmup_epochs=0.5") == (None, 0.5)
    assert warm_up("optimizer.warmup_steps=7") == (7, None)
    with pytest.raises(UserError, match="are both set"):
        checked("train", "optimizer.warmup_epochs=1", "optimizer.warmup_steps=7")


@pytest.mark.parametrize("option", options("optimizer"))
def test_the_settings_of_every_optimiser_are_its_own(option):
    """They pass the optimiser's own checks, and a wrong one does not."""
    config = checked("train", f"optimizer={option}").optimizer
    check_optimizer(config)
    wrong = {
        **config.algorithm,
        **(
            {"clip_threshold": 1.0, "relative_step": True} if option == "adafactor" else {"betas": [2.0, 0.9]}
        ),
    }
    if option == "schedule_free":  # it checks nothing
        return
    with pytest.raises(UserError, match=r"optimizer\.algorithm \("):
        check_optimizer(dataclasses.replace(config, algorithm=wrong))


def test_shards_go_with_adamw_and_a_moving_average():
    sharded = ("accelerate=fsdp", "model=sd15", "adapter=full")
    assert checked("train", *sharded, "trainer.ema_decay=0.99").trainer.ema_decay == 0.99
    with pytest.raises(UserError, match="goes with optimizer=adamw only"):
        checked("train", *sharded, "optimizer=prodigy")


def test_two_averages_are_refused():
    with pytest.raises(UserError, match=r"Set trainer\.ema_decay=null"):
        checked("train", "optimizer=schedule_free", "trainer.ema_decay=0.9")


def test_a_rate_for_what_is_frozen_is_refused():
    with pytest.raises(UserError, match=r"Set adapter\.text_encoder_2=lora"):
        checked("train", "model=sdxl", "optimizer.lr_text_encoder_2=1e-5")
    both = ("model=sdxl", "adapter.text_encoder_2=lora", "optimizer.lr_text_encoder_2=1e-5")
    assert checked("train", *both).optimizer.lr_text_encoder_2 == 1e-5
