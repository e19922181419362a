import pytest

from src.config.adapter_schema import AdapterConfig
from src.config.dataset_schema import BucketsConfig, DatasetConfig
from src.config.optimizer_schema import OptimizerConfig
from src.config.schema import AdapterSourceConfig, InferenceConfig, ModelConfig, RunConfig
from src.config.trainer_schema import TrainerConfig
from src.errors import UserError

_PRODIGY = {"_target_": "prodigyopt.Prodigy"}
_SCHEDULE_FREE = {"_target_": "schedulefree.AdamWScheduleFree"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (TrainerConfig, "max_steps nor trainer.num_epochs"),
        (lambda: TrainerConfig(max_steps=0), "trainer.max_steps=0 must be at least 1"),
        (lambda: TrainerConfig(max_steps=1, batch_size=-2), "trainer.batch_size"),
        (lambda: TrainerConfig(max_steps=1, mixed_precision="fp8"), "trainer.mixed_precision"),
        (lambda: TrainerConfig(max_steps=1, caption_dropout=1.5), "trainer.caption_dropout"),
        (lambda: TrainerConfig(max_steps=1, ema_decay=1.0), "trainer.ema_decay=1.0 must lie between"),
        (lambda: OptimizerConfig(lr_text_encoder_2=0.0), "optimizer.lr_text_encoder_2=0.0"),
        (lambda: OptimizerConfig(warmup_steps=3, warmup_epochs=1.0), "are both set"),
        (lambda: OptimizerConfig(warmup_steps=None, warmup_epochs=-1.0), "optimizer.warmup_epochs=-1.0"),
        (lambda: OptimizerConfig(schedule="cosine", min_lr_ratio=1.5), "optimizer.min_lr_ratio=1.5"),
        (lambda: OptimizerConfig(min_lr_ratio=0.1), "no effect with optimizer.schedule=constant"),
        (lambda: OptimizerConfig(algorithm=_SCHEDULE_FREE, schedule="cosine"), "optimizer.schedule=constant"),
        (lambda: OptimizerConfig(algorithm=_PRODIGY, lr=1e-4), "Set optimizer.lr=1"),
        (
            lambda: OptimizerConfig(algorithm=_PRODIGY, lr=1.0, lr_text_encoder=0.5),
            "Set optimizer.lr_text_encoder=null",
        ),
        (lambda: AdapterConfig(rank=0), "adapter.rank=0"),
        (lambda: ModelConfig(max_prompt_chunks=1), "model.max_prompt_chunks=1 must be at least 2"),
        (lambda: AdapterConfig(unet="frozen"), "nothing to train"),
        (lambda: AdapterConfig(text_encoder="yes"), "adapter.text_encoder=yes"),
        (lambda: AdapterConfig(method="lohar"), "Did you mean loha"),
        (lambda: AdapterConfig(method="loha", dropout=0.1), "adapter.rank_dropout"),
        (lambda: AdapterConfig(method="lokr", rslora=True), "adapter.rslora=True is for adapter.method=lora"),
        (lambda: AdapterConfig(method="dora", rank_dropout=0.1), "for adapter.method=loha or lokr"),
        (lambda: AdapterConfig(lokr_factor=8), "adapter.lokr_factor=8 is for adapter.method=lokr"),
        (lambda: AdapterConfig(method="lokr", lokr_factor=1), "adapter.lokr_factor=1 must be at least 2"),
        (lambda: AdapterConfig(method="dora", unet="full"), "adapter.method=dora does nothing"),
        (lambda: AdapterConfig(rslora=True, unet="full"), "adapter.rslora=True does nothing"),
        (lambda: AdapterConfig(rank_pattern=8), "adapter.rank_pattern=8 must name layers and a whole number"),
        (
            lambda: AdapterConfig(rank_pattern={"to_k": 0}),
            "adapter.rank_pattern.to_k=0 must be a whole number",
        ),
        (lambda: AdapterConfig(rank_pattern={"to_k": 1.5}), "adapter.rank_pattern.to_k=1.5"),
        (
            lambda: AdapterConfig(alpha_pattern={"to_k": -1.0}),
            "adapter.alpha_pattern.to_k=-1.0 must be a number",
        ),
        (lambda: AdapterConfig(alpha_pattern={"to_k": "x"}), "adapter.alpha_pattern.to_k=x"),
        (
            lambda: AdapterConfig(rank_pattern={"to_k": 4}, unet="full"),
            "adapter.rank_pattern=.* does nothing",
        ),
        (lambda: AdapterConfig(num_token_vectors=2), "does nothing without adapter.token_embedding=train"),
        (lambda: AdapterConfig(num_token_vectors=33), "adapter.num_token_vectors=33"),
        (lambda: AdapterConfig(target_modules=[1]), "adapter.target_modules=.* must be names of layers"),
        (lambda: DatasetConfig(name="a", path="b", resolution=100), "96 and 104"),
        (lambda: BucketsConfig(step=20), "16 and 24"),
        (lambda: BucketsConfig(min_side=0), "dataset.buckets.min_side=0"),
        (lambda: BucketsConfig(max_upscale=0.0), "dataset.buckets.max_upscale"),
        (lambda: BucketsConfig(max_crop=1.0), "dataset.buckets.max_crop"),
        (lambda: DatasetConfig(name="a", path="b", placeholder="two words"), "one word"),
        (lambda: DatasetConfig(name="a", path="b", num_variants=3), "changes nothing"),
        (lambda: DatasetConfig(name="a", path="b", near_duplicates="alway"), "Did you mean always"),
        (lambda: DatasetConfig(name="a", path="b", validation_fraction=1.0), "validation_fraction"),
        (lambda: RunConfig(name="a/b"), "plain folder name"),
        (lambda: RunConfig(name=".."), "plain folder name"),
        (lambda: InferenceConfig(prompts=[]), "prompts"),
        (lambda: InferenceConfig(prompts=[1]), "prompts"),
        (lambda: InferenceConfig(width=100), "width=100"),
        (lambda: AdapterSourceConfig(weights=["a"]), "adapter.weights"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_one_rate_for_all_is_prodigys_own():
    assert OptimizerConfig(algorithm=_PRODIGY, lr=1.0, lr_text_encoder=1.0).lr == 1.0


def test_one_prompt_is_a_list_of_one():
    assert InferenceConfig(prompts="a cat").prompts == ["a cat"]


def test_one_layer_name_is_a_list_of_one():
    assert AdapterConfig(target_modules="kohya").target_modules == ["kohya"]
    assert AdapterConfig(text_target_modules=["fc1", "fc2"]).text_target_modules == ["fc1", "fc2"]


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert DatasetConfig(name="a", path="~/photos").path == "/home/me/photos"
    model = ModelConfig(name="a", path="~/sd15", vae_path="~/vae")
    assert (model.path, model.vae_path) == ("/home/me/sd15", "/home/me/vae")
    assert AdapterSourceConfig(weights="~/toy.safetensors").weights == "/home/me/toy.safetensors"
    assert DatasetConfig(name="a", path="~no_such_user/x").path == "~no_such_user/x"
