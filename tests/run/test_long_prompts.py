"""How many chunks a run's prompts have: settled by the dataset, written down, and taken up by inference."""

import logging

import pytest
import torch
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.config.cli import Job
from src.data.order import Draw
from src.files import read_json, write_json_atomic
from src.inference.grids import read_params
from src.inference.resolve import resolve_weights
from src.models.adapter_files import LORA_FILE, read_adapter_header
from src.models.adapters import attach
from src.models.export import save_adapter
from src.models.load import load_model
from src.run.build_data import prepare_data
from src.run.build_encoded import encoded_dataset
from src.run.build_inference import use_prompt_chunks
from src.run.build_model import fix_prompt_chunks
from src.run.drawn_class_images import base_and_drawn_images
from src.run.records import lineage_of
from src.training.accelerator import Agreement, make_accelerator
from src.training.objective import Objective
from tests.data.pictures import photo_folder
from tests.inference.runs import write_checkpoint
from tests.models.common import move, settings_for

LONG = "a red toy on a table, two dogs and a blue cup, " * 10


def configuration(root, *overrides, script="train"):
    register()
    places = [f"paths.{name}={root}" for name in ("cache_dir", "data_dir", "output_dir")]
    dataset = [f"dataset.path={root / 'photos'}"] if script == "train" else []
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return check_config(compose(script, overrides=[*places, *dataset, *overrides]))


def write_captions(root, last):
    captions = ["a photo of sksToy"] * 4 + [last]
    lines = [f"IMG_000{index}.png|{caption}\n" for index, caption in enumerate(captions)]
    (root / "photos" / "captions.txt").write_text("".join(lines))


@pytest.fixture
def photos(tmp_path):
    photo_folder(tmp_path / "photos", 5)
    write_captions(tmp_path, LONG)
    return tmp_path


def prepared(root, pocket, *overrides):
    config = configuration(root, *overrides)
    data = prepare_data(config, size=(64, 64))
    model = load_model(str(pocket))
    fix_prompt_chunks(config, data, model)
    return config, data, model


def test_the_longest_caption_decides_up_to_the_limit(photos, pocket_sd15):
    assert prepared(photos, pocket_sd15)[2].num_chunks == 1
    assert prepared(photos, pocket_sd15, "model.long_prompts=true")[2].num_chunks == 2
    write_captions(photos, LONG * 4)
    limited = prepared(photos, pocket_sd15, "model.long_prompts=true", "model.max_prompt_chunks=2")[2]
    assert (limited.num_chunks, limited.max_chunks) == (2, 2)


def test_what_is_cut_is_named_captions_and_prompts(photos, pocket_sd15, caplog):
    prompts = [f'dataset.prompts=["a toy","{LONG}"]', f'dataset.negative_prompt="{LONG}"']
    with caplog.at_level(logging.WARNING):
        prepared(photos, pocket_sd15, *prompts)
    text = caplog.text
    for name in ("IMG_0004.png: ", "dataset.prompts[1]: ", "dataset.negative_prompt: "):
        assert text.count(name) == 1
    assert "blue cup,'" in text
    assert "model.long_prompts=true" in text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prepared(photos, pocket_sd15, "model.long_prompts=true", *prompts)
    assert "Not seen" not in caplog.text


def test_cached_embeddings_are_those_of_the_loop_and_have_names_of_their_own(photos, pocket):
    seen = {}
    for overrides in ((), ("model.long_prompts=true",)):
        config, data, model = prepared(photos, pocket, *overrides)
        sides = {
            live: encoded_dataset(
                data.result.records, config=config, data=data, model=model, train=True,
                live_text=live,
            )
            for live in (True, False)
        }  # fmt: skip
        missing = sides[False].num_missing()[1]
        sides[False].fill()
        cache = sides[False].reader.text_cache
        for caption in ("", LONG.strip()):
            live = model.encode_text(model.tokenize([caption]))
            assert torch.equal(cache.get(caption).hidden, live[0][0])
        seen[overrides] = missing, cache.get(LONG.strip()).hidden.shape[0]
    assert list(seen.values()) == [(3, 77), (3, 154)]


def test_a_samples_loss_does_not_depend_on_its_neighbours(photos, pocket):
    """A short caption beside a long one is conditioned as beside short ones."""
    config, data, model = prepared(photos, pocket, "model.long_prompts=true")
    dataset = encoded_dataset(
        data.result.records, config=config, data=data, model=model, train=False, live_text=True
    )
    objective = Objective(
        prediction_type=model.prediction_type,
        alphas_cumprod=model.alphas_cumprod,
        min_snr_gamma=None,
        seed=0,
        tokenize=model.tokenize,
    )

    def loss(*ids):
        draws = [Draw(id=f"IMG_000{index}.png", pass_number=0) for index in ids]
        with torch.no_grad():
            batch = dataset.batch(draws, [1.0] * len(draws))
            return objective(model.denoiser, batch, device=torch.device("cpu")).per_sample[0]

    torch.testing.assert_close(loss(0, 4), loss(0, 1), rtol=1e-5, atol=0)


def test_class_images_are_drawn_with_all_of_their_prompt(photos, pocket_sd15):
    drawing = ["trainer.prior_loss_weight=1", f'dataset.class_images.prompt="{LONG}"']
    drawing += [f"dataset.class_images.{name}=1" for name in ("num", "num_steps", "batch_size")]
    accelerator = make_accelerator(device="cpu")
    for num_chunks, overrides in ((1, []), (2, ["model.long_prompts=true"])):
        _, drawn = base_and_drawn_images(
            configuration(photos, *drawing, *overrides),
            load=lambda: load_model(str(pocket_sd15)),
            dtype=torch.float32,
            size=(32, 32),
            accelerator=accelerator,
            agreement=Agreement(accelerator),
        )
        (record,) = drawn.records
        assert read_params(record.path)["prompt_chunks"] == num_chunks
        assert read_json(record.path.parent / "recipe.json")["num_chunks"] == num_chunks


@pytest.fixture
def adapter(photos, pocket_sd15):
    """A run that was trained with captions of two chunks."""
    config, data, model = prepared(photos, pocket_sd15, "model.long_prompts=true")
    move(attach(model, settings_for("sd15"), seed=1))
    run = photos / "train" / "toy"
    save_adapter(model, run / "adapter", metadata={})
    write_checkpoint(run, model, step=3, best_step=None)
    resolved = {
        "model": {"path": config.model.path},
        "dataset": {"name": "subject", "split_seed": 0},
        "trainer": {"seed": 0},
    }
    job = Job(run_dir=run, name="toy", resolved=resolved, overrides=[], in_sweep=False)
    write_json_atomic(run / "lineage.json", lineage_of(config, job, data, model, size=(64, 64)))
    return run


def test_inference_takes_it_from_the_header_or_the_run(adapter, photos, pocket_sd15, caplog):
    header = read_adapter_header(adapter / "adapter" / LORA_FILE)["metadata"]
    assert header["darkroom.prompt_chunks"] == "2"
    for weights in (adapter / "adapter", adapter / "checkpoints" / "step_00000003"):
        source = resolve_weights(str(weights), output_dir=photos)
        for override, expected in (([], (2, 3)), (["true"], (2, 3)), (["false"], (1, 1))):
            overrides = [f"model.long_prompts={value}" for value in override]
            model = load_model(str(pocket_sd15))
            caplog.clear()
            use_prompt_chunks(configuration(photos, *overrides, script="inference"), source, model)
            assert (model.num_chunks, model.max_chunks) == expected
            assert ("trained with long prompts" in caplog.text) == (expected == (1, 1))


def test_an_adapter_of_short_prompts_draws_short_ones_unless_asked(photos, pocket_sd15):
    model = load_model(str(pocket_sd15))
    move(attach(model, settings_for("sd15"), seed=1))
    save_adapter(model, photos / "adapter", metadata={})
    assert "darkroom.prompt_chunks" not in read_adapter_header(photos / "adapter" / LORA_FILE)["metadata"]
    source = resolve_weights(str(photos / "adapter"), output_dir=photos)
    for overrides, expected in (([], (1, 1)), (["model.long_prompts=true"], (1, 3))):
        model = load_model(str(pocket_sd15))
        use_prompt_chunks(configuration(photos, *overrides, script="inference"), source, model)
        assert (model.num_chunks, model.max_chunks) == expected
