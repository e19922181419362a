"""The card beside an adapter's weights."""

import yaml

from src.data.readers.arasaac import CREDIT
from src.run.adapter_card import write_adapter_card
from tests.run.test_class_images import compose, place, train  # noqa: F401  # place is a fixture

HEADER = {
    "darkroom.run": "mine",
    "darkroom.base_model": "owner/model",
    "darkroom.dataset": "arasaac",
    "darkroom.dataset_hash": "0123456789abcdef",
    "darkroom.trigger_word": "",
    "darkroom.resolution": "512x512",
    "darkroom.step": "80",
    "darkroom.seed": "0",
}


def test_a_run_says_whom_to_credit(place, tmp_path):  # noqa: F811
    (tmp_path / "photos" / "ATTRIBUTION.txt").write_text(CREDIT)
    train(tmp_path / "run", *place)
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert CREDIT in card
    assert "| word that marks the subject | sksToy |" in card
    assert "| validation loss | 0." in card
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "diffusers", "tags": ["lora", "stable-diffusion", "text-to-image"]}


def test_without_credit_and_from_the_hub(tmp_path):
    _, config = compose("dataset.prompts=[]")
    write_adapter_card(tmp_path, config, HEADER, architecture="sdxl", loss=None)
    card = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/model"
    assert front["tags"] == ["stable-diffusion-xl", "text-to-image"]
    assert "| validation loss | not measured |" in card
    assert "credit" not in card
    assert "Prompts" not in card
    assert "Sampling" not in card


def test_how_to_sample_what_was_trained_to_another_schedule(tmp_path):
    _, config = compose(
        "trainer.prediction_type=v_prediction",
        "trainer.zero_terminal_snr=true",
        "trainer.loss_weighting=none",
    )
    write_adapter_card(tmp_path, config, HEADER, architecture="sd15", loss=None)
    card = (tmp_path / "README.md").read_text()
    code = card.split("```python")[1].split("```")[0]
    changes = 'prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"'
    assert f"pipeline.scheduler.config, {changes}" in code
