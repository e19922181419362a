"""From the configuration to masks."""

import json

import numpy as np
import pytest
from PIL import Image

from src.errors import DatasetProblems
from src.run.build_data import prepare_data
from src.run.inspect import find
from src.run.records import hashes_of
from tests.run.test_class_images import compose, place, train  # noqa: F401  # place is a fixture


@pytest.fixture
def masked(place, tmp_path):  # noqa: F811
    """Photos with masks."""
    folder = tmp_path / "photos" / "masks"
    folder.mkdir()
    for number, photo in enumerate(sorted((tmp_path / "photos").glob("*.png"))):
        values = np.zeros((40, 48), dtype=np.uint8)
        values[10:30, 5 + number : 30] = 255
        Image.fromarray(values).save(folder / photo.name)
    return place


def test_masks_that_are_not_used_are_warned_of(masked, caplog):
    _, config = compose(*masked)
    data = prepare_data(config, size=(32, 32))
    assert data.masks == {}
    assert data.report.num_records == 6
    assert "6 images have masks, which are not used: set dataset.masks=files" in caplog.text
    assert hashes_of(data)["masks_hash"] is None


def test_what_is_wrong_is_refused_skipped_or_shown(masked, tmp_path):
    before = prepare_data(compose(*masked, "dataset.masks=files")[1], size=(32, 32))
    assert before.masks.keys() == before.report.hashes.keys()
    (tmp_path / "photos" / "masks" / "IMG_0003.png").unlink()
    _, config = compose(*masked, "dataset.masks=files")
    with pytest.raises(DatasetProblems, match=r"IMG_0003\.png: has no mask"):
        prepare_data(config, size=(32, 32))
    assert [problem.file for problem in find(config).problems] == ["IMG_0003.png"]
    _, config = compose(*masked, "dataset.masks=files", "dataset.on_problem=skip")
    data = prepare_data(config, size=(32, 32))
    assert data.report.num_records == 5
    assert hashes_of(data)["masks_hash"] != hashes_of(before)["masks_hash"]


def test_crops_that_show_nothing_of_their_mask_are_warned_of(masked, tmp_path, caplog):
    values = np.zeros((40, 48), dtype=np.uint8)
    values[:, :3] = 255  # The square in the middle begins within the fourth column.
    Image.fromarray(values).save(tmp_path / "photos" / "masks" / "IMG_0003.png")
    for override, is_warned in (("dataset.crop=center", True), ("dataset.crop=random", False)):
        caplog.clear()
        prepare_data(compose(*masked, "dataset.masks=files", override)[1], size=(32, 32))
        assert ("1 image shows nothing of its mask" in caplog.text) == is_warned
        assert ("teaches nothing: IMG_0003.png." in caplog.text) == is_warned
    values[:, 3] = 255
    Image.fromarray(values).save(tmp_path / "photos" / "masks" / "IMG_0003.png")
    caplog.clear()
    prepare_data(compose(*masked, "dataset.masks=files")[1], size=(32, 32))
    assert "teaches nothing" not in caplog.text


def _learned(logged):
    return [each for each in logged if each[1].startswith(("loss/", "grad_norm/", "lr/"))]


def test_a_run_learns_what_its_masks_show(masked, tmp_path):
    settings = ["dataset.masks=files", "dataset.flip=true", "trainer.max_steps=2"]
    cached, lineage = train(tmp_path / "cached", *masked, *settings)
    live, _ = train(tmp_path / "live", *masked, *settings, "dataset.cache=false")
    # Memory is logged, too, and differs.
    assert _learned(cached) == _learned(live)
    assert sum(name == "loss/train" for _, name, _ in cached) == 2
    assert lineage["masks_hash"] is not None
    (folder,) = (tmp_path / "cached" / "checkpoints").glob("step_*")
    agreed = json.loads((folder / "loop.json").read_text())["must_match"]
    assert agreed["masks_hash"] == lineage["masks_hash"]
    assert agreed["trainer.unmasked_weight"] == 0.1


@pytest.mark.slow
def test_a_run_with_all_of_it_is_sampled_as_it_was_trained(masked, tmp_path):
    """Masks, class images, v-prediction to zero SNR, no weights, other noise and timesteps in one run."""
    logged, _ = train(
        tmp_path / "run",
        *masked,
        "dataset.masks=files",
        "trainer.prediction_type=v_prediction",
        "trainer.zero_terminal_snr=true",
        "trainer.loss_weighting=none",
        "trainer.noise_offset=0.05",
        "trainer.timestep_sampling=logit_normal",
        "trainer.min_timestep=100",
        "trainer.prior_loss_weight=1",
        "dataset.class_images.num=2",
        "dataset.class_images.num_steps=1",
        "trainer.caption_dropout=0.5",
        "dataset.buckets.enabled=true",
    )
    assert {"loss/train", "loss/prior", "loss/validation"} <= {name for _, name, _ in logged}
    assert np.isfinite([value for _, _, value in logged]).all()
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "rescale_betas_zero_snr=True" in card
